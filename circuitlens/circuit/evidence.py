"""The evidence that a circuit's file carries: what was measured on the model, and the verdict; plain values."""

from __future__ import annotations

from pydantic import Field

from circuitlens.circuit.values import Count, Many, Name, Number, Text, Value
from circuitlens.literals import AblationKind, CheckStatus, Verdict


class Interval(Value):
    """The mean of some draws and the interval that holds the middle 95 % of them."""

    mean: Number
    low: Number
    high: Number


class Point(Value):
    """What the circuit's `nodes` strongest nodes do by themselves; 1 is the whole model and 0 is none of its nodes.

    `errors_removed` is the faithfulness without those of them that are error nodes, `completeness` that of all other
    nodes of the model, `random` that of random nodes, as many of each site and kind.
    """

    nodes: Count
    faithfulness: Number
    errors_removed: Number
    completeness: Number
    random: Interval | None = None


class Curve(Value):
    """Faithfulness by the number of nodes kept, on one set of prompts.

    `cpr` is the area under the faithfulness, `cmd` the area between it and 1, over the share of nodes kept (MIB,
    Mueller et al. 2025). `whole` and `none` are the mean metric with every node and with none.
    """

    prompts: Name = Field(description="which prompts: 'found on', 'held out', 'other nouns', 'paraphrase'")
    pairs: Count = Field(ge=1)
    ablation: AblationKind
    whole: Number
    none: Number
    points: Many[Point] = Field(min_length=1)
    cpr: Number
    cmd: Number


class Effect(Value):
    """A node's attribution, and how far the metric really falls when the node alone is ablated."""

    node: Name
    predicted: Number
    measured: Number


class Check(Value):
    """One question put to the circuit: the figure, what it had to reach, and the answer in a sentence."""

    name: Name
    status: CheckStatus
    value: Number | None = None
    weak: Number | None = Field(default=None, description="from here on it is weak evidence")
    supported: Number | None = Field(default=None, description="from here on it is evidence")
    reason: Text


class Evidence(Value):
    """What was measured of a circuit, check by check, and the verdict."""

    verdict: Verdict
    reasons: Many[Text] = Field(description="why it is not better, or what speaks for it")
    digest: Name = Field(description="of the circuit that was measured")
    created_by: Name
    ablation: AblationKind
    core: Many[Name] = Field(description="ids of the fewest strongest nodes that reach the wanted faithfulness")
    checks: Many[Check]
    curves: Many[Curve]
    effects: Many[Effect]
    seed: Count
    draws: Count = Field(ge=1)
    lowered: Many[Name] = Field(
        default=(), exclude_if=lambda names: not names, description="checks that were asked less of than by default"
    )

    @property
    def word(self) -> str:
        """The verdict as it is to be shown: it says where less than usual was asked."""
        return f"{self.verdict} (thresholds lowered)" if self.lowered else self.verdict
