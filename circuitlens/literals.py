"""The fixed vocabularies, each once: what a file, a call, a flag and the page may say; light, so that all read them."""

from __future__ import annotations

from typing import Literal

SiteKind = Literal["input", "embedding", "neuron", "feature"]
"""What the nodes of a site are: model inputs, whole embeddings, plain neurons, or features of a sparse coder."""

NodeKind = Literal["input", "embedding", "neuron", "feature", "error", "logit"]
"""What a node of a circuit is: one of the above, what a coder's features leave over, or an output."""

MethodName = Literal["gradient", "contrastive", "relp", "path", "ig", "exact"]
"""Attribution methods; `attribution.methods` has one entry for each."""

MetricName = Literal["logit_difference", "logit", "log_probability", "probability_difference", "kl_divergence"]
"""What a circuit can explain by name; `prompts.metrics` has one entry for each."""

PositionGrouping = Literal["position", "role", "sum"]
"""How positions of many prompts are brought together: counted from the first token, by role, or all as one."""

AblationKind = Literal["corrupted", "mean", "zero"]
"""What ablated nodes are set to: their value in the corrupted run, their mean, or zero."""

MeaningSource = Literal["yours", "neuronpedia", "file", "contexts", "promoted tokens"]
"""Who says what a feature stands for, the best source first."""

NEURONPEDIA = "neuronpedia"
"""What asks for Neuronpedia's labels in the place of a file."""

Verdict = Literal["supported", "weak", "not supported"]
"""What evidence adds up to, best first."""

CheckStatus = Literal["passed", "weak", "failed", "not tested"]
"""How one check ended."""
StageName = Literal["nodes", "edges", "weighing"]
"""The stages of a search over batches of prompts, in their order (`circuitlens.pipeline`)."""
