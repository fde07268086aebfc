"""A feature's contexts in the page's words: text that stays text, and figures by hand."""

from __future__ import annotations

from dataclasses import replace

from circuitlens.corpus.reading import Context, FeatureRecord
from circuitlens.viewer.panels.contexts import contexts_panel


def record(*contexts: Context) -> FeatureRecord:
    sizes = ((0.5, 1.0, 0), (1.0, 1.4, 6), (1.4, 2.0, 0), (2.0, 2.8, 3), (2.8, 4.0, 0))
    return FeatureRecord("sae", 4, 9, 300, sizes, contexts, ())


def test_a_context_stands_around_its_token() -> None:
    tokens = tuple(f" t{n}" for n in range(30))
    heading, told, body = contexts_panel(record(Context(tokens, 12, 2.5)))
    assert (heading.children, told.children) == (
        "On the corpus",
        "Active at 3.0 % of 300 tokens of the corpus, most strongly in:",
    )
    context = body.children[0].children[0]
    before, mark, after = context.children
    assert (before, after) == ("".join(tokens[7:12]), "".join(tokens[13:21]))
    assert (mark.children, context.title) == ("␣t12", "2.50 at the marked token")


def test_a_histogram_goes_from_the_smallest_to_the_largest_size() -> None:
    *_, body = contexts_panel(record(Context((" a",), 0, 2.5)))
    bars, said = body.children[-2:]
    assert [bar.style["height"] for bar in bars.children] == ["100%", "0%", "50%"]
    assert said.children == "Sizes from 1 to 2.8, most often 1 and more."


def test_a_feature_of_one_size_needs_no_picture() -> None:
    one = replace(record(Context((" a",), 0, 2.5)), histogram=((0.5, 1.0, 0), (1.0, 1.4, 9)))
    assert contexts_panel(one)[-1].children[-1].children == "Its size is from 1 to 1.4 wherever it is active."


def test_what_no_corpus_knows_has_no_panel() -> None:
    assert contexts_panel(None) == []
    assert contexts_panel(record())[1].children == "Active at 3.0 % of 300 tokens of the corpus."
