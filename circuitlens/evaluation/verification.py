"""Does a circuit really form? `verify` puts the checks to it, and `judge` says what they add up to.

A circuit that fails a decisive check is not supported. Else every check has to pass for "supported" (those that are
optional may be untested), and what fails or can't be tested makes it "weak".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from circuitlens.adapter import Adapter
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Check, Evidence
from circuitlens.distribution import created_by
from circuitlens.errors import CircuitError, RunError
from circuitlens.evaluation.checks import CHECKS, DECISIVE, OPTIONAL, THRESHOLDS
from circuitlens.evaluation.circuit_inputs import circuit_metric, require_same_adapter
from circuitlens.evaluation.defaults import DRAWS, PROMPTS, SEED, TOP
from circuitlens.evaluation.measurements import Measurements, VerificationSettings
from circuitlens.literals import AblationKind, MetricName, Verdict
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.prompts.batch import Score
from circuitlens.prompts.pairs import Pair
from circuitlens.runfolder.measured import MeasuredRuns
from circuitlens.torch_modes import own_modes


def verify(
    adapter: Adapter,
    circuit: Circuit,
    held_out: Sequence[Pair] | None = None,
    *,
    ablation: AblationKind | None = None,
    thresholds: Mapping[str, tuple[float, float]] | None = None,
    draws: int = DRAWS,
    top: int = TOP,
    prompts: int = PROMPTS,
    seed: int = SEED,
    metric: MetricName | Score | None = None,
    run_folder: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
) -> Circuit:
    """Measure the evidence for a circuit and return the circuit with it.

    Args:
        adapter: the model it was found in.
        circuit: the circuit.
        held_out: prompts of the same task that it was not found on; by default its own prompts with other nouns, where
            what they differ in is the number of a noun.
        ablation: what nodes outside a circuit are set to; by default what attribution measured from.
        thresholds: other thresholds, by check: from where on it is weak, and from where on it passes.
        draws: random circuits to compare with.
        top: how many of the strongest nodes are patched for real.
        prompts: how many prompts of each kind to use, at most.
        seed: of draws and resampling.
        metric: where the circuit's was a function, the same again.
        run_folder: where what sub-circuits gave is kept, so that the same call goes on there after an interruption.
        progress: told the stage, the checks done and the checks in all, after each check and between runs; what it
            raises ends the work and comes out.

    Raises:
        CircuitError: the circuit was made by another adapter, or a threshold, count or seed is not one.
        PromptError: the prompts can't be read, or the ablation needs corrupted prompts that are not there.
        RunError: the folder can't be written.
    """
    require_same_adapter(adapter, circuit)
    _require_same_sites(adapter, circuit)
    wanted = _thresholds(thresholds or {})
    for name, count in (("draws", draws), ("top", top), ("prompts", prompts)):
        if count < 1:
            raise CircuitError(f"{name} is {count}: give a count of 1 or more.")
    if not 0 <= seed < 2**63:
        raise CircuitError(f"The seed is {seed}: give 0 or more, and less than 2**63.")
    ablation = ablation or ("corrupted" if circuit.from_corrupted else "zero")
    metric = circuit_metric(circuit, metric)
    measured_runs = None if run_folder is None else _kept_runs(Path(run_folder), circuit, metric)
    settings = VerificationSettings(ablation, wanted, draws, top, prompts, seed, metric, measured_runs)
    with own_modes(gradients=True), Progress(len(CHECKS), progress, unit="check") as steps:
        measured = Measurements(adapter, circuit, settings, held_out, lambda: steps.step(measured.stage, 0))
        checks: list[Check] = []
        for definition in CHECKS:
            checks.append(definition.run(measured))
            steps.step(measured.stage)
        return circuit.model_copy(update={"evidence": _evidence(measured, checks)})


def judge(checks: Sequence[Check]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of some checks, and the reasons for it: what failed, what is weak, or else what speaks for it."""
    failed = [check for check in checks if check.status == "failed"]
    decisive = [check for check in failed if check.name in DECISIVE]
    weak = [check for check in checks if check.status == "weak"]
    untested = [c for c in checks if c.status == "not tested" and c.name not in OPTIONAL]
    if decisive:
        return "not supported", tuple(check.reason for check in decisive)
    if failed or weak or untested:
        return "weak", tuple(check.reason for check in [*failed, *weak, *untested])
    return "supported", tuple(check.reason for check in checks if check.name in ("faithfulness", "features", "random"))


def _require_same_sites(adapter: Adapter, circuit: Circuit) -> None:
    """Raise CircuitError where there are other nodes beside the circuit's than those it was chosen from."""
    if circuit.fingerprint is None:
        return
    hooks, found = [site.write for site in adapter.sites], [site.hook for site in circuit.fingerprint.sites]
    if hooks != found:
        raise CircuitError(
            f"The circuit was found with sites at {', '.join(found)}, and this adapter has them at {', '.join(hooks)}: "
            "load the same SAEs, which the rest of the model is measured without."
        )


def _kept_runs(folder: Path, circuit: Circuit, metric: MetricName | Score) -> MeasuredRuns:
    """What was measured of a circuit, in a folder; its weights are known by its fingerprint."""
    if circuit.fingerprint is None or not isinstance(metric, str):
        raise RunError(
            "A folder keeps what is measured of a circuit whose weights and metric it can name: find the circuit again "
            "with this circuitlens, and name a metric."
        )
    return MeasuredRuns(folder, circuit.content_digest, circuit.fingerprint.model_dump_json(), metric)


def _thresholds(given: Mapping[str, tuple[float, float]]) -> Mapping[str, tuple[float, float]]:
    """Every check's thresholds, those given in the place of its own."""
    for name, (weak, passes) in given.items():
        if name not in THRESHOLDS or not (isfinite(weak) and isfinite(passes) and weak <= passes):
            raise CircuitError(
                f"There is no threshold {name!r} of {weak} and {passes}: the checks are {', '.join(THRESHOLDS)}, and "
                "weak evidence begins at or below what passes."
            )
    return {**THRESHOLDS, **given}


def _lowered(wanted: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The checks of which less is wanted than by default."""
    return tuple(name for name, own in THRESHOLDS.items() if wanted[name][0] < own[0] or wanted[name][1] < own[1])


def _evidence(measured: Measurements, checks: Sequence[Check]) -> Evidence:
    verdict, reasons = judge(checks)
    return Evidence(
        verdict=verdict,
        reasons=reasons,
        digest=measured.circuit.content_digest,
        created_by=created_by(),
        ablation=measured.settings.ablation,
        core=measured.core,
        checks=tuple(checks),
        curves=tuple(measured.curves),
        effects=measured.effects,
        seed=measured.settings.seed,
        draws=measured.settings.draws,
        lowered=_lowered(measured.settings.thresholds),
    )
