"""What each check measures and says, and that docs/evidence.md describes them as they are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from circuitlens_toy import ToyAdapter

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Evidence
from circuitlens.evaluation.checks import CHECKS, DECISIVE, OPTIONAL, THRESHOLDS
from circuitlens.evaluation.circuit_inputs import circuit_prompts
from circuitlens.evaluation.curves import sub_circuits
from circuitlens.evaluation.faithfulness import AblationRuns
from circuitlens.prompts.pairs import Pair
from tests.evidence import CATS, TEST, TRAIN, check, evidence_of

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_describes_the_checks_as_they_are() -> None:
    maker = runpy.run_path(str(DOCS / "make_tables.py"))
    shown = (DOCS / "evidence.md").read_text().split(maker["BEGIN"])[1].split(maker["END"])[0].strip()
    assert shown == maker["checks"](), "run `make docs`"
    rows = [re.split(r" *\| *", line)[1:-1] for line in shown.split("\n\n")[0].splitlines()[2:]]
    assert {name: (float(weak), float(passes)) for name, weak, passes, *_ in rows if weak != "–"} == dict(THRESHOLDS)
    assert [name for name, *_ in rows] == ["intact", *THRESHOLDS]
    for name, _, _, decisive, optional in rows:
        assert decisive == ("yes" if name in DECISIVE else "no"), name
        assert optional == ("yes" if name in OPTIONAL else "no"), name
        (said,) = re.findall(rf"^- \*\*{name}\*\*: (.*)", shown, re.MULTILINE)
        assert said[0].isupper()


def test_every_check_asks_a_question_and_says_what_its_figure_means() -> None:
    assert len({definition.name for definition in CHECKS}) == len(CHECKS)
    for definition in CHECKS:
        question, _, why = (definition.measure.__doc__ or "").partition("\n\n")
        assert question.endswith("?"), definition.name
        assert len(why.split()) > 5, definition.name


def test_the_core_is_the_fewest_strongest_nodes(
    toy: ToyAdapter, contrast: Circuit, contrast_evidence: Evidence
) -> None:
    inner = [n for n in contrast.nodes if n.kind not in ("logit", "input")]
    ranked = sorted(inner, key=lambda n: -abs(n.attribution))
    runs = AblationRuns(toy, contrast, circuit_prompts(toy, contrast), "corrupted", ranked)
    counts = list(range(1, len(ranked) + 1))
    reached = runs.faithfulness(runs(sub_circuits(runs, ranked, counts)[0], False))
    fewest = next(n for n, value in zip(counts, reached, strict=True) if 0.8 <= value <= 1.2)
    evidence = contrast_evidence
    assert evidence.core == tuple(n.id for n in ranked[:fewest])
    assert check(evidence, "faithfulness").value == pytest.approx(reached[fewest - 1])
    assert f"{fewest} of {len(ranked)} nodes alone" in check(evidence, "faithfulness").reason


def test_effects_are_those_of_ablating_each_node(toy64: ToyAdapter) -> None:
    circuit = circuitlens.find(toy64, *CATS)
    evidence = evidence_of(toy64, circuit)
    assert len(evidence.effects) == 10
    for effect in evidence.effects:
        result = circuitlens.ablate(toy64, circuit, [effect.node])
        assert (effect.predicted, effect.measured) == pytest.approx((result.predicted, result.measured), abs=1e-9)
    few = evidence_of(toy64, circuit, top=2)
    assert len(few.effects) == 2
    assert check(few, "estimate").reason.startswith("not tested: there are fewer than three")


def test_attributions_that_order_wrongly_fail_the_estimate(toy64: ToyAdapter) -> None:
    """Inputs kept aside, the toy is nearly linear; a threshold nothing reaches shows what the check does."""
    evidence = evidence_of(toy64, circuitlens.find(toy64, *CATS), thresholds={"estimate": (1.1, 1.2)})
    assert evidence.verdict == "weak"
    assert "same sign in 100% of those that matter" in check(evidence, "estimate").reason


def test_stability_needs_prompts_to_resample(toy: ToyAdapter) -> None:
    for count, tested in ((3, False), (4, True)):
        evidence = evidence_of(toy, circuitlens.aggregate(toy, TRAIN[:count]))
        assert (check(evidence, "stability").status != "not tested") == tested
    # All nouns are one to the toy, so resampled prompts differ in their shares of plurals only.
    assert check(evidence, "stability").value == pytest.approx(1, abs=0.3)


def test_held_out_prompts_that_are_the_circuits_own_are_no_test(toy: ToyAdapter, common: Circuit) -> None:
    own = list(common.pairs)
    evidence = evidence_of(toy, common, held_out=own)
    assert check(evidence, "held out").reason == "not tested: the circuit was found on these prompts"
    assert evidence.verdict == "weak"
    assert check(evidence_of(toy, common, held_out=[*own, *TEST[:3]]), "held out").reason.startswith("on 3 prompts")


def test_held_out_prompts_share_no_noun_in_any_number(toy: ToyAdapter, contrast: Circuit) -> None:
    cats = Pair(prompt="These cats", corrupted="This cat", answer=("run",), distractor=("runs",))
    alone = evidence_of(toy, contrast, held_out=[cats])
    told = "not tested: every held-out prompt has a noun of the circuit's: 'These cats' has 'cat'"
    assert (alone.verdict, check(alone, "held out").reason) == ("weak", told)
    more = check(evidence_of(toy, contrast, held_out=[cats, *TEST[:3]]), "held out")
    assert more.reason.startswith("on 3 prompts (held out), without 1 that have a noun of the circuit's, they give")


def test_a_circuit_that_fails_on_held_out_prompts_is_not_supported(toy: ToyAdapter, contrast: Circuit) -> None:
    others = [pair.model_copy(update={"answer": pair.distractor, "distractor": pair.answer}) for pair in TEST[:4]]
    evidence = evidence_of(toy, contrast, held_out=others)
    assert evidence.verdict == "not supported"
    assert evidence.reasons == ("the model fails the task on 4 prompts (held out): 0% right",)


def test_held_out_prompts_that_cannot_be_read_are_no_test(toy: ToyAdapter, common: Circuit) -> None:
    evidence = evidence_of(toy, common, held_out=[Pair(prompt="no", corrupted="none", answer=("run",))])
    assert check(evidence, "held out").reason.startswith("not tested: none of the 1 prompts can be used")
    assert evidence.verdict == "weak"


def test_metrics_that_know_no_right_answer(toy: ToyAdapter, contrast_evidence: Evidence) -> None:
    circuit = circuitlens.find(toy, "The cats", "run", None, "The cat", metric="log_probability")
    evidence = evidence_of(toy, circuit)
    assert check(evidence, "task").status == check(evidence, "margin").status == "not tested"
    assert "does not say whether an answer is right" in check(evidence, "task").reason
    odds = evidence_of(toy, circuitlens.find(toy, *CATS, metric="probability_difference"))
    whole = check(contrast_evidence, "margin").value
    assert check(odds, "margin").value == pytest.approx(whole, rel=1e-2)  # two outputs
