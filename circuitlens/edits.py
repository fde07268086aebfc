"""Setting nodes to values in a real run: the one mechanism behind ablation and every intervention.

At a site of a spliced run (`tracing.run_spliced`) some features take given values and the error takes a given one;
everything that is not set is read from the stream as it is then. An error's value in another run is what that run's
features, decoded in this run, leave of its whole activation.

One rule for the token that an adapter puts before a prompt (BOS): nothing there is set to zero or to a multiple. Its
norm is huge, and no model goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from circuitlens.adapter import Adapter, Inputs, SparseCoder
from circuitlens.literals import PositionGrouping
from circuitlens.runs import Decode, Edit
from circuitlens.tracing import SiteTrace

ELEMENTS = 2**24
"""Features (active or not) that runs which share a batch hold at a site; more runs go one batch after the other."""


@dataclass(frozen=True)
class SiteValues:
    """What a site's features and error can be set to.

    `features` is None without a coder. Where `error` is not given it is what the features, decoded in the run in which
    it is set, leave of `whole`; a coder that keeps nothing from one call for the next decodes them alike in every run.
    """

    features: Float[Tensor, "batch pos d_sae"] | None
    whole: Float[Tensor, "batch pos *d_out"] | None = None
    error: Float[Tensor, "batch pos *d_out"] | None = None

    @staticmethod
    def of(seen: SiteTrace) -> SiteValues:
        """The values in a run."""
        coder = seen.site.coder
        error = seen.error if coder is not None and not coder.stateful else None
        return SiteValues(dense_features(seen), seen.write.detach(), error)

    def repeated(self, times: int) -> SiteValues:
        """The values of the whole batch several times over."""
        return SiteValues(*(x if x is None else x.repeat(times, *[1] * (x.dim() - 1)) for x in vars(self).values()))

    def error_in(self, decode: Decode) -> Tensor:
        """The error to set in a run whose coder decodes so."""
        if self.error is not None:
            return self.error
        assert self.whole is not None, "without an error there is a whole activation"
        return self.whole if self.features is None else self.whole - decode(self.features)


@dataclass(frozen=True)
class NodeMask:
    """Which nodes of a site are set, in a batch of runs; `features` is None where none of them is."""

    features: Bool[Tensor, "batch pos d_sae"] | None
    error: Bool[Tensor, "batch pos"]

    @staticmethod
    def at(
        base: Bool[Tensor, "batch pos"],
        coder: SparseCoder | None,
        places: tuple[Int[Tensor, " node"], Int[Tensor, " node"], Int[Tensor, " node"]],
        value: Bool[Tensor, " node"] | bool = True,
    ) -> NodeMask:
        """All nodes at the positions that `base` marks, and those at example, pos, index as `value` says.

        An index below 0 is the site's vector: its error, or all of it where nothing is coded.
        """
        example, pos, index = places
        given = torch.as_tensor(value, device=base.device).expand(len(index))
        vector = index < 0
        error = base.index_put((example[vector], pos[vector]), given[vector])
        features = None
        if coder is not None and (base.any() or not vector.all()):
            features = base[..., None].repeat(1, 1, coder.d_sae)
            features[example[~vector], pos[~vector], index[~vector]] = given[~vector]
        return NodeMask(features, error)


def set_nodes(mask: NodeMask, values: SiteValues | None) -> Edit:
    """An edit of one site that sets the masked nodes to these values, or to zero."""

    def edit(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        if mask.error.any():
            goal = torch.zeros_like(error) if values is None else values.error_in(decode)
            error = torch.where(mask.error.view(*mask.error.shape, *[1] * (error.dim() - 2)), goal, error)
        if features is not None and mask.features is not None:
            goal = None if values is None else values.features
            features = torch.where(mask.features, torch.zeros_like(features) if goal is None else goal, features)
        return features, error

    return edit


def made_late(make: Callable[[], Edit]) -> Edit:
    """An edit that is made when its hook runs and let go of after it: a run has the masks and dense values of one site
    at a time, and not those of all.
    """
    return lambda features, error, decode: make()(features, error, decode)


def in_turn(*edits: Edit) -> Edit:
    """An edit that makes several, one after the other."""

    def edit(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        for each in edits:
            features, error = each(features, error, decode)
        return features, error

    return edit


def for_prompt(positions: int, edit: Edit) -> Edit:
    """An edit that was made for a prompt of so many positions, in a run of a text that begins with it: what comes after
    is left alone.
    """

    def first(features: Tensor | None, error: Tensor, decode: Decode) -> tuple[Tensor | None, Tensor]:
        later = error.shape[1] - positions

        def decode_first(f: Tensor) -> Tensor:
            return decode(pad(f, (0, 0, 0, later)))[:, :positions]

        begun = None if features is None else features[:, :positions]
        set_to, set_error = edit(begun, error[:, :positions], decode_first)
        if features is not None and set_to is not None and set_to is not begun:
            features = torch.cat([set_to, features[:, positions:]], 1)
        return features, torch.cat([set_error, error[:, positions:]], 1)

    return first


def dense_features(seen: SiteTrace) -> Float[Tensor, "batch pos d_sae"] | None:
    """All features of a site, 0 where they are inactive; None without a coder."""
    if seen.site.coder is None:
        return None
    active = seen.features
    dense = seen.error.new_zeros(*seen.error.shape[:2], seen.site.coder.d_sae)
    return dense.index_put((active.example, active.pos, active.index), active.value)


def variants_at_once(adapter: Adapter, inputs: Inputs) -> int:
    """How many runs of a batch, each with other nodes set, go together."""
    widest = max((site.coder.d_sae for site in adapter.sites if site.coder is not None), default=1)
    return max(1, ELEMENTS // (inputs.mask.numel() * widest))


def own_tokens(adapter: Adapter, inputs: Inputs) -> Bool[Tensor, "batch pos"]:
    """Where the prompts' own tokens are, without the one that the adapter puts before each."""
    own = inputs.mask.clone()
    if adapter.bos:
        own[torch.arange(len(own)), inputs.first] = False
    return own


def is_bos(adapter: Adapter, by: PositionGrouping | None, pos: int) -> bool:
    """Whether a circuit's position is the token that the adapter puts before each prompt; never of summed positions."""
    return adapter.bos and by != "sum" and pos == 0
