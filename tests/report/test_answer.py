"""A circuit's answer in words: every sentence by hand, for each metric and each state of the evidence."""

from __future__ import annotations

from typing import Any

import pytest

from circuitlens.circuit import ANSWER, DISTRACTOR
from circuitlens.circuit.evidence import Interval
from circuitlens.evaluation.alone import Alone
from circuitlens.evaluation.intervention import Outcome, OutputChange
from circuitlens.prompts.pairs import Pair
from circuitlens.report.answer import (
    Strong,
    Words,
    answer_path,
    describe_alone,
    describe_answer,
    describe_carriers,
    describe_known_loss,
    describe_outcome,
    describe_verdict,
    output_role,
    why_not_off,
    without_what,
)
from tests.circuit.handmade import NO, YES, at, chain, circuit, measured, node


def text(words: Words) -> str:
    return "".join(words)


def strong(words: Words) -> list[str]:
    return [str(part) for part in words if isinstance(part, Strong)]


def test_the_answer_of_a_verified_circuit() -> None:
    made = measured(chain())
    told = describe_answer(made)
    assert text(told) == "After “The cats” the model prefers yes over no (+4.27; −2.31 after “The cat”)."
    assert strong(told) == ["yes", "no"]
    assert text(describe_carriers(made)) == "2 features on “cats” alone carry 1.03 of it (1 is the whole model)."
    assert text(describe_verdict(made)) == "Supported."
    # Without them 0.25 of the way from −4 to 4 is left.
    loss = "With the core as in the corrupted prompt, the model prefers no over yes (−2.00; measured as evidence)."
    assert text(describe_known_loss(made)) == loss
    assert [n.id for n in without_what(made)[0]] == ["b", "a"]
    assert without_what(made)[1] == "the core"


def test_what_is_supported_says_why() -> None:
    made = measured(chain())
    assert made.evidence is not None
    (curve,) = made.evidence.curves
    (point,) = curve.points
    drawn = point.model_copy(update={"random": Interval(mean=0.1, low=-0.05, high=0.2)})
    nothing = point.model_copy(update={"random": Interval(mean=0.0, low=-0.001, high=0.0)})
    told = text(describe_verdict(measured(chain(), curves=(curve.model_copy(update={"points": (nothing,)}),))))
    assert told == "Supported. Random nodes in its place carry 0.00 to 0.00."
    other = point.model_copy(update={"faithfulness": 0.97})
    found_on = curve.model_copy(update={"points": (drawn,)})
    nouns = curve.model_copy(update={"prompts": "other nouns", "pairs": 32, "points": (other,)})
    why = "random nodes in its place carry −0.05 to 0.20."
    assert text(describe_verdict(measured(chain(), curves=(found_on,)))) == f"Supported. R{why[1:]}"
    told = text(describe_verdict(measured(chain(), curves=(found_on, nouns))))
    assert told == f"Supported. Its core carries 0.97 on 32 prompts with other nouns, and {why}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corrupted_value": None}, "prefers yes over no (+4.27)."),
        ({"value": -1.0}, "prefers no over yes (−1.00; −2.31 after “The cat”)."),
        ({"value": 0.0}, "is undecided between yes and no (+0.00; −2.31 after “The cat”)."),
        ({"answers": (YES, NO), "distractors": (NO,)}, "prefers yes or no over no (+4.27; −2.31 after “The cat”)."),
        ({"answers": (YES,) * 5}, "prefers yes, yes, yes or 2 more over no (+4.27; −2.31 after “The cat”)."),
        (
            {"name": "probability_difference", "value": 0.4, "corrupted_value": -0.1},
            "prefers yes over no (+0.40; −0.10 after “The cat”).",
        ),
        ({"name": "logit", "distractors": ()}, "gives yes a logit of +4.27 (−2.31 after “The cat”)."),
        (
            {"name": "log_probability", "distractors": (), "value": -0.6931472, "corrupted_value": -4.60517},
            "gives yes a probability of 50.0 % (1.0 % after “The cat”).",
        ),
        (
            {"name": "kl_divergence", "value": 1.5, "corrupted_value": 0.0},
            "answers otherwise than after the corrupted prompt, by 1.50 nats.",
        ),
        ({"name": "custom"}, "scores +4.27 in a function of its logits (−2.31 after “The cat”)."),
    ],
)
def test_the_answer_by_metric(changes: dict[str, Any], told: str) -> None:
    metric = chain().metric.model_copy(update=changes)
    assert text(describe_answer(chain(metric=metric))) == f"After “The cats” the model {told}"


