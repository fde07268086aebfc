"""One hooked run of the model: activations, cuts and gradients.

At every site the activation is `x = dec(enc(x)) + ε`, so writing `dec(f) + ε` back changes nothing (Marks et al. 2024,
"Sparse Feature Circuits"); with changes that is done in `runs`. `trace` runs the model *cut at its sites*: each site's
output is replaced by a leaf that holds the same value, while the tensor that flowed into the site keeps its graph back
to the earlier leaves. Then

1. one reverse sweep over the segments gives the total gradient `∂m/∂x` at every leaf, equal to that of the uncut model;
2. a vector-Jacobian product from a site stops at the nearest cuts by itself: it is the *direct* effect.

Coders run on detached activations and leave behind active features only: nothing dense in `d_sae` survives a hook.
Memory: one forward's graph, plus (example, pos, feature, value) a site.

A run of prompts that were `seen` before, or of repetitions of them, starts as late as the adapter can: what comes
before the first site that it is about is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Hook, Inputs, RelevanceRules, Site
from circuitlens.errors import AdapterError
from circuitlens.prompts.batch import BatchMetric
from circuitlens.rules import by_rules
from circuitlens.torch_modes import wide

ENCODED = 2**22
"""Numbers that a coder gives at a time: a long prompt's features, most of them 0, are much more than its graph."""


@dataclass(frozen=True)
class ActiveFeatures:
    """The nonzero features of one site at unpadded positions, sorted by example, position and index."""

    example: Int[Tensor, " active"]
    pos: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    value: Float[Tensor, " active"]


@dataclass(frozen=True)
class SiteTrace:
    """One site in one run.

    `read` and `write` flowed into the site's hooks and have their graph; the model went on with `leaf`, of the same
    value as `write` unless it was replaced. `error` is ε, the part of `write` that the
    features do not write (all of it without a coder).
    """

    site: Site
    read: Float[Tensor, "batch pos *d_in"]
    write: Float[Tensor, "batch pos *d_out"]
    leaf: Float[Tensor, "batch pos *d_out"]
    features: ActiveFeatures
    error: Float[Tensor, "batch pos *d_out"]


@dataclass(frozen=True)
class Trace:
    """One cut run: its sites in forward order, the logits at each example's last position, and their metric.

    `streams` are the values, by their hooks and in the order of the forward, from which other runs of these inputs may
    start; none of a run in which something was replaced.
    """

    inputs: Inputs
    sites: tuple[SiteTrace, ...]
    logits: Float[Tensor, "batch output"]
    scored_by: BatchMetric
    metric: Float[Tensor, " batch"]
    streams: Mapping[str, Tensor] = field(default_factory=dict)


class Enough(BaseException):
    """Ends a run that has shown what it was made for; no Exception, which an adapter may take for a fault."""


