"""The verdict: the toy's circuits are supported, what checks add up to, and what a call may choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from circuitlens_toy import ToyAdapter
from torch import Tensor

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Check
from circuitlens.errors import CircuitError
from circuitlens.evaluation.checks import CHECKS, DECISIVE, OPTIONAL, THRESHOLDS
from circuitlens.evaluation.verification import judge, verify
from circuitlens.literals import CheckStatus, MethodName
from tests.evidence import CAT, CATS, TEST, TRAIN, check, edited, evidence_of, failing
from tests.tiny_transformer import TinyTransformer

METHODS: tuple[MethodName, ...] = ("gradient", "contrastive", "relp", "ig", "exact")
NAMES = [definition.name for definition in CHECKS]

# What is a circuit


@pytest.mark.parametrize(
    ("dtype", "method", "pair"),
    [
        *(("float32", method, pair) for method in METHODS for pair in (CATS, CAT)),
        ("float64", "gradient", CAT),
        ("float64", "exact", CATS),
    ],
)
def test_the_toys_pair_is_supported(dtype: str, method: MethodName, pair: tuple[str, str, str, str]) -> None:
    adapter = circuitlens.load("toy", dtype=dtype)
    circuit = circuitlens.find(adapter, *pair, method)
    verified = verify(adapter, circuit, prompts=8)
    evidence = verified.evidence
    assert evidence is not None
    assert verified.model_copy(update={"evidence": None}) == circuit
    assert evidence.verdict == "supported", evidence.reasons
    assert evidence.ablation == ("zero" if method == "gradient" else "corrupted")
    assert [c.name for c in evidence.checks] == NAMES
    assert {c.name for c in evidence.checks if c.status == "not tested"} == {"stability"}
    assert all(c.status == "passed" for c in evidence.checks if c.status != "not tested")
    assert evidence.digest == circuit.content_digest
    assert [curve.prompts for curve in evidence.curves] == ["found on", "other nouns", "paraphrase"]


@pytest.mark.parametrize("method", ["gradient", "ig"])
def test_a_circuit_of_many_prompts_is_supported_on_others(toy: ToyAdapter, method: MethodName) -> None:
    nouns = [{word for pair in pairs for word in pair.prompt.split()[1:]} for pairs in (TRAIN, TEST)]
    assert not nouns[0] & nouns[1]
    evidence = evidence_of(toy, circuitlens.aggregate(toy, TRAIN, method, max_edges=0), held_out=TEST, prompts=32)
    assert evidence.verdict == "supported", evidence.reasons
    assert {c.name for c in evidence.checks if c.status != "passed"} == {"edges", "path"}  # without edges
    assert [(curve.prompts, curve.pairs) for curve in evidence.curves] == [
        ("found on", 32),
        ("held out", 20),
        ("paraphrase", 32),
    ]


def test_without_a_corrupted_prompt_nothing_is_held_out_and_it_is_weak(toy: ToyAdapter, cats: Circuit) -> None:
    evidence = evidence_of(toy, cats)
    assert evidence.verdict == "weak"
    assert evidence.reasons == ("not tested: no such prompts were given, and none can be made of the circuit's own",)
    held_out = [pair for pair in TEST if pair.answer == ("run",)]
    assert evidence_of(toy, cats, held_out=held_out).verdict == "supported"


def test_evidence_edited_by_hand_is_measured_again(toy: ToyAdapter, contrast: Circuit, tmp_path: Path) -> None:
    few: dict[str, Any] = {"prompts": 4, "draws": 8}
    verified = verify(toy, contrast, **few)

    def pessimist(document: dict[str, Any]) -> None:
        document["evidence"]["verdict"] = "not supported"

    forged = edited(verified, tmp_path / "c.json", pessimist, forge=True)
    assert forged.evidence is not None
    assert forged.evidence.verdict == "not supported"
    assert verify(toy, forged, **few).evidence == verified.evidence
    seen = edited(verified, tmp_path / "c.json", pessimist)
    assert failing(evidence_of(toy, seen)) == ["intact"]


def made(statuses: Mapping[str, CheckStatus]) -> list[Check]:
    return [Check(name=name, status=statuses.get(name, "passed"), reason=f"about {name}") for name in NAMES]


def test_all_passed_is_supported_and_says_by_what() -> None:
    assert judge(made({})) == ("supported", ("about faithfulness", "about features", "about random"))
    assert judge(made(dict.fromkeys(OPTIONAL, "not tested")))[0] == "supported"


@pytest.mark.parametrize("name", NAMES)
def test_one_check_that_does_not_pass(name: str) -> None:
    expected = "not supported" if name in DECISIVE else "weak"
    assert judge(made({name: "failed"})) == (expected, (f"about {name}",))
    assert judge(made({name: "weak"})) == ("weak", (f"about {name}",))
    verdict, reasons = judge(made({name: "not tested"}))
    assert verdict == ("supported" if name in OPTIONAL else "weak")
    assert (f"about {name}" in reasons) == (name not in OPTIONAL)


def test_reasons_are_those_that_decide() -> None:
    checks = made({"features": "failed", "estimate": "failed", "stability": "weak", "held out": "not tested"})
    assert judge(checks) == ("not supported", ("about features",))
    checks = made({"stability": "weak", "estimate": "failed", "held out": "not tested"})
    assert judge(checks) == ("weak", ("about estimate", "about stability", "about held out"))


def test_thresholds_can_be_others(toy: ToyAdapter, contrast: Circuit) -> None:
    strict = evidence_of(toy, contrast, thresholds={"faithfulness": (0.5, 0.99)})
    assert check(strict, "faithfulness").supported == 0.99
    assert len(strict.core) == 10  # no fewer nodes reach it
    assert evidence_of(toy, contrast, thresholds={"random": (0.1, 0.9)}).verdict == "weak"
    assert evidence_of(toy, contrast, thresholds={"random": (0.8, 0.9)}).verdict == "not supported"
    for name, (weak, passes) in THRESHOLDS.items():
        assert (check(strict, name).weak, check(strict, name).supported) in {
            (weak, passes),
            (0.5, 0.99),
            (None, None),
        }


def test_lowered_thresholds_mark_the_verdict(toy: ToyAdapter, contrast: Circuit, tmp_path: Path) -> None:
    plain = evidence_of(toy, contrast)
    assert (plain.word, plain.lowered) == ("supported", ())
    assert "lowered" not in plain.model_dump()
    assert evidence_of(toy, contrast, thresholds={"random": (0.1, 0.26)}).lowered == ()
    few: dict[str, Any] = {"prompts": 4, "draws": 8, "thresholds": {"random": (0.05, 0.25)}}
    verified = verify(toy, contrast, **few)
    verified.save(tmp_path / "c.json")
    evidence = circuitlens.open(tmp_path / "c.json").evidence
    assert evidence is not None
    assert (evidence.verdict, evidence.lowered) == ("supported", ("random",))
    assert evidence.word == "supported (thresholds lowered)"


@pytest.mark.parametrize(
    "thresholds",
    [{"faith": (0.1, 0.2)}, {"random": (0.3, 0.2)}, {"random": (0.1, math.nan)}, {"random": (0.1, math.inf)}],
)
def test_a_threshold_that_is_none_is_refused(
    toy: ToyAdapter, contrast: Circuit, thresholds: dict[str, tuple[float, float]]
) -> None:
    with pytest.raises(CircuitError, match=r"There is no threshold '(faith|random)' of .*: the checks are reproduced"):
        verify(toy, contrast, thresholds=thresholds)


@pytest.mark.parametrize("option", [{"draws": 0}, {"top": 0}, {"prompts": -1}, {"seed": -1}, {"seed": 2**63}])
def test_a_count_or_seed_that_is_none_is_refused(toy: ToyAdapter, contrast: Circuit, option: dict[str, Any]) -> None:
    with pytest.raises(CircuitError, match=f"{next(iter(option))} is {next(iter(option.values()))}"):
        verify(toy, contrast, **option)


def test_the_seed_decides(toy: ToyAdapter, contrast: Circuit) -> None:
    one = evidence_of(toy, contrast, seed=3)
    torch.manual_seed(9)
    assert evidence_of(toy, contrast, seed=3) == one
    other = evidence_of(toy, contrast, seed=5)
    assert one.curves != other.curves
    assert (one.verdict, one.core) == (other.verdict, other.core)


def test_the_callers_random_state_is_untouched(toy: ToyAdapter, contrast: Circuit) -> None:
    before = torch.get_rng_state()
    evidence_of(toy, contrast)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_function_has_to_be_given_again(toy: ToyAdapter) -> None:
    circuit = circuitlens.find(toy, *CATS, metric=tripled)
    with pytest.raises(CircuitError, match="give it again as metric="):
        verify(toy, circuit)
    evidence = evidence_of(toy, circuit, metric=tripled)
    assert evidence.verdict == "supported"


def tripled(logits: Tensor) -> Tensor:
    return 3 * (logits[:, 1] - logits[:, 0])


def test_another_models_circuit_is_refused(contrast: Circuit) -> None:
    with pytest.raises(CircuitError, match="made with 'toy'"):
        verify(TinyTransformer(), contrast)


def test_a_circuit_of_no_nodes(toy: ToyAdapter, contrast: Circuit) -> None:
    evidence = evidence_of(toy, contrast.prune(max_nodes=0))
    assert evidence.verdict == "not supported"
    assert evidence.reasons == ("the circuit has no node that could be ablated",)
