"""How the cuts of a run lie to each other: which sites act on which directly, and which no way passes by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from circuitlens.tracing import Trace


def next_sites(traced: Trace) -> list[list[int]]:
    """For each site what it reaches directly, with no other cut between: later sites, and the metric (their number)."""
    after: list[list[int]] = [[] for _ in traced.sites]
    number = {id(site.leaf): s for s, site in enumerate(traced.sites)}
    outputs = [[site.read, site.write] for site in traced.sites]
    for t, tensors in enumerate([*outputs, [traced.metric]]):
        for s in _leaves_behind(tensors, number) - {t}:
            after[s].append(t)
    return after


def cut_sites(links: Collection[tuple[int, int]], starts: Collection[int], end: int) -> list[bool]:
    """Which of `end` sites every way along `links` from the sites `starts` to the metric (number `end`) passes."""

    def reaches(without: int) -> bool:
        seen, waiting = {without}, [s for s in starts if s != without]
        while waiting:
            s = waiting.pop()
            if s == end:
                return True
            after = {t for u, t in links if u == s} - seen
            waiting.extend(after)
            seen |= after
        return False

    return [not reaches(s) for s in range(end)]


def _leaves_behind(outputs: Sequence[Tensor], number: Mapping[int, int]) -> set[int]:
    """The numbers of the leaves that the graph of these tensors goes back to."""
    found, seen = set[int](), set[object]()
    waiting = [x.grad_fn for x in outputs if x.grad_fn is not None]
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        leaf = getattr(step, "variable", None)
        if leaf is not None and id(leaf) in number:
            found.add(number[id(leaf)])
        waiting.extend(before for before, _ in step.next_functions if before is not None)
    return found