def trace(
    adapter: Adapter,
    inputs: Inputs,
    metric: BatchMetric,
    *,
    graph: bool = True,
    frozen: bool = False,
    rules: RelevanceRules | None = None,
    replaced: Mapping[str, Tensor] | None = None,
    only: Collection[str] | None = None,
    coded: Collection[str] | None = None,
    seen: Trace | None = None,
    example: Int[Tensor, " batch"] | None = None,
    to_metric: bool = True,
) -> Trace:
    """Run the model once, cut at its sites (or `only` at some); without `graph` only values are kept.

    `frozen` takes the values at the adapter's `frozen` hooks for constants: they have no derivative. `rules` change no
    value and put other derivatives in the place of the model's; `attribution.relevance` says which. After a site that
    is `replaced` the model goes on with that value, and the site's own trace says what was there before. Features are
    read at all of the sites, or only at those that are `coded`. `seen` is an earlier run of these prompts with nothing
    replaced; these are `example` of it, or repeat it. A run that is not `to_metric` ends at its last site: its logits
    and metric are 0.

    Raises:
        AdapterError: the model's forward does not reach a site's hooks exactly once, in the order of `adapter.sites`.
    """
    assert adapter.pads or inputs.mask.all(), "prompts of one length share a batch"
    reads, done = dict[str, Tensor](), list[SiteTrace]()
    sites = [site for site in adapter.sites if only is None or site.name in only]

    def cut(site: Site, x: Tensor) -> Tensor:
        write = x
        read = reads.get(site.name) if site.read != site.write else write
        if len(done) == len(sites) or sites[len(done)] is not site or read is None:
            raise AdapterError(_order_message(adapter, site))
        features, error = _encode(site, read.detach(), write.detach(), inputs, coded is None or site.name in coded)
        # Copies: a model, or a user's hook, that edits an activation in place must not reach what was recorded.
        leaf = (replaced or {}).get(site.name, write).detach().to(write.dtype, copy=True).requires_grad_()
        done.append(SiteTrace(site, read, write, leaf, features, error))
        if not to_metric and len(done) == len(sites):
            raise Enough
        return leaf.clone()

    hooks = site_hooks(sites, cut, lambda site, x: reads.__setitem__(site.name, x))
    start = None if frozen else find_start(adapter, inputs, hooks, seen, example)
    streams: dict[str, Tensor] = {}
    if not replaced and start is None:
        hooks = _recording(hooks, sites, _entries(adapter, sites), streams)
    hooks = _with_derivatives(adapter, hooks, frozen, rules if graph else None)
    with torch.set_grad_enabled(graph):
        try:
            logits = adapter.last_logits(inputs, hooks, start)
        except Enough:
            assert seen is not None, "how many outputs there are is not known"
            none = seen.logits.new_zeros(len(inputs.mask), seen.logits.shape[1])
            return Trace(inputs, tuple(done), none, metric, wide(none[:, 0]))
        if len(done) < len(sites):
            raise AdapterError(_order_message(adapter, sites[len(done)]))
        return Trace(inputs, tuple(done), logits, metric, metric(logits), streams)


def _with_derivatives(
    adapter: Adapter, hooks: Mapping[str, Hook], frozen: bool, rules: RelevanceRules | None
) -> Mapping[str, Hook]:
    """The hooks of a run that holds values, or whose derivatives are those of rules."""
    if frozen:
        if not adapter.frozen:
            raise AdapterError(f"Adapter {adapter.name!r} has no frozen mode: {adapter.not_frozen}.")
        hooks = {**dict.fromkeys(adapter.frozen, torch.Tensor.detach), **hooks}
    return hooks if rules is None else by_rules(rules, hooks)


def total_gradients(traced: Trace, links: set[tuple[int, int]] | None = None) -> list[Float[Tensor, "batch pos ..."]]:
    """`∂m/∂x` at every site's output, in site order: the gradient of the model itself, each example's own metric.

    One reverse sweep: what reaches a later leaf is carried through its segment to earlier leaves. The graph is kept.
    `links` is given each pair of sites, or of a site and the metric (their number), of which the first acts on the
    second by no other.

    Raises:
        AdapterError: a site reaches neither a later one nor the metric, so that all its gradients would be 0.
    """
    leaves = [site.leaf for site in traced.sites]
    totals = [wide(torch.zeros_like(leaf)) for leaf in leaves]
    reaches = [False] * len(leaves)

    def carry(output: Tensor, cotangent: Tensor, into: int) -> None:
        if into == 0 or not output.requires_grad:
            return
        cotangent = cotangent.to(output.dtype)
        direct = torch.autograd.grad(output, leaves[:into], cotangent, retain_graph=True, allow_unused=True)
        for s, gradient in enumerate(direct):
            if gradient is not None:
                totals[s] = totals[s] + gradient
                reaches[s] = True
                if links is not None and gradient.any():  # some models add and take away what they go around
                    links.add((s, into))

    carry(traced.metric, torch.ones_like(traced.metric), len(leaves))
    for s in reversed(range(len(leaves))):
        if not reaches[s]:
            raise unreached(traced.sites[s].site)
        carry(traced.sites[s].write, totals[s], s)
    return totals


def unreached(site: Site) -> AdapterError:
    """The error of a site whose cut is none: the forward does not go on with what its hook returns."""
    return AdapterError(
        f"What site {site.name!r} writes at {site.write!r} reaches neither a later site nor the metric: the model's "
        "forward does not go on with what that hook returns. Choose another hook."
    )


