"""Whether an adapter's weights are those that made a circuit: what they do is compared, and not what they are called.

Two SAEs of one hook, architecture and width answer to the same node ids and mean other things by them. So a circuit
keeps what its sites showed on its first prompt, and before anything is asked about it the prompt is run again.
"""

from __future__ import annotations

from circuitlens.adapter import Adapter
from circuitlens.circuit.nodes import Fingerprint, SiteFingerprint
from circuitlens.prompts.alignment import tokenize_pairs
from circuitlens.prompts.pairs import Pair
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import SiteTrace, Trace, trace

FEATURES = 8
"""Features that are kept of a site, the strongest."""

EXACT, HALF = 0.01, 0.2
"""How much of its size a number may differ by: between runs in float32 or better, and where one was in less."""

FLIPPED = 0.25
"""The share of a site's features that may differ: in half precision one near its threshold may be on or off."""


def fingerprint_of(run: Trace) -> Fingerprint:
    """The fingerprint of the weights, from a run whose first example is the circuit's first prompt."""
    return Fingerprint(
        dtype=str(run.logits.dtype).removeprefix("torch."), sites=tuple(_site(run, seen) for seen in run.sites)
    )


def difference(adapter: Adapter, known: Fingerprint, pair: Pair) -> str:
    """What the adapter's model shows otherwise than a fingerprint on this prompt says, or "" where nothing is.

    Sites that the fingerprint lacks are not looked at: a circuit's nodes mean the same beside them.

    Raises:
        PromptError: the prompt can't be read.
    """
    names = {site.write: site.name for site in adapter.sites}
    if missing := [site.hook for site in known.sites if site.hook not in names]:
        return f"it has a site at {missing[0]}, and this adapter at {', '.join(names)}"
    with own_modes(gradients=False):
        batch = tokenize_pairs(adapter, [pair], lambda logits: logits[:, 0])
        only = [names[site.hook] for site in known.sites]
        run = trace(adapter, batch.clean, batch.metric, graph=False, only=only)
    dtypes = {known.dtype, str(run.logits.dtype).removeprefix("torch.")}
    close = EXACT if dtypes <= {"float32", "float64"} else HALF
    seen_at = {seen.site.write: seen for seen in run.sites}
    for site in known.sites:
        if told := _differs(run, seen_at[site.hook], site, close):
            return f"at {site.hook} {told}"
    return ""


def _site(run: Trace, seen: SiteTrace) -> SiteFingerprint:
    last, features = int(run.inputs.last[0]), _features(run, seen)
    strongest = sorted(features.items(), key=lambda feature: -abs(feature[1]))[:FEATURES]
    return SiteFingerprint(
        hook=seen.site.write,
        size=seen.write[0, last].detach().norm().item(),
        error=seen.error[0, last].detach().norm().item(),
        features=tuple(strongest),
    )


def _features(run: Trace, seen: SiteTrace) -> dict[int, float]:
    """The active features of a site at the last position of the first example, by index."""
    active = seen.features
    here = (active.example == 0) & (active.pos == int(run.inputs.last[0]))
    return dict(zip(active.index[here].tolist(), active.value[here].tolist(), strict=True))


def _differs(run: Trace, seen: SiteTrace, known: SiteFingerprint, close: float) -> str:
    now, values = _site(run, seen), _features(run, seen)
    for what, ours, theirs in (("activation", now.size, known.size), ("SAE's error", now.error, known.error)):
        if abs(ours - theirs) > close * known.size:
            return f"the {what} had norm {theirs:.4g} and has {ours:.4g}"
    largest = max((abs(value) for _, value in known.features), default=0.0)
    off = [(i, value) for i, value in known.features if abs(values.get(i, 0.0) - value) > close * largest]
    if len(off) <= (FLIPPED * len(known.features) if close == HALF else 0):
        return ""
    index, value = off[0]
    return f"feature {index} was {value:.4g} and is {values.get(index, 0.0):.4g}"
