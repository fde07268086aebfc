"""The stages of a search: what a batch gives at each, and how the batches' pieces are joined into a circuit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from circuitlens.attribution.attributions import Attributions, attribute_edges, attribute_nodes, steps_of_batch
from circuitlens.attribution.methods import METHODS
from circuitlens.attribution.sums import BatchSums, EdgeSums, KeyedSums, among, edge_sums, measured_sums
from circuitlens.attribution.weighed_sums import StrongestEdges, weighed_sums, with_weighed
from circuitlens.circuit import Circuit
from circuitlens.circuit.nodes import Fingerprint
from circuitlens.fingerprint import fingerprint_of
from circuitlens.literals import StageName
from circuitlens.pipeline.assembly import make_circuit, strongest
from circuitlens.pipeline.search import Search
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.prompts.alignment import tokenize_pairs

Piece = BatchSums | EdgeSums | KeyedSums
"""What a batch gives at the stage "nodes", "edges" or "weighing"."""


@dataclass(frozen=True)
class Known:
    """What the stages before leave for the next: the kept nodes' numbers, sorted, and the edges that are weighed."""

    kept: Int[Tensor, " kept"] | None = None
    chosen: StrongestEdges | None = None


class Scoring:
    """The pieces of a search's batches; the scores of the batch that was asked for last stay in memory, and no others.

    Args:
        search: what is asked.
        progress: told each step of a batch.
    """

    def __init__(self, search: Search, progress: Progress | None = None):
        self._search, self._progress = search, progress or Progress()
        self._last: tuple[int, Attributions] | None = None

    def scores(self, number: int) -> Attributions:
        """The node scores of a batch."""
        search = self._search
        if self._last is None or self._last[0] != number:
            self._last = None  # let go of it before the next one is scored
            asked = search.example
            if search.prompts.by is not None:
                asked = tokenize_pairs(search.adapter, search.batches[number].pairs, search.metric)
            found = attribute_nodes(search.adapter, asked, search.method, search.frozen, self._progress)
            self._last = number, found
        return self._last[1]

    def piece(self, stage: StageName, number: int, known: Known) -> Piece:
        """What a batch gives at a stage.

        Raises:
            AdapterError: the model's numbers are not finite.
        """
        batch, index, found = self._search.batches[number], self._search.index, self.scores(number)
        if stage == "nodes":
            return BatchSums.of(index, batch, found)
        assert known.kept is not None, "the nodes have been joined"
        if stage == "edges":
            return self._edges(number, known.kept)
        assert known.chosen is not None, "the edges have been joined"
        sums = weighed_sums(index, batch, found, known.kept, known.chosen, self._progress)
        self._progress.step("path patching")
        return sums

    def _edges(self, number: int, kept: Int[Tensor, " kept"]) -> EdgeSums:
        search, found = self._search, self.scores(number)
        batch, edges, measured, residual = search.batches[number], KeyedSums.empty(1), KeyedSums.empty(1), 0.0
        if METHODS[search.method].measures:
            measured = measured_sums(search.index, batch, found, kept, self._progress)
        if search.connects:
            keep, place = among(search.index, batch, found, kept)
            scores, residual = attribute_edges(found, keep, self._progress)
            edges = edge_sums(scores, found, place, len(kept))
        return EdgeSums(edges, measured, residual)


class Joined:
    """The pieces of a search, joined stage by stage.

    Sums are float64 and depend on the order in which they are joined: in that of the batches they are the same to the
    last bit, whatever did the work.
    """

    def __init__(self, search: Search):
        self._search, self._nodes, self._edges = search, None, EdgeSums(KeyedSums.empty(1), KeyedSums.empty(1), 0.0)
        self._weighed = KeyedSums.empty(2)
        self.known = Known()

    def add(self, piece: Piece) -> None:
        """Join the piece of the next batch."""
        match piece:
            case BatchSums():
                self._nodes = piece if self._nodes is None else self._nodes.merged(piece)
            case EdgeSums():
                self._edges = self._edges.merged(piece)
            case KeyedSums():
                self._weighed = self._weighed.merged(piece)

    def end(self, stage: StageName) -> None:
        """Take what the next stage needs, once every batch has given its piece."""
        search, sums = self._search, self._sums
        if stage == "nodes":
            self.known = Known(sums.nodes.keys[strongest(search.index, sums, search.max_nodes)])
        elif stage == "edges":
            clean, other = (sums.metric / sums.prompts).tolist()
            contrast = clean - other * (METHODS[search.method].baseline != "zero" and search.prompts.has_corrupted)
            by_sum = search.prompts.by == "sum"
            chosen = StrongestEdges.of(self._edges.edges, search.measured_edges, sums.prompts, contrast, by_sum)
            self.known = Known(self.known.kept, chosen)

    def circuit(self, fingerprint: Fingerprint) -> Circuit:
        """The circuit, once all stages have ended."""
        kept, chosen = self.known.kept, self.known.chosen
        assert kept is not None, "the nodes have been joined"
        none = torch.zeros(0, dtype=torch.long)
        connected = with_weighed(self._edges.edges, none if chosen is None else chosen.keys, self._weighed)
        return make_circuit(
            self._search, self._sums, kept, connected, self._edges.measured, self._edges.residual, fingerprint
        )

    @property
    def _sums(self) -> BatchSums:
        assert self._nodes is not None, "there is a prompt"
        return self._nodes


def run(search: Search, callback: ProgressCallback | None = None) -> Circuit:
    """The circuit of a search, in this process; `callback` is told every step."""
    batches = range(len(search.batches))
    with Progress(_steps(search), callback) as progress:
        scoring, joined = Scoring(search, progress), Joined(search)
        # Of one batch the scores are there for it; several are sorted, and the first prompt may be in any of them.
        one = len(batches) == 1
        fingerprint = fingerprint_of(scoring.scores(0).runs.clean) if one else search.fingerprint()
        for stage in search.stages:
            for number in batches:
                joined.add(scoring.piece(stage, number, joined.known))
            joined.end(stage)
    return joined.circuit(fingerprint)


def _steps(search: Search) -> int:
    """How many steps of progress a search is."""
    batches, steps = len(search.batches), steps_of_batch(search.adapter, search.method)
    # One batch is scored once; of several none is kept.
    scored = len(search.stages) if batches > 1 else 1
    weighs = "weighing" in search.stages
    return batches * (scored * steps.nodes + steps.measured + search.connects * steps.edges + weighs)