def site_hooks(
    sites: Sequence[Site], write: Callable[[Site, Tensor], Tensor], read: Callable[[Site, Tensor], None]
) -> dict[str, Hook]:
    """One hook a name; a site that reads what another writes sees it after the write."""
    writers = {site.write: site for site in sites}
    readers: dict[str, list[Site]] = {}
    for site in sites:
        if site.read != site.write:
            readers.setdefault(site.read, []).append(site)

    def at(name: str) -> Hook:
        def hook(x: Tensor) -> Tensor | None:
            y = write(writers[name], x) if name in writers else None
            for site in readers.get(name, ()):
                read(site, x if y is None else y)
            return y

        return hook

    return {name: at(name) for name in [*writers, *readers]}


def _entries(adapter: Adapter, sites: Sequence[Site]) -> set[str]:
    """Where runs that are about one of the sites, or about several, may start."""
    return {entry for site in sites if (entry := adapter.entry([site.read, site.write])) is not None}


def _recording(
    hooks: Mapping[str, Hook], sites: Sequence[Site], names: Collection[str], seen: dict[str, Tensor]
) -> dict[str, Hook]:
    """The hooks, which cut the model at `sites`, and before them others that note what flows in at these names."""
    cut = {site.write for site in sites}

    def at(name: str) -> Hook:
        def hook(x: Tensor) -> Tensor | None:
            seen[name] = x.detach() if name in cut else x.detach().clone()  # after a cut the model has a copy
            return hooks[name](x) if name in hooks else None

        return hook

    return {**hooks, **{name: at(name) for name in names}}


def find_start(
    adapter: Adapter,
    inputs: Inputs,
    hooks: Collection[str],
    seen: Trace | None,
    example: Int[Tensor, " batch"] | None = None,
) -> tuple[str, Float[Tensor, "batch pos ..."]] | None:
    """The last stream that was seen from which a run still reaches these hooks, and its value; None without one.

    The inputs are the examples of the run that was `seen`, all of them once or several times over unless it is said.
    """
    if seen is None:
        return None
    if example is None:
        count = len(seen.inputs.mask)
        example = torch.arange(len(inputs.mask), device=inputs.mask.device) % count
    assert torch.equal(inputs.values, seen.inputs.values[example]), "other prompts were seen"
    for name in reversed(list(seen.streams)):
        if adapter.entry([name, *hooks]) == name:
            return name, seen.streams[name][example]
    return None


def _encode(site: Site, read: Tensor, write: Tensor, inputs: Inputs, coded: bool) -> tuple[ActiveFeatures, Tensor]:
    """The active features at unpadded positions, and ε: none of them, and all of `write`, where nothing is coded."""
    if site.coder is None or not coded:
        none = torch.zeros(0, dtype=torch.long, device=write.device)
        return ActiveFeatures(none, none, none, write.new_zeros(0)), write
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    errors: list[Tensor] = []
    size, positions = max(1, ENCODED // site.coder.d_sae), inputs.mask.shape[1]
    rows, writes = read.flatten(0, 1)[:, None].split(size), write.flatten(0, 1)[:, None].split(size)
    with torch.no_grad():
        for n, (x, y, own) in enumerate(zip(rows, writes, inputs.mask.flatten().split(size), strict=True)):
            f = site.coder.encode(x)
            if f.dtype != write.dtype:
                raise AdapterError(
                    f"Site {site.name!r}: the model's activation is {write.dtype} and its coder gives {f.dtype}. "
                    "Load the model and its coders with one dtype."
                )
            errors.append(y - site.coder.decode(f))
            row, index = (f[:, 0] * own[:, None]).nonzero(as_tuple=True)
            found.append((row + n * size, index, f[row, 0, index]))
        row, index, value = (torch.cat(column) for column in zip(*found, strict=True))
        return ActiveFeatures(row // positions, row % positions, index, value), torch.cat(errors).view(write.shape)


def _order_message(adapter: Adapter, site: Site) -> str:
    order = ", ".join(site.write for site in adapter.sites)
    return (
        f"Adapter {adapter.name!r}: the forward did not reach the hooks of site {site.name!r} "
        f"(read {site.read!r}, write {site.write!r}) exactly once and in the order of its sites ({order}). "
        "List the sites in forward order, with the model's own hook names."
    )
