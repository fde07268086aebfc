"""What a model makes of a form's texts: tokens, likely answers, answers to mend, and the time."""

from __future__ import annotations

import json

import pytest

from circuitlens.adapter import Adapter
from circuitlens.report.text import about
from circuitlens.viewer.panels.preview import preview_panel
from circuitlens.viewer.preview import Preview, outputs_of, preview, seconds_for
from tests.models import SAE_LENS_LAYOUTS
from tests.saelens import wrapped
from tests.tiny_transformer import TinyTransformer


@pytest.fixture(scope="module")
def gpt2() -> Adapter:
    return wrapped(SAE_LENS_LAYOUTS[0])


def panel(known: Preview) -> str:
    typed = {"prompt": "", "corrupted": "".join(known.tokens[1])}
    return " ".join(json.dumps(part.to_plotly_json(), default=str) for part in preview_panel(known, typed, ""))


def test_likely_outputs_are_those_of_a_run_and_can_be_asked_for() -> None:
    adapter = TinyTransformer()
    known = preview(adapter, "a b c", "a b f", {})
    assert known.tokens == (("a", "b", "c"), ("a", "b", "f"))
    assert known.aligned
    for prompt, likely in zip(("a b c", "a b f"), known.likely, strict=True):
        inputs = adapter.inputs([prompt])
        shares = adapter.last_logits(inputs, {})[0].softmax(0)
        values, indices = shares.topk(5)
        # Padding can't be asked for.
        expected = {adapter.output_label(int(n)): float(v) for n, v in zip(indices, values, strict=True) if n}
        assert dict(likely) == pytest.approx(expected)
        assert len(likely) == len(expected) >= 4
    assert known.seconds > 0
    assert "1 of 3 tokens differ" in panel(known)


def test_prompts_of_other_lengths_are_told_at_once() -> None:
    known = preview(TinyTransformer(), "a b c", "a b", {})
    assert known.aligned is False
    assert "The prompt has 3 tokens and the corrupted one 2: make them as long." in panel(known)
    assert "The two prompts are the same." in panel(preview(TinyTransformer(), "a b", "a b", {}))
    alone = preview(TinyTransformer(), "a b", "", {})
    assert (alone.aligned, alone.tokens[1]) == (None, ())


def test_a_prompt_that_can_not_be_read_is_a_sentence() -> None:
    known = preview(TinyTransformer(), "a x", "a b", {"answer": "d"})
    assert known.tokens == ((), ("a", "b"))
    assert "give prompts of the words" in known.faults[0]
    assert known.repairs == ()


@pytest.mark.parametrize(
    ("answer", "meant"),
    [("run", " run"), (" run", None), ("run| runs", " run| runs"), ("", None), ("zzzzqqq", None)],
)
def test_an_answer_is_offered_with_its_space(gpt2: Adapter, answer: str, meant: str | None) -> None:
    known = preview(gpt2, "The cats", "", {"answer": answer})
    assert known.repairs == (() if meant is None else (("answer", answer, meant),))


def test_several_answers_stand_in_one_field() -> None:
    assert outputs_of(" is| are") == [" is", " are"]
    assert outputs_of(" a, b") == [" a, b"]
    assert outputs_of("|") == ["|"]  # a token of its own


def test_chat_prompts_follow_the_template(gpt2: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preview(gpt2, "The cats", "", {}).chat is None
    tokenizer = gpt2._text.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}[assistant]\n"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    made = gpt2.as_chat("The cats")
    assert made is not None
    assert made.endswith("[user]\nThe cats\n[assistant]")
    assert made.startswith("[user]") == gpt2.bos  # the adapter puts BOS there itself
    assert preview(gpt2, "The cats", "", {}).chat == (made, "")
    assert preview(gpt2, made, "", {}).chat is None


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('Only turns of a <b>system</b>') }}", "TemplateError: Only turns of a <b>system</b>"),
        ("{% for x in %}", "TemplateSyntaxError"),
        ("{{ messages[7].content.upper() }}", "UndefinedError"),
    ],
)
def test_a_chat_template_that_fails_is_a_sentence(
    gpt2: Adapter, monkeypatch: pytest.MonkeyPatch, template: str, told: str
) -> None:
    tokenizer = gpt2._text.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    known = preview(gpt2, "The cats", "", {"answer": "run"})
    assert known.chat is None
    assert known.no_chat.startswith(f"The model's chat template can't be used on this prompt ({told}")
    assert known.repairs == (("answer", "run", " run"),)  # the rest of the preview is there
    assert told in panel(known)


def test_templates_without_jinja_say_what_to_install(gpt2: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object, **__: object) -> str:
        raise ImportError("apply_chat_template requires jinja2 to be installed")

    tokenizer = gpt2._text.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages }}")
    monkeypatch.setattr(tokenizer, "apply_chat_template", lacking)
    assert "pip install 'jinja2>=3.1'" in preview(gpt2, "The cats", "", {}).no_chat


def test_the_time_is_that_of_the_last_circuit_or_of_a_run() -> None:
    known = Preview(tokens=(("a",) * 10, ("b",) * 10), seconds=0.5)
    assert seconds_for(known, None, 2.0) == 20
    assert seconds_for(known, "gradient", None) == 3.0 * 10 * 0.5
    assert seconds_for(known, None, None) == 6.5 * 10 * 0.5  # by the default with a corrupted prompt
    assert seconds_for(Preview(), None, None) is None
    assert [about(s) for s in (0.1, 4.4, 38.0, 95.0, 300.0, 4000.0)] == [
        *("a second or two", "about 4 seconds", "about 40 seconds", "about 2 minutes", "about 5 minutes"),
        "about 70 minutes",
    ]
