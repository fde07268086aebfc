"""Does a circuit really form? The checks that answer it, and the verdict they add up to.

What is judged is the circuit's *core*: the fewest of its strongest nodes that reach the wanted faithfulness (all
of them, if none do). Of it is asked, on the circuit's own prompts and on others:

- intact, reproduced: is the file as it was written, and do its attributions come out again?
- dictionary: do the SAEs' features write what they read, each nearest to its own decoder row among the active ones?
- task, contrast: does the model do the task at all, and does what is ablated decide it?
- faithfulness, features, necessity: does the core carry the decision; do its features without the errors; is it lost
  when the core alone is taken out?
- random: do the strongest nodes, at some number up to the core's, do better than random active nodes, as many of each
  site and kind?
- held out, paraphrase: does it carry the decision on prompts it was not found on?
- estimate: do attributions order the nodes as their measured effects do, and with the same signs?
- stability: do resampled prompts give the same core?

`THRESHOLDS` says what each has to reach. Failing one of `DECISIVE` is "not supported"; else everything has to pass for
"supported", and what fails, or can't be tested, makes it "weak".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from importlib.metadata import version
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from torch import Tensor
from tqdm.auto import tqdm

from circuitlens.adapter import LOGITS, Adapter
from circuitlens.aggregation import Keys, Piece, Table, effect_sums, node_sums
from circuitlens.attribution.gradient import VECTOR
from circuitlens.attribution.methods import Scored, score
from circuitlens.circuit import Circuit, Node
from circuitlens.circuit.evidence import Check, Curve, Effect, Evidence, Interval
from circuitlens.discovery import ProgressCallback, node
from circuitlens.errors import CircuitError, PromptError
from circuitlens.evaluation.defaults import DRAWS, PROMPTS, SEED, TOP
from circuitlens.evaluation.faithfulness import (
    INPUTS,
    AblationRuns,
    circuit_prompts,
    curve,
    interval,
    named_metric,
    node_counts,
    sub_circuits,
)
from circuitlens.evaluation.features import require_same_adapter
from circuitlens.literals import AblationKind, CheckStatus, MetricName, Verdict
from circuitlens.prompts.alignment import PromptSet, align, tokenize_pairs
from circuitlens.prompts.batch import Score
from circuitlens.prompts.pairs import Pair
from circuitlens.prompts.tasks import other_nouns, paraphrases

THRESHOLDS: Mapping[str, tuple[float, float]] = {
    "reproduced": (0.99, 0.999),
    "dictionary": (0.7, 0.8),
    "task": (0.7, 0.9),
    "margin": (0.35, 0.69),
    "contrast": (0.25, 0.5),
    "faithfulness": (0.5, 0.8),
    "features": (0.3, 0.5),
    "necessity": (0.2, 0.5),
    "random": (0.1, 0.25),
    "held out": (0.3, 0.5),
    "paraphrase": (0.3, 0.5),
    "estimate": (0.2, 0.4),
    "stability": (0.3, 0.5),
}
"""From which figure on each check is weak, and from which it passes."""

DECISIVE = ("intact", "reproduced", "dictionary", "task", "margin", "contrast", "faithfulness", "features", "random")
"""Checks without which there is no evidence at all."""

DIFFERENCES = ("logit_difference", "probability_difference")
"""Metrics that say whether an answer is right, by their sign."""

OPTIONAL = ("task", "margin", "dictionary", "paraphrase", "stability")
"""Checks that not every circuit can be put to: one of a single prompt has no prompts to resample."""

CONTROLLED = (10, 50)
"""Node counts, beside the core's, at which other prompts have random circuits too, `draws` runs each."""

SCORED = 4
"""How many times the prompts that are run are scored: a score costs less than all the runs."""

