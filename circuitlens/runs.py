"""Runs of the model with something changed: one site patched, sites held, nodes set to other values.

Nothing here has a gradient but for `run_patched`. A run of prompts that were `seen` before, or of repetitions of them,
starts as late as the adapter can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitlens.adapter import Adapter, Hook, Inputs, Site
from circuitlens.tracing import Enough, Trace, find_start, site_hooks

Decode = Callable[[Tensor], Tensor]
Edit = Callable[[Tensor | None, Tensor, Decode], tuple[Tensor | None, Tensor]]
"""Given a site's features `[batch, pos, d_sae]` (None without a coder), ε, and the coder's decode with its state as in
this run, returns the features and ε to go on with."""


def rows_at_once(inputs: Inputs, positions: int) -> int:
    """How many prompts as long as these go through the model together where so many positions do."""
    return max(1, positions // inputs.mask.shape[1])


def run_patched(
    adapter: Adapter,
    inputs: Inputs,
    site: Site,
    patch: Callable[[Tensor], Tensor],
    *,
    seen: Trace | None = None,
    example: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch output"]:
    """Run the model with one site's activation changed by `patch`, and return the last logits, with their graph.

    `seen` is an earlier run of these prompts with nothing replaced; these are `example` of it, or repeat it.
    """
    hooks: dict[str, Hook] = {site.write: patch}
    return adapter.last_logits(inputs, hooks, find_start(adapter, inputs, hooks, seen, example))


def run_held(
    adapter: Adapter,
    inputs: Inputs,
    sites: Sequence[Site],
    hold: Callable[[Site, Tensor, Tensor], Tensor | None],
    *,
    seen: Trace | None = None,
    example: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch output"] | None:
    """Run the model with what some sites write held, and return the last logits.

    `hold` is told each of the sites and what flowed into its two hooks (read, write), and gives a tensor of the run's
    own to go on with: what flows into a site, and the logits, is then what sites before it do to it directly. Where it
    gives None the run ends, without logits. `seen` and `example` are as for `run_patched`.
    """
    reads: dict[str, Tensor] = {}

    def cut(site: Site, x: Tensor) -> Tensor:
        held = hold(site, x if site.read == site.write else reads[site.name], x)
        if held is None:
            raise Enough
        return held

    hooks = site_hooks(sites, cut, lambda site, x: reads.__setitem__(site.name, x))
    try:
        with torch.no_grad():
            return adapter.last_logits(inputs, hooks, find_start(adapter, inputs, hooks, seen, example))
    except Enough:
        return None


def run_spliced(
    adapter: Adapter, inputs: Inputs, edits: Mapping[str, Edit], *, seen: Trace | None = None
) -> Float[Tensor, "batch output"]:
    """Run the model spliced, `dec(f) + ε` in place of the activation, and return the last logits.

    `edits` maps the names of the sites to splice to changes of `(f, ε)`: this is how an intervention is done for real.
    Features downstream are those of the changed stream. Where nothing is edited a splice is no change, and left out.
    `seen` is an earlier run of these prompts, or of those that they repeat, with nothing replaced.
    """
    reads: dict[str, Tensor] = {}

    def splice(site: Site, x: Tensor) -> Tensor:
        coder = site.coder
        if coder is None:
            return edits[site.name](None, x, torch.zeros_like)[1]  # nothing is coded, so nothing decodes
        read = x if site.read == site.write else reads[site.name]

        def decode(f: Tensor) -> Tensor:
            if coder.stateful:
                coder.encode(read)  # what a coder keeps from encode is used up by one decode
            return coder.decode(f)

        plain = coder.encode(read)
        reconstruction = coder.decode(plain)
        features, error = edits[site.name](plain, x - reconstruction, decode)
        assert features is not None, "an edit keeps the features of a site with a coder"
        return (reconstruction if features is plain else decode(features)) + error

    sites = [site for site in adapter.sites if site.name in edits]
    hooks = site_hooks(sites, splice, lambda site, x: reads.__setitem__(site.name, x))
    with torch.no_grad():
        return adapter.last_logits(inputs, hooks, find_start(adapter, inputs, hooks, seen))
