"""What attribution costs at GPT-2 small's sizes, as multiples of a plain forward + backward in the same run.

    python -m tests.benchmarks.gpt2_shapes [--rounds 5] [--json FILE]

Weights are random: the figures are about time and memory, and say nothing of GPT-2. 12 residual SAEs of 24 576
features, about 60 active a token. "Plain" is the model without SAEs: a forward, and a backward from the logit
difference to the embeddings with the parameters frozen. Rounds are interleaved, and medians are taken. "Naive" edges
are one full backward a target through the spliced model, timed on some targets and scaled to all of them. A circuit is
all that `find` does: nodes, edges between the 500 strongest, and the strongest of these measured. "Points" are the runs
with gradients that the way was given; on real prompts of SmolLM2 there are 9 to 17.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from circuitlens.attribution.attributions import attribute_nodes
from circuitlens.attribution.base import Runs
from circuitlens.attribution.edges import score_edges
from circuitlens.attribution.methods import measures_edges
from circuitlens.attribution.node_index import VECTOR
from circuitlens.attribution.nodes import score_nodes
from circuitlens.attribution.scores import NodeScores, conservation_residual
from circuitlens.attribution.way import Way
from circuitlens.discovery import MAX_EDGES, MAX_NODES, MEASURED_EDGES
from circuitlens.literals import MethodName
from circuitlens.pipeline import Search, run
from circuitlens.prompts.alignment import PromptSet
from circuitlens.prompts.batch import BatchMetric, PromptBatch
from circuitlens.prompts.pairs import Pair
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import Trace, trace
from tests.hub import write_gpt2

LAYERS, FEATURES, ACTIVE, TARGETS, NAIVE = 12, 24_576, 60, 64, 12
LENGTHS = (3, 10, 30)
AIMS = {"path": (15, 20, 40), "ig": (20, 26, 55), "contrastive": (None, None, None)}
BATCH = 8


def main() -> None:
    """Measure, print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--methods", nargs="*", default=list(AIMS), help="whose circuits are timed")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    adapter = build()
    short, long = Case(adapter, 8), Case(adapter, 256)
    # First, while the allocator holds nothing that it could hand out again.
    peaks = {name: peak(call) for name, call in (("8", short.all), ("256 (nodes)", long.nodes), ("256", long.all))}
    peaks["256 (plain)"] = peak(long.plain)
    times = interleaved(
        {
            "plain, 8 tokens": short.plain,
            "nodes, 8 tokens": short.nodes,
            "edges, 8 tokens": short.edges,
            "naive edges, 8 tokens": short.naive,
            "plain, 256 tokens": long.plain,
            "nodes, 256 tokens": long.nodes,
        },
        options.rounds,
    )
    targets = int(short.kept.sum())
    times["naive edges, 8 tokens"] *= targets / NAIVE
    plain, edges = times["plain, 8 tokens"], times["edges, 8 tokens"]
    rows = [
        ("plain forward + backward, 8 tokens", f"{plain * 1e3:.0f} ms", "", ""),
        ("nodes of 12 sites / plain", f"{times['nodes, 8 tokens'] / plain:.2f} ×", "≤ 1.5 ×", ""),
        (f"edges into {targets} targets / plain", f"{edges / plain:.2f} ×", "≤ 5 ×", ""),
        ("naive edges / edges", f"{times['naive edges, 8 tokens'] / edges:.0f} ×", "≥ 15 ×", f"from {NAIVE} targets"),
        ("peak memory above the weights, 8 tokens", f"{peaks['8'] / 1e6:.0f} MB", "< 600 MB", "nodes and edges"),
        (
            "nodes / plain, 256 tokens",
            f"{times['nodes, 256 tokens'] / times['plain, 256 tokens']:.2f} ×",
            "",
            f"plain {times['plain, 256 tokens'] * 1e3:.0f} ms",
        ),
        ("nodes, 256 / 8 tokens", f"{times['nodes, 256 tokens'] / times['nodes, 8 tokens']:.1f} ×", "≤ 32 ×", ""),
        ("peak memory above the weights, 256 tokens", f"{peaks['256'] / 1e6:.0f} MB", "bounded", "nodes and edges"),
        ("of which nodes", f"{peaks['256 (nodes)'] / 1e6:.0f} MB", "", f"plain {peaks['256 (plain)'] / 1e6:.0f} MB"),
    ]
    rows += circuits(adapter, options.methods, options.rounds)
    table = Table("measured", "", "target", "", title=f"{machine()}; {short.active:.0f} active features a token")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if options.json:
        document = {"machine": machine(), "seconds": times, "peak_bytes": peaks, "targets": targets, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def circuits(adapter: Any, methods: list[MethodName], rounds: int) -> list[tuple[str, str, str, str]]:
    """Rows of what whole circuits cost at several lengths, and of prompts a second alone and together."""
    rows = []
    for n, length in enumerate(LENGTHS):
        case = Case(adapter, length)
        calls = {"plain": case.plain, **{method: partial(case.circuit, method) for method in methods}}
        times = interleaved(calls, rounds)
        for method in methods:
            aim = AIMS[method][n] if method in AIMS else None
            said = f"{times[method]:.2f} s" + (f", {case.points()} points" if method == "path" else "")
            multiple = f"{times[method] / times['plain']:.1f} ×"
            rows.append((f"{method}, {length} tokens / plain", multiple, f"≤ {aim} ×" if aim else "", said))
    alone, together = Case(adapter, 10), Case(adapter, 10, BATCH)
    times = interleaved({"alone": alone.scored_by_path, "together": together.scored_by_path}, rounds)
    gain = BATCH * times["alone"] / times["together"]
    said = f"{1 / times['alone']:.2f} and {BATCH / times['together']:.2f} prompts a second"
    rows.append((f"nodes by path, prompts a second at batch {BATCH} / 1", f"{gain:.1f} ×", "≥ 3 ×", said))
    return rows


def build() -> Any:
    """A random GPT-2 small with an SAE on every layer's residual stream, about `ACTIVE` features active at a time."""
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    import circuitlens

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as home:
        write_gpt2(Path(home))
        tokenizer = AutoTokenizer.from_pretrained(next(Path(home).glob("hub/*/snapshots/*")))
        model = TransformerBridge.boot_transformers(
            "gpt2", hf_model=GPT2LMHeadModel(GPT2Config()).eval(), tokenizer=tokenizer, device="cpu"
        )
    tokens = _tokens(8)
    saes = []
    for layer in range(LAYERS):
        hook = f"blocks.{layer}.hook_resid_pre"
        metadata = SAEMetadata(hook_name=hook, model_name="gpt2", prepend_bos=True)
        sae = StandardSAE(StandardSAEConfig(d_in=768, d_sae=FEATURES, metadata=metadata))
        _, cache = model.run_with_cache(tokens, names_filter=hook)
        with torch.no_grad():
            sae.b_enc.sub_((cache[hook] @ sae.W_enc).quantile(1 - ACTIVE / FEATURES))
            for weights in (sae.W_enc, sae.b_enc):
                weights.div_(10)  # random tied weights would reconstruct d_sae / d_in times what they read
        saes.append(sae)
    return circuitlens.wrap(model, saes)


class Case:
    """One prompt length: random tokens, a logit difference, and the calls that are timed."""

    def __init__(self, adapter: Any, length: int, batch: int = 1):
        self.adapter = adapter
        self.inputs, self.corrupted = _inputs(adapter, length, batch), _inputs(adapter, length, batch)
        self.corrupted.values[:, 1] = torch.arange(1000, 1000 + batch)
        answer, distractor = (torch.full((batch, 1), index) for index in (100, 200))
        self.metric = BatchMetric(
            "logit_difference", answer, distractor, lambda logits: logits[:, 100] - logits[:, 200]
        )
        self.trace, self.scores = self._scored()
        self.kept = self._strongest()
        features = (self.scores.index != VECTOR) & (self.scores.site < LAYERS)
        self.active = int(features.sum()) / LAYERS / length

    def plain(self) -> None:
        """Forward + backward of the model without SAEs."""
        embedded: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            embedded.append(x.detach().requires_grad_())
            return embedded[0]

        logits = self.adapter.run(self.inputs, {"hook_embed": leaf})
        torch.autograd.grad(self.metric(self.inputs.at_last(logits)).sum(), embedded)

    def nodes(self) -> None:
        """Every node of every site."""
        self._scored()

    def edges(self) -> None:
        """Every edge into `TARGETS` targets a site, and what the others take."""
        edges = score_edges(self.trace, self.scores, self.kept)
        residual = conservation_residual(self.scores, edges, self.kept)
        assert residual < 1e-3 * float(self.scores.attribution.abs().max()), residual

    def all(self) -> None:
        """Nodes, then edges."""
        traced, scores = self._scored()
        score_edges(traced, scores, self.kept)

    def circuit(self, method: MethodName) -> None:
        """All that `find` does."""
        pair = Pair.model_construct(prompt="", corrupted="", answer=("",), distractor=("",))
        prompts = PromptSet.of_one(pair, self.inputs.tokens[0])
        batch = PromptBatch(self.inputs, self.corrupted, self.metric)
        measured = MEASURED_EDGES if measures_edges(method, True) else 0
        search = Search(self.adapter, prompts, batch, method, None, False, MAX_NODES, MAX_EDGES, measured)
        with own_modes(gradients=True):
            run(search)

    def scored_by_path(self) -> None:
        """The nodes by the default method, of all prompts together."""
        attribute_nodes(self.adapter, PromptBatch(self.inputs, self.corrupted, self.metric), "path")

    def points(self) -> int:
        """Points of the way that are run with gradients."""
        clean = trace(self.adapter, self.inputs, self.metric)
        corrupted = trace(self.adapter, self.corrupted, self.metric, graph=False)
        points, _, _ = Way(Runs(self.adapter, clean, corrupted)).integrate()
        return len(points) - 2

    def naive(self) -> None:
        """One full backward a target: from a feature back through the model with every SAE in it."""
        leaves: list[Tensor] = []
        targets: list[Tensor] = []

        def splice(x: Tensor, coder: Any) -> Tensor:
            f = coder.encode(x)
            targets.append(f)
            if not leaves:
                leaves.append(f)
            decoded = coder.decode(f)
            return decoded + (x - decoded).detach()

        hooks: dict[str, Any] = {"hook_embed": lambda x: x.detach().requires_grad_()}
        for site in self.adapter.sites:
            if site.coder is not None:
                hooks[site.write] = lambda x, coder=site.coder: splice(x, coder)
        self.adapter.run(self.inputs, hooks)
        for n in range(NAIVE):
            f = targets[LAYERS - 1 - n % (LAYERS - 1)]
            torch.autograd.grad(f.flatten()[f.flatten().argmax()], leaves, retain_graph=True)

    def _scored(self) -> tuple[Trace, NodeScores]:
        traced = trace(self.adapter, self.inputs, self.metric)
        return traced, score_nodes(traced)

    def _strongest(self) -> Tensor:
        kept = self.scores.site == len(self.adapter.sites)
        for s in range(len(self.adapter.sites)):
            here = (self.scores.site == s).nonzero()[:, 0]
            kept[here[self.scores.attribution[here].abs().argsort(descending=True)[:TARGETS]]] = True
        return kept


def _inputs(adapter: Any, length: int, batch: int = 1) -> Any:
    inputs = adapter.inputs(["The"])
    values, mask = _tokens(length).repeat(batch, 1), torch.ones(batch, length, dtype=torch.bool)
    return type(inputs)(values, mask, (("?",) * length,) * batch)


def _tokens(length: int) -> Tensor:
    return torch.randint(0, 50_000, (1, length), generator=torch.Generator().manual_seed(length))


def interleaved(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all of them in turn in every round, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if n:
                found[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in found.items()}


def peak(call: Callable[[], None]) -> int:
    """Most bytes that a call takes above what is held before it."""
    with suppress(OSError, AttributeError):  # glibc: give back what was freed
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with _watched() as seen:
        call()
    return max(seen) - seen[0]


@contextmanager
def _watched() -> Iterator[list[int]]:
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def machine() -> str:
    """The machine, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


if __name__ == "__main__":
    main()