DICTIONARY = 1000
"""How many active features of a site are compared with each other, at most."""


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
        progress: told the stage, the checks done and the checks in all, after each check and between runs; what it
            raises ends the work and comes out.

    Raises:
        CircuitError: the circuit was made by another adapter, or a threshold, count or seed is not one.
        PromptError: the prompts can't be read, or the ablation needs corrupted prompts that are not there.
    """
    require_same_adapter(adapter, circuit)
    ablation = ablation or ("corrupted" if circuit.from_corrupted else "zero")
    wanted = {**THRESHOLDS, **(thresholds or {})}
    for name, (weak, passes) in wanted.items():
        if name not in THRESHOLDS or not -np.inf < weak <= passes < np.inf:
            raise CircuitError(
                f"There is no threshold {name!r} of {weak} and {passes}: the checks are {', '.join(THRESHOLDS)}, and "
                "weak evidence begins at or below what passes."
            )
    for name, count in (("draws", draws), ("top", top), ("prompts", prompts)):
        if count < 1:
            raise CircuitError(f"{name} is {count}: give a count of 1 or more.")
    if not 0 <= seed < 2**63:
        raise CircuitError(f"The seed is {seed}: give 0 or more, and less than 2**63.")
    with torch.inference_mode(False), torch.enable_grad(), tqdm(delay=1, disable=None, leave=False, unit="run") as bar:
        checks = _Verification(adapter, circuit, ablation, wanted, draws, top, prompts, seed, metric, bar, progress)
        return checks.result(held_out)


class _Verification:
    """The state that checks share: the prompts, their scores, and the runs on them."""

    def __init__(
        self,
        adapter: Adapter,
        circuit: Circuit,
        ablation: AblationKind,
        wanted: Mapping[str, tuple[float, float]],
        draws: int,
        top: int,
        prompts: int,
        seed: int,
        metric: MetricName | Score | None,
        bar: tqdm,
        progress: ProgressCallback | None,
    ):
        self.adapter, self.circuit, self.wanted = adapter, circuit, wanted
        self.ablation: AblationKind = ablation
        self.draws, self.top, self.prompts, self.seed = draws, top, prompts, seed
        self.metric: MetricName | Score = named_metric(circuit, metric)
        self.bar, self.progress, self.stage = bar, progress, "the file"
        self.stopped: BaseException | None = None
        self.random = torch.Generator().manual_seed(seed)
        self.checks: list[Check] = []
        kinds = {site.write: site.kind for site in adapter.sites}
        self.ranked = sorted(
            (n for n in circuit.nodes if n.kind != "logit" and kinds.get(n.hook) not in INPUTS and self._free(n.pos)),
            key=lambda n: -abs(n.attribution),
        )

    def result(self, held_out: Sequence[Pair] | None) -> Circuit:
        """Put every check and sum them up."""
        core: tuple[str, ...] = ()
        curves: list[Curve] = []
        effects: list[Effect] = []
        self._intact()
        own = circuit_prompts(self.adapter, self.circuit)
        self._begin("attribution and effects")
        tables, measured = self._scores(_some(own, SCORED * self.prompts, self.seed))
        total = reduce(Piece.merged, tables)
        self._reproduced(total, measured, len(own))
        own = _some(own, self.prompts, self.seed)
        nodes = [*self.ranked, *self._others(total)]
        self._begin("sub-circuits")
        runs = self._runs(own, nodes)
        decides = self._task(runs, own)
        if decides and self.ranked:
            count = self._core(runs)
            core = tuple(each.id for each in self.ranked[:count])
            counts = sorted({*node_counts(len(self.ranked)), count})
            controls = {n: self._controls(nodes, n) for n in counts}
            curves.append(curve(runs, self.ranked, counts, "found on", controls, self._ran))
            self._sufficient(curves[0], count)
            name, others = "held out", held_out
            if others is None:
                name, others = "other nouns", self._other_nouns(own)
            some = {n: controls[n] for n in counts if n in (count, *CONTROLLED)}
            self._elsewhere("held out", name, others, nodes, counts, count, some, curves)
            paraphrased = [each for pair in own.pairs for each in paraphrases(pair)[:1]]
            self._elsewhere("paraphrase", "paraphrase", paraphrased, nodes, [count], count, {}, curves)
            effects = self._estimate(measured, total.prompts)
            self._stability(tables, count)
        else:
            if decides:
                self._check("faithfulness", 0.0, "the circuit has no node that could be ablated")
            for name in self.wanted:
                if name not in {check.name for check in self.checks}:
                    self._not_tested(name, "there is no node" if decides else "there is no decision to explain")
        order = ["intact", *self.wanted]
        checks = tuple(sorted(self.checks, key=lambda check: order.index(check.name)))
        verdict, reasons = judge(checks)
        evidence = Evidence(
            verdict=verdict,
            reasons=reasons,
            digest=self.circuit.content_digest,
            created_by=f"circuitlens {version('circuitlens')}",
            ablation=self.ablation,
            core=core,
            checks=checks,
            curves=tuple(curves),
            effects=tuple(effects),
            seed=self.seed,
            draws=self.draws,
        )
        return self.circuit.model_copy(update={"evidence": evidence})

    def _begin(self, stage: str) -> None:
        self.stage = stage
        self.bar.set_description_str(stage)

    def _ran(self, runs: int = 1) -> None:
        self.bar.update(runs)
        self._tell()

    def _add(self, check: Check) -> None:
        self.checks.append(check)
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        try:
            self.progress(self.stage, len(self.checks), len(self.wanted) + 1)
        except BaseException as stop:
            self.stopped = stop
            raise

    def _free(self, group: int) -> bool:
        """Whether nodes there are ever ablated: with zero ablation the adapter's own first token is not."""
        return not (self.ablation == "zero" and self.adapter.bos and self.circuit.by != "sum" and group == 0)

    def _runs(self, aligned: PromptSet, nodes: Sequence[Node]) -> AblationRuns:
        return AblationRuns(self.adapter, self.circuit, aligned, self.ablation, nodes, self.metric)

    def _scores(self, own: PromptSet) -> tuple[list[Piece], Table]:
        """The node sums of up to 16 parts of the prompts, and the exact effects of the strongest nodes."""
        keys = Keys.of(self.adapter, own.labels)
        kept = self._numbers(keys, self.ranked[: self.top]).sort().values
        pieces, effects, own_rows = [], [], []
        for batch in own.batches(max(1, -(-len(own) // 16))):
            asked = tokenize_pairs(self.adapter, batch.pairs, self.metric)
            method = "ig" if self.circuit.method == "exact" else self.circuit.method
            scored = score(self.adapter, asked, method, self.circuit.frozen)
            pieces.append(node_sums(keys, batch, scored))
            effects.append(effect_sums(self.adapter, keys, batch, scored, kept))
            own_rows.append(self._own_rows(scored))
            self._ran()
        self._dictionary(torch.stack(own_rows).sum(0))
        return pieces, reduce(Table.merged, effects)

    def _own_rows(self, scored: Scored) -> Float[Tensor, " two"]:
        """How many active features there are at sites that are read where they are written, and how many of them have
        their own decoder row nearest to their encoder row.
        """
        nodes, counts = scored.nodes, torch.zeros(2, dtype=torch.double)
        for s, (site, seen) in enumerate(zip(self.adapter.sites, scored.clean.sites, strict=True)):
            if site.kind != "feature" or site.coder is None or site.read != site.write:
                continue
            here = ((nodes.site == s) & (nodes.index != VECTOR) & (nodes.activation != 0)).nonzero()[:, 0]
            # A row each: of many places where a feature is active any will do.
            index, place = nodes.index[here].unique(return_inverse=True)
            row = here.new_zeros(len(index)).scatter(0, place, here)[:DICTIONARY]
            x = seen.read.detach()[nodes.example[row], nodes.pos[row]]
            encoder, decoder = (
                torch.nn.functional.normalize(rows(x, nodes.index[row]).flatten(1), dim=1)
                for rows in (site.coder.encoder_rows, site.coder.decoder_rows)
            )
            own = (encoder @ decoder.T).argmax(1) == torch.arange(len(row), device=row.device) if len(row) else row
            counts += torch.tensor([len(row), int(own.sum())], dtype=torch.double)
        return counts

    def _dictionary(self, counts: Float[Tensor, " two"]) -> None:
        """Whether the SAEs' features write what they read."""
        features, own = counts.tolist()
        if not features:
            self._not_tested("dictionary", "no SAE writes where it reads")
            return
        self._check("dictionary", own / features, f"{own / features:.0%} of the active features write what they read")

    def _numbers(self, keys: Keys, nodes: Sequence[Node]) -> Int[Tensor, " node"]:
        site = {each.write: s for s, each in enumerate(self.adapter.sites)}
        for each in nodes:
            if each.hook not in site:
                raise CircuitError(
                    f"Node {each.id!r} is at the hook {each.hook!r}, which {self.adapter.name!r} has not."
                )
        columns = (
            [site[each.hook] for each in nodes],
            [each.pos for each in nodes],
            [VECTOR if each.index is None else each.index for each in nodes],
        )
        return keys.number(*(torch.tensor(column, dtype=torch.long) for column in columns))

    def _others(self, total: Piece) -> list[Node]:
        """Nodes that are active on the prompts and not in the circuit."""
        keys = Keys.of(self.adapter, self.circuit.tokens)
        known = set(self._numbers(keys, [n for n in self.circuit.nodes if n.kind != "logit"]).tolist())
        parts = zip(total.nodes.keys.tolist(), *(part.tolist() for part in keys.parts(total.nodes.keys)), strict=True)
        return [
            node(self.adapter, s, group, index, 0.0, 0.0)
            for key, s, group, index in parts
            if key not in known and s < keys.sites and self.adapter.sites[s].kind not in INPUTS and self._free(group)
        ]

    def _intact(self) -> None:
        status, reason = "passed", "nothing in it was edited after it was written"
        if self.circuit.edited:
            status, reason = "failed", "the file was edited after it was written: its digest does not fit"
        self._add(Check(name="intact", status=cast(CheckStatus, status), reason=reason))

    def _reproduced(self, total: Piece, measured: Table, prompts: int) -> None:
        """Compare the file's attributions with those found again; of a sample, as near as its size lets one say."""
        keys = Keys.of(self.adapter, self.circuit.tokens)
        exact = self.circuit.method == "exact"
        every = [each for each in self.circuit.nodes if each.hook != LOGITS]
        nodes, table = (self.ranked[: self.top], measured) if exact else (every, total.nodes)
        again = (table.at(self._numbers(keys, nodes))[:, 0] / total.prompts).tolist()
        sampled = total.prompts < prompts
        for each in every:
            if each.kind != (kind := self._kind(each)):
                self._check(
                    "reproduced", 0.0, f"{each.id} is called {each.kind} in the file and is {kind} in the model"
                )
                return
        largest = max([1e-12, *(abs(each.attribution) for each in nodes), *map(abs, again)])
        worst, off = None, 0.0
        for each, value in zip(nodes, again, strict=True):
            slack = 5 * (each.standard_error or 0.0) * (prompts / total.prompts) ** 0.5 if sampled else 0.0
            if (far := (abs(each.attribution - value) - slack) / largest) > off:
                worst, off = (each, value), far
        reason = f"attributions come out again, to {off:.0e} of the largest"
        if sampled:
            reason = (
                f"attributions come out again on {total.prompts} of the {prompts} prompts, as near as chance allows"
            )
        if worst is not None and 1 - off < self.wanted["reproduced"][1]:
            node, value = worst
            reason = f"{node.id} has attribution {node.attribution:+.3f} in the file and {value:+.3f} in the model"
        if not sampled:
            said, found = self.circuit.metric.value, total.metric[0].item() / prompts
            wrong = abs(said - found) / max(largest, abs(said), abs(found))
            if wrong > off:
                off = wrong
                if 1 - off < self.wanted["reproduced"][1]:
                    reason = f"the metric is {said:+.3f} in the file and {found:+.3f} in the model"
        self._check("reproduced", 1 - off, reason)

    def _kind(self, each: Node) -> str:
        """The kind of a node in the model."""
        site = next(site for site in self.adapter.sites if site.write == each.hook)
        return site.kind if site.coder is None or each.index is not None else "error"

    def _task(self, runs: AblationRuns, own: PromptSet) -> bool:
        """Whether there is a decision to explain: the model makes it, and what is ablated matters to it."""
        whole, none = runs.whole.mean().item(), runs.none.mean().item()
        metric = self.circuit.metric
        if metric.name in DIFFERENCES:
            right = ((runs.whole > 0) & (self._turns(own, runs) > 0)).float().mean().item()
            said = f"{metric} is {whole:+.3f}"
            reason = f"the model decides {right:.0%} of {len(own)} prompts right; {said}"
            if right < self.wanted["task"][1]:
                reason = f"the model fails the task: it decides {right:.0%} of {len(own)} prompts right; {said}"
                if not all(self._turns(own, runs) > 0):
                    reason += ", and a noun in the other number does not turn it"
            self._check("task", right, reason)
            self._margin(whole)
        else:
            for name in ("task", "margin"):
                self._not_tested(name, f"the metric {metric.name!r} does not say whether an answer is right")
        change = whole - none
        # One output's logit or log probability has no zero of its own: its change counts as it is, in nats.
        absolute = metric.name in ("logit", "log_probability", "kl_divergence")
        value = change if absolute else change / max(abs(whole), 1e-12)
        what = {"corrupted": "the corrupted prompts", "mean": "all nodes at their mean", "zero": "all nodes at zero"}
        reason = f"the metric is {whole:+.3f}, and {none:+.3f} with {what[self.ablation]}"
        if value < self.wanted["contrast"][1]:
            reason += (
                ": they hardly differ in what it measures" if abs(value) < 0.25 else ": a small part of it changes"
            )
            if value <= -0.25:
                reason = f"{reason.split(':')[0]}: what is ablated speaks against the answer"
        self._check("contrast", value, reason)
        return value >= self.wanted["contrast"][0]

    def _turns(self, own: PromptSet, runs: AblationRuns) -> Tensor:
        """Minus the metric of each corrupted prompt that has a noun in the other number: the distractor is right.

        1 for prompts that differ in anything else.
        """
        turned = torch.ones_like(runs.whole)
        flips = [n for n, pair in enumerate(own.pairs) if other_nouns(pair, 1)]
        if flips:
            asked = tokenize_pairs(self.adapter, [own.pairs[n] for n in flips], self.metric)
            assert asked.corrupted is not None, "they differ from one"
            with torch.no_grad():
                logits = asked.corrupted.at_last(self.adapter.run(asked.corrupted, {}))
                turned[flips] = -asked.metric(logits)
        return turned

    def _margin(self, mean: float) -> None:
        """How clearly the model prefers the answer, as the logarithm of its odds against the distractor."""
        odds = mean
        if self.circuit.metric.name == "probability_difference":
            odds = float(np.arctanh(np.clip(mean, -1 + 1e-9, 1 - 1e-9))) * 2
        reason = f"the odds for the answer are {np.exp(min(odds, 50)):.3g} to 1"
        if odds < self.wanted["margin"][1]:
            reason = f"the model fails the task: {reason}"
        self._check("margin", odds, reason)

    def _core(self, runs: AblationRuns) -> int:
        """The fewest of the strongest nodes that reach the wanted faithfulness, or all."""
        goal, low = self.wanted["faithfulness"][1], 0
        for count in node_counts(len(self.ranked)):
            counts = sorted({int(n) for n in np.linspace(low + 1, count, 16)})
            keep, _ = sub_circuits(runs, self.ranked, counts)
            reached = [
                n
                for n, f in zip(counts, runs.faithfulness(runs(keep, False, self._ran)), strict=True)
                if _closeness(f) >= goal
            ]
            if reached:
                return reached[0]
            low = count
        return len(self.ranked)

    def _controls(self, nodes: Sequence[Node], count: int) -> Bool[Tensor, "draw node"]:
        """Random circuits with as many nodes of each site and kind as the first `count` have, among active nodes.

        Where there are few, none is the circuit itself if there is another one.
        """
        groups: dict[tuple[str, str], list[int]] = {}
        for number, each in enumerate(nodes):
            groups.setdefault((each.hook, each.kind), []).append(number)
        own = torch.arange(len(nodes)) < count  # `nodes` begin with the ranked ones
        places = [torch.tensor(members) for _, members in sorted(groups.items())]
        sizes = [int(own[members].sum()) for members in places]
        others = any(0 < size < len(members) for size, members in zip(sizes, places, strict=True))
        keep = own.new_zeros(self.draws, len(nodes))
        for row in keep:
            while not row.any() or (others and torch.equal(row, own)):
                row[:] = False
                for size, members in zip(sizes, places, strict=True):
                    row[members[torch.randperm(len(members), generator=self.random)[:size]]] = True
        return keep

    def _sufficient(self, found_on: Curve, count: int) -> None:
        point = next(p for p in found_on.points if p.nodes == count)
        of = f"{count} of {len(self.ranked)} nodes"
        self._check(
            "faithfulness",
            _closeness(point.faithfulness),
            f"{of} alone give {point.faithfulness:.2f} of the decision",
        )
        self._check(
            "features",
            _closeness(point.errors_removed),
            f"without their errors, the SAEs' features give {point.errors_removed:.2f}",
        )
        self._check(
            "necessity",
            1 - point.completeness,
            f"with them ablated and all others kept, {1 - point.completeness:.2f} of the decision is lost",
        )
        # Near all nodes every circuit does well: the size that tells most is where chance does least beside it.
        tried = [(p, p.random) for p in found_on.points if p.random is not None and p.nodes <= count]
        gaps = [_closeness(p.faithfulness) - max(r.mean, 0.0) for p, r in tried]
        # A gap to the mean is worth little where some of the draws do as well.
        clear = [
            g if p.faithfulness > r.high else min(g, self.wanted["random"][0])
            for g, (p, r) in zip(gaps, tried, strict=True)
        ]
        gap = max(clear)
        best, random = tried[clear.index(gap)]
        self._check(
            "random",
            gap,
            f"at {best.nodes} nodes it gives {best.faithfulness:.2f}, and random active nodes, as many of each site "
            f"and kind, give {random.mean:.2f} ({random.low:.2f} to {random.high:.2f} in 95 % of {self.draws} draws)",
        )

    def _elsewhere(
        self,
        check: str,
        prompts: str,
        pairs: Sequence[Pair],
        nodes: Sequence[Node],
        counts: Sequence[int],
        count: int,
        controls: dict[int, Tensor],
        curves: list[Curve],
    ) -> None:
        """The same circuit on other prompts."""
        if not pairs:
            self._not_tested(check, "no such prompts were given, and none can be made of the circuit's own")
            return
        known = {pair.prompt for pair in self.circuit.questions}
        pairs = [pair for pair in pairs if pair.prompt not in known]
        if not pairs:
            self._not_tested(check, "the circuit was found on these prompts")
            return
        try:
            aligned = align(self.adapter, pairs, self.circuit.by or "position", self.circuit.tokens)
            aligned = _some(aligned, self.prompts, self.seed)
            self._begin(prompts)
            runs = self._runs(aligned, nodes)
            found = curve(runs, self.ranked, counts, prompts, controls, self._ran)
        except PromptError as error:
            if error is self.stopped:
                raise  # of the caller's own: it is no fault in the prompts
            self._not_tested(check, str(error)[0].lower() + str(error)[1:].rstrip("."))
            return
        curves.append(found)
        point = next(p for p in found.points if p.nodes == count)
        right = (runs.whole > 0).float().mean().item()
        if self.circuit.metric.name in DIFFERENCES and right < self.wanted["task"][0]:
            self._check(check, 0.0, f"the model fails the task on {found.pairs} prompts ({prompts}): {right:.0%} right")
            return
        self._check(
            check,
            _closeness(point.faithfulness),
            f"on {found.pairs} prompts ({prompts}) they give {point.faithfulness:.2f} of the decision",
        )

    def _other_nouns(self, own: PromptSet) -> list[Pair]:
        words = [word for pair in own.pairs for word in pair.prompt.split()]
        each = max(1, -(-min(32, self.prompts) // len(own)))
        return [
            new
            for n, pair in enumerate(own.pairs)
            for new in other_nouns(pair, each, seed=self.seed + n, exclude=words)
        ]

    def _estimate(self, measured: Table, prompts: int) -> list[Effect]:
        """Attributions against exact effects."""
        nodes = self.ranked[: self.top]
        keys = Keys.of(self.adapter, self.circuit.tokens)
        real = (measured.at(self._numbers(keys, nodes))[:, 0] / prompts).tolist()
        said = [each.attribution for each in nodes]
        effects = [Effect(node=each.id, predicted=p, measured=m) for each, p, m in zip(nodes, said, real, strict=True)]
        if len(set(said)) < 3 or len(set(real)) < 3:
            self._not_tested("estimate", "there are fewer than three different effects to order")
            return effects
        rank = float(spearmanr(said, real)[0])  # pyright: ignore[reportArgumentType]
        strong = [(p, m) for p, m in zip(said, real, strict=True) if abs(m) >= 0.01 * max(map(abs, real))]
        signs = sum(p * m > 0 for p, m in strong) / len(strong)
        self._check(
            "estimate",
            min(rank, 2 * signs - 1),
            f"attribution and measured effect of the {len(nodes)} strongest nodes: Spearman {rank:.2f}, same sign in "
            f"{signs:.0%} of those that matter",
        )
        return effects

    def _stability(self, tables: Sequence[Piece], count: int) -> None:
        """How much of the core the same number of strongest nodes of resampled prompts share."""
        if len(tables) < 4:
            self._not_tested("stability", "a circuit of fewer than four prompts has nothing to resample")
            return
        keys = Keys.of(self.adapter, self.circuit.tokens)
        inputs = torch.tensor([s for s, site in enumerate(self.adapter.sites) if site.kind in INPUTS] + [keys.sites])

        def strongest(piece: Piece) -> set[int]:
            site, group, _ = keys.parts(piece.nodes.keys)
            inner = ~torch.isin(site, inputs) & torch.tensor([self._free(g) for g in group.tolist()], dtype=torch.bool)
            order = piece.nodes.sums[inner, 0].abs().argsort(descending=True, stable=True)[:count]
            return set(piece.nodes.keys[inner][order].tolist())

        whole = strongest(reduce(Piece.merged, tables))
        shares = []
        for _ in range(self.draws):
            draw = torch.randint(len(tables), (len(tables),), generator=self.random).tolist()
            again = strongest(reduce(Piece.merged, [tables[number] for number in draw]))
            shares.append(len(whole & again) / max(len(whole | again), 1))
        spread: Interval = interval(shares)
        self._check(
            "stability",
            spread.mean,
            f"resampled prompts give cores that share {spread.mean:.0%} of it ({spread.low:.0%} to {spread.high:.0%})",
        )

    def _check(self, name: str, value: float, reason: str) -> None:
        weak, passes = self.wanted[name]
        status: CheckStatus = "passed" if value >= passes else "weak" if value >= weak else "failed"
        self._add(Check(name=name, status=status, value=value, weak=weak, supported=passes, reason=reason))

    def _not_tested(self, name: str, why: str) -> None:
        self._add(Check(name=name, status="not tested", reason=f"not tested: {why}"))


def _closeness(faithfulness: float) -> float:
    """Faithfulness as evidence: a circuit that overshoots by half is as far from the model as one that lacks half."""
    return min(faithfulness, 2 - faithfulness)


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


def _some(aligned: PromptSet, count: int, seed: int) -> PromptSet:
    """At most `count` of the prompts, drawn by seed, in their order."""
    if len(aligned) <= count:
        return aligned
    chosen = sorted(np.random.default_rng(seed).choice(len(aligned), count, replace=False).tolist())
    return PromptSet(
        tuple(aligned.pairs[n] for n in chosen),
        tuple(aligned.groups[n] for n in chosen),
        aligned.labels,
        aligned.skipped,
        aligned.by,
    )