def test_of_many_prompts_it_is_a_mean() -> None:
    pairs = (
        Pair(prompt="The cats", corrupted="The cat", answer=("run",), distractor=("runs",)),
        Pair(prompt="The dogs", corrupted="The dog", answer=("run",), distractor=("runs",)),
    )
    metric = chain().metric.model_copy(update={"answers": (), "distractors": ()})
    made = chain(pairs=pairs, by="position", metric=metric)
    assert text(describe_answer(made)) == (
        "On average over 2 prompts the model prefers the answer over the distractor (+4.27; −2.31 after their "
        "corrupted ones)."
    )
    ours, theirs = (at(2, node(name, 2, kind="logit"), label=name, index=None) for name in (ANSWER, DISTRACTOR))
    assert [output_role(made, one) for one in (ours, theirs, made.nodes[0])] == ["answer", "distractor", ""]


def test_of_a_long_prompt_the_end_is_said_and_what_differs() -> None:
    prompt = "Yesterday the rain had stopped and the neighbour told me quietly that the {} in the old wooden cabinet"
    told = text(describe_answer(chain(prompt=prompt.format("keys"), corrupted=prompt.format("key"))))
    assert told.startswith("After “… had stopped")
    assert "keys in the old wooden cabinet” the model" in told
    assert told.endswith("(+4.27; −2.31 with “key” for “keys”).")


def test_what_was_not_measured_is_said() -> None:
    made = chain()
    told = "2 features on “cats” make its strongest path; what they carry was not measured."
    assert text(describe_carriers(made)) == told
    assert text(describe_verdict(made)).startswith("Not measured.")
    assert describe_known_loss(made) == ()
    assert without_what(made)[1] == "the strongest path"
    other = measured(made, digest="of another")
    assert "of another circuit" in text(describe_verdict(other))
    assert text(describe_carriers(other)) == told


def test_what_does_not_hold_is_not_to_be_trusted() -> None:
    weak = measured(chain(), verdict="weak", reasons=("it gives 0.5",))
    assert text(describe_verdict(weak)) == "Weak evidence. It gives 0.5."
    failed = measured(chain(), verdict="not supported", reasons=("the model fails the task",), core=())
    assert text(describe_verdict(failed)) == "Not supported: do not trust it. The model fails the task."
    assert text(describe_carriers(failed)) == "No part of it carries the decision."
    edited = measured(chain()).model_copy(update={"digest": "another"})
    assert text(describe_verdict(edited)).startswith("Edited: do not trust it.")
    assert text(describe_carriers(edited)).endswith("was not measured.")
    lowered = measured(chain(), lowered=("faithfulness",))
    assert text(describe_verdict(lowered)) == "Supported (thresholds lowered)."


def test_neither_the_path_nor_what_is_switched_off_is_before_the_prompt() -> None:
    """The stronger path begins at BOS, which switching off leaves alone."""
    made = chain()
    path = answer_path(made)
    assert path is not None
    assert [n.id for n in path.nodes] == ["a", "b", "yes"]
    assert "before the prompt (BOS)" in why_not_off(made, made.node("bos"))
    assert "0 on this prompt already" in why_not_off(made, made.node("idle"))
    assert why_not_off(made, made.node("a")) == ""
    only = circuit(
        [n for n in made.nodes if n.id not in ("a", "idle")], {("bos", "b"): 8.0, ("b", "yes"): 2.0}, tokens=made.tokens
    )
    assert [n.id for n in without_what(only)[0]] == ["b"]
    text_token = chain(prompt="<|endoftext|>The cats")  # written by the reader, so that it is a part of the prompt
    assert text_token.strongest_path().nodes[0].id == "bos"


def test_a_circuit_without_its_answer_has_no_path() -> None:
    made = chain()
    bare = circuit([made.node("a")], {}, metric=made.metric, tokens=made.tokens)
    assert answer_path(bare) is None
    assert [n.id for n in without_what(bare)[0]] == ["a"]
    assert without_what(bare)[1] == "the strongest feature"
    assert describe_carriers(bare) == ()
    assert without_what(circuit([], {}))[0] == []


def test_an_outcome_says_who_wins_then() -> None:
    made = chain()
    outputs = (
        OutputChange(" the", 0.5, 0.4, False),
        OutputChange(" no", 0.1, 0.3, True),
        OutputChange(" yes", 0.2, 0.01, True),
    )
    outcome = Outcome((made.node("a"), made.node("b")), 4.266, -2.0, None, outputs)
    assert text(describe_outcome(made, outcome, {"a": 0, "b": 0})) == (
        "With them switched off the model prefers no over yes (+4.27 → −2.00): yes 20.0 % → 1.0 %; no 10.0 % → 30.0 %."
    )
    still = Outcome((made.node("a"),), 4.266, 2.0, None, ())
    told = text(describe_outcome(made, still, {"a": "corrupted"}))
    assert told == "With it set so the model still prefers yes over no (+4.27 → +2.00)."


def test_what_nodes_do_alone() -> None:
    told = describe_alone(chain(), Alone(4.4, 4.3, -2.3, 1.02, "corrupted"), 1)
    assert text(told) == (
        "This node alone carries 1.02 of it (measured): the model prefers yes over no (+4.40; all nodes +4.30, "
        "none −2.30)."
    )
