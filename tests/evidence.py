"""What tests of evidence have in common: short verifications, and circuits, models and files that are made wrong."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from circuitlens_toy import ToyAdapter
from circuitlens_toy.model import AgreementModel, ToySAE
from circuitlens_toy.training import Trained

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Check, Evidence
from circuitlens.evaluation.verification import verify
from circuitlens.prompts.tasks import agreement_split
from circuitlens.prompts.words import NOUNS

CATS, CAT = ("The cats", "run", "runs", "The cat"), ("The cat", "runs", "run", "The cats")
TRAIN, TEST = agreement_split("simple", 40, 20, 0, NOUNS, [("runs", "run")])
Change = Callable[[dict[str, Any]], object]
"""An edit of a circuit's document."""
EVIDENCE = ([0.0, 1.0], [1.0, 0.0])
"""What the toy reads of a plural and of a singular noun."""


def evidence_of(adapter: circuitlens.Adapter, circuit: Circuit, **options: Any) -> Evidence:
    """What is measured, with few prompts and draws unless a test asks for more: checking every shape costs."""
    evidence = verify(adapter, circuit, **{"prompts": 4, "draws": 8, **options}).evidence
    assert evidence is not None
    return evidence


def check(evidence: Evidence, name: str) -> Check:
    (found,) = [check for check in evidence.checks if check.name == name]
    return found


def failing(evidence: Evidence) -> list[str]:
    return [check.name for check in evidence.checks if check.status == "failed"]


# Models that are wrong


def with_parts(toy: ToyAdapter, model: AgreementModel, sae: ToySAE) -> ToyAdapter:
    return ToyAdapter(Trained(model.requires_grad_(False), sae.requires_grad_(False), toy.measured))


def untrained(toy: ToyAdapter, seed: int) -> ToyAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return with_parts(toy, AgreementModel(), ToySAE())


def untrained_sae(toy: ToyAdapter, seed: int) -> ToyAdapter:
    """The toy with an SAE as it is before training: encoder and decoder rows are one another's (tied)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return with_parts(toy, toy.model, ToySAE())


def shuffled(toy: ToyAdapter, order: list[int]) -> ToyAdapter:
    """The toy with the decoder's columns in another order."""
    sae = copy.deepcopy(toy.sae)
    sae.decoder.weight.data = sae.decoder.weight.data[:, order]
    return with_parts(toy, toy.model, sae)


def sides(toy: ToyAdapter) -> tuple[list[int], list[int]]:
    """The features that are active on plural and on singular nouns."""
    active = [toy.sae.encode(toy.model.relu(toy.model.hidden(torch.tensor([[x]]))))[0, 0] > 0 for x in EVIDENCE]
    return active[0].nonzero()[:, 0].tolist(), active[1].nonzero()[:, 0].tolist()


def across(toy: ToyAdapter, seed: int) -> list[int]:
    """An order that gives no feature of a plural noun a column of one, nor of a singular."""
    plural, singular = sides(toy)
    draw = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(8, generator=draw).tolist()
        if not any({order[n] for n in side} & set(side) for side in (plural, singular)):
            return order


# Files and circuits that are wrong


def digest_of(document: dict[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def edited(circuit: Circuit, path: Path, change: Change, forge: bool = False) -> Circuit:
    """The circuit saved, its file changed by hand, with a digest that fits if `forge`, and opened."""
    circuit.save(path)
    document = json.loads(path.read_text())
    assert document["digest"] == digest_of(document)
    change(document)
    if forge:
        document["digest"] = digest_of(document)
    path.write_text(json.dumps(document))
    return circuitlens.open(path)


def strongest(document: dict[str, Any], kind: str = "feature") -> dict[str, Any]:
    return max((n for n in document["nodes"] if n["kind"] == kind), key=lambda n: abs(n["attribution"]))


def double(document: dict[str, Any]) -> None:
    strongest(document)["attribution"] *= 2


def next_feature(document: dict[str, Any]) -> None:
    strongest(document)["index"] += 1


def without_strongest(document: dict[str, Any]) -> None:
    gone = strongest(document)
    document["nodes"].remove(gone)
    document["edges"] = [e for e in document["edges"] if gone["id"] not in (e["source"], e["target"])]


def better_metric(document: dict[str, Any]) -> None:
    document["metric"]["value"] += 1


def called_a_feature(document: dict[str, Any]) -> None:
    strongest(document, "error")["kind"] = "feature"


def called_a_logit(document: dict[str, Any]) -> None:
    node = strongest(document, "error")
    node["kind"] = "logit"
    document["edges"] = [edge for edge in document["edges"] if edge["source"] != node["id"]]  # those a file can't have


def double_input(document: dict[str, Any]) -> None:
    strongest(document, "input")["attribution"] *= 2


def set_of(kind: str, **fields: Any) -> Change:
    """Gives the strongest node of a kind other fields; a function is told what was there."""

    def change(document: dict[str, Any]) -> None:
        node = strongest(document, kind)
        node.update({name: new(node[name]) if callable(new) else new for name, new in fields.items()})

    return change


def twice(document: dict[str, Any]) -> None:
    document["nodes"].append({**strongest(document), "id": "another"})


def edges_scaled(document: dict[str, Any]) -> None:
    for edge in document["edges"]:
        edge["weight"] *= 10


def edges_flipped(document: dict[str, Any]) -> None:
    for edge in document["edges"]:
        edge["weight"] *= -1


def edges_shuffled(document: dict[str, Any]) -> None:
    weights = [edge["weight"] for edge in document["edges"]]
    for edge, weight in zip(document["edges"], weights[1:] + weights[:1], strict=True):
        edge["weight"] = weight


def strongest_edges_gone(document: dict[str, Any]) -> None:
    del document["edges"][:2]


def edges_gone(document: dict[str, Any]) -> None:
    document["edges"] = []


def edge_invented(document: dict[str, Any]) -> None:
    """From an input straight to an output, which the hidden layer lies between."""
    source, target = strongest(document, "input")["id"], strongest(document, "logit")["id"]
    document["edges"].append({"source": source, "target": target, "weight": 1.0})


def weak_edge_flipped(document: dict[str, Any]) -> None:
    document["edges"][-1]["weight"] *= -1


def other_found(**fields: Any) -> Change:
    return lambda document: document["found"].update({n: new(document["found"][n]) for n, new in fields.items()})


def only(circuit: Circuit, ids: set[str]) -> Circuit:
    """The circuit without its other nodes."""
    fields = {name: getattr(circuit, name) for name in Circuit.model_fields}
    nodes = tuple(n for n in circuit.nodes if n.kind in ("logit", "input") or n.id in ids)
    kept = {n.id for n in nodes}
    edges = tuple(e for e in circuit.edges if {e.source, e.target} <= kept)
    return Circuit(**{**fields, "nodes": nodes, "edges": edges})


def random_nodes(circuit: Circuit, count: int, seed: int) -> Circuit:
    ids = sorted(n.id for n in circuit.nodes if n.kind not in ("logit", "input"))
    chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    return only(circuit, {ids[n] for n in chosen})
