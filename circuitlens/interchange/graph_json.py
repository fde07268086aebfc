"""A circuit as the attribution-graph JSON that circuit-tracer writes and Neuronpedia reads.

The format has no place for most of what a circuit says, and its schema allows further fields: a node, a link and the
metadata each carry theirs as `circuitlens`, from which `graph_reading` makes the same circuit again. What an imported
graph said is written as it was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuitlens.circuit import Circuit, Node
from circuitlens.circuit.meaning import MAX_LABEL
from circuitlens.distribution import installed_version
from circuitlens.errors import CircuitError
from circuitlens.files import write_file
from circuitlens.interchange.scores import cumulative_influence, output_weights

OURS = "circuitlens"
"""The field of a node, a link and the metadata that holds what the format has no place for."""
FEATURE, ERROR, TOKEN, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
"""The `feature_type`s, which readers compare literally: features of SAEs are to be called so too."""
MAX_BYTES = 100_000_000
"""The largest file that Neuronpedia takes."""
BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|h)\.(\d{1,6})\.")
"""A layer of a model in the name of a hook."""
PAGE = re.compile(r"https://www\.neuronpedia\.org/([\w.-]+)/\d+-([\w.-]+)/\d+", re.ASCII)
"""The address of a feature's page: the model, and the set of dictionaries."""
NAMES = {"gpt2": "gpt2-small"}
"""What Neuronpedia calls models that are called otherwise here."""

Json = dict[str, Any]


def write_graph(circuit: Circuit, path: str | os.PathLike[str], *, scan: str | None = None) -> None:
    """Write a circuit as an attribution graph, whole or not at all; its slug is the file's name, or its graph's own.

    Args:
        circuit: the circuit, with what a reader made of it.
        path: the file.
        scan: what Neuronpedia calls the model; by default what the graph it was imported from, the features' pages,
            or the adapter's options say.

    Raises:
        CircuitError: the file can't be written, would be larger than Neuronpedia takes, or a name has letters that it
            does not take.
    """
    data = json.dumps(to_graph(circuit, slug=_slug(Path(path).stem), scan=scan), indent=1).encode()
    if len(data) > MAX_BYTES:
        raise CircuitError(f"The graph needs {len(data) / 1e6:.0f} MB, above 100 MB: prune the circuit first.")
    write_file(path, data, CircuitError)


def to_graph(circuit: Circuit, *, slug: str = "circuit", scan: str | None = None) -> Json:
    """The attribution graph of a circuit as a JSON value: `metadata`, `qParams`, `nodes` and `links`.

    Pins, groups and labels of a reader are `pinnedIds`, `supernodes` and `clerp`. A link's weight is the edge's, in
    units of the metric; of an imported graph it is the graph's own.

    Raises:
        CircuitError: `slug` or `scan` has other characters than letters, digits, `_`, `.` and `-`.
    """
    for what, name in (("slug", slug), ("scan", scan)):
        if name is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", name):
            raise CircuitError(f"The {what} is {name!r:.80}: give letters, digits, '_', '.' and '-' alone.")
    said: Json = json.loads(circuit.imported) if circuit.imported else {}
    nodes = _nodes(circuit)
    names = {node.id: made["node_id"] for node, made in zip(circuit.nodes, nodes, strict=True)}
    foreign = any(node.imported for node in circuit.nodes)
    metadata = {
        "slug": slug,
        "scan": _scan(circuit),
        "node_threshold": 1.0,
        "schema_version": 1,
        **({} if foreign else _details(circuit)),
        **said.get("metadata", {}),
        **({"scan": scan} if scan else {}),
        "prompt_tokens": list(circuit.tokens),
        "prompt": circuit.prompt,
    }
    if not foreign:
        metadata[OURS] = {key: value for key, value in json.loads(circuit.about).items() if key != "imported"}
    elif "prompt" in said.get("metadata", {}):
        metadata["prompt"] = said["metadata"]["prompt"]  # an adapter that puts BOS there itself has it without
    return {
        "metadata": metadata,
        "qParams": _qparams(circuit, names, said.get("qParams", {})),
        "nodes": nodes,
        "links": _links(circuit, names),
    }


def clerp_of(circuit: Circuit, node: Node) -> str:
    """What a node's label is in the graph: that of the reader, else what the feature is said to stand for."""
    meaning = circuit.meaning(node)
    if node.imported and (meaning is None or meaning.source == "file"):
        return json.loads(node.imported)["clerp"]
    return "" if meaning is None else meaning.text


def _nodes(circuit: Circuit) -> list[Json]:
    layers = _layers(circuit)
    weights, influence = output_weights(circuit.nodes).tolist(), cumulative_influence(circuit)
    outputs = [n for n, node in enumerate(circuit.nodes) if node.is_logit]
    answers = {n for n in outputs if circuit.metric.role(circuit.nodes[n], of_many=bool(circuit.pairs)) == "answer"}
    target = max(outputs, key=lambda n: (n in answers, weights[n]), default=None)
    taken: set[str] = {json.loads(node.imported)["node_id"] for node in circuit.nodes if node.imported}
    made = list[Json]()
    for n, node in enumerate(circuit.nodes):
        if node.imported:
            raw = json.loads(node.imported)
            made.append(raw if node.is_logit else {**raw, "clerp": clerp_of(circuit, node)})
            continue
        written = _node(circuit, node, layers[_row(node)], weights[n], influence[n], n == target)
        if written["node_id"] in taken:  # two nodes of one hook, position and index
            written["node_id"] = next(w for k in range(2, n + 3) if (w := f"{written['node_id']}_{k}") not in taken)
            written["jsNodeId"] = written["node_id"]
        taken.add(written["node_id"])
        made.append(written)
    return made


def _node(circuit: Circuit, node: Node, layer: str, weight: float, influence: float | None, target: bool) -> Json:
    """One node, as the format names its kind."""
    index, pos = -1 if node.index is None else node.index, node.pos
    clerp = clerp_of(circuit, node)
    match node.kind:
        case "logit":
            kind, feature, name = LOGIT, index, f"L_{index}-{pos}"
            clerp = f'Output "{node.label}" (p={weight:.3f})'
        case "error":
            kind, feature, name = ERROR, -1, f"{layer}_-1-{pos}"
        case "input" | "embedding":
            kind, feature, index, name = TOKEN, pos, max(index, 0), f"E_{max(index, 0)}-{pos}"
        case _:
            index = max(index, 0)
            kind, feature, name = FEATURE, _cantor(int(layer), index), f"{layer}_{index}-0"
    return {
        "node_id": f"{layer}_{-1 if node.kind == 'error' else index}_{pos}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": pos,
        "feature_type": kind,
        "token_prob": weight,
        "is_target_logit": target,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": name,
        "clerp": clerp,
        "influence": influence,
        "activation": node.activation if kind == FEATURE else None,
        OURS: node.model_dump(mode="json"),
    }


def _row(node: Node) -> str:
    """What has a layer of its own: all outputs, all tokens, and each hook of other nodes."""
    return "logits" if node.is_logit else "E" if node.kind in ("input", "embedding") else f"hook {node.hook}"


def _layers(circuit: Circuit) -> dict[str, str]:
    """The name of each row's layer."""
    hooks = dict.fromkeys(node.hook for node in circuit.nodes if _row(node).startswith("hook "))
    numbers = layer_numbers([*hooks])
    named = {f"hook {hook}": str(number) for hook, number in numbers.items()}
    return {**named, "E": "E", "logits": str(max([1, *numbers.values()]) + 1)}


def layer_numbers(hooks: Sequence[str]) -> dict[str, int]:
    """The number of each hook's layer: the model's own where each hook has one for itself, else counted from 1, as
    readers need a layer of 1 or more.
    """
    found = [BLOCK.search(hook) for hook in hooks]
    numbers = [int(block[1]) for block in found if block]
    if len(set(numbers)) < len(hooks) or max(numbers, default=0) < 1:
        numbers = range(1, len(hooks) + 1)
    return dict(zip(hooks, numbers, strict=True))


def _links(circuit: Circuit, names: dict[str, str]) -> list[Json]:
    links = list[Json]()
    for edge in circuit.edges:
        weight = edge.weight if edge.into_target is None else edge.into_target
        link: Json = {"source": names[edge.source], "target": names[edge.target], "weight": weight}
        more = edge.model_dump(mode="json", exclude={*link, "into_target"}, exclude_defaults=True)
        links.append({**link, OURS: more} if more else link)
    return links


def _qparams(circuit: Circuit, names: dict[str, str], said: Json) -> Json:
    """The reader's pins and groups; what an imported graph said of them, as long as nobody changed it."""
    annotations = circuit.annotations
    groups = [(group.name, group.nodes) for group in annotations.groups] if annotations else []
    pins = [*(annotations.pins if annotations else ()), *(node for _, nodes in groups for node in nodes)]
    ours: Json = {
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
        **said,
        "pinnedIds": [names[node] for node in pins],
        "supernodes": [[name, *(names[node] for node in nodes)] for name, nodes in groups],
    }
    there = set(names.values())
    if said and read_pins(said, there) == read_pins(ours, there):
        ours |= {key: said[key] for key in ("pinnedIds", "supernodes") if key in said}
    return ours


def read_pins(said: Json, there: set[str]) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """What is pinned by itself and what is grouped, of the nodes that are there: each node once, each name once."""
    groups, seen, used = list[tuple[str, tuple[str, ...]]](), set[str](), set[str]()
    for name, *nodes in said.get("supernodes", []):
        members = tuple(dict.fromkeys(node for node in nodes if node in there and node not in seen))
        if members:
            wanted = clean(name)[:MAX_LABEL] or "group"
            numbered = (f"{wanted[: MAX_LABEL - 9]} ({n})" for n in range(2, len(used) + 3))
            wanted = next(one for one in (wanted, *numbered) if one not in used)
            groups.append((wanted, members))
            seen.update(members)
            used.add(wanted)
    pinned = dict.fromkeys(said.get("pinnedIds", []))
    return [node for node in pinned if node in there and node not in seen], groups


def clean(text: str) -> str:
    """A text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _details(circuit: Circuit) -> Json:
    found = _source(circuit.nodes)
    of_features = {"feature_details": {"neuronpedia_source_set": found[1]}} if found else {}
    told = f"A link's weight is its direct effect on the metric ({circuit.metric}), in the metric's units."
    told += " The p of an output is its share of the metric, not a probability."
    generator = {"name": "circuitlens", "version": installed_version()}
    return {**of_features, "info": {"description": told, "generator": generator}}


def _scan(circuit: Circuit) -> str:
    if found := _source(circuit.nodes):
        return found[0]
    model = str(circuit.options.get("model") or circuit.adapter)
    return _slug(NAMES.get(model, model.rstrip("/").rsplit("/", 1)[-1]))


def _source(nodes: Sequence[Node]) -> tuple[str, str] | None:
    """The model and the set of dictionaries that all pages of features are of, as their addresses say."""
    found = {(page[1], page[2]) for node in nodes if node.url and (page := PAGE.fullmatch(node.url))}
    return found.pop() if len(found) == 1 else None


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:100] or "circuit"


def _cantor(layer: int, feature: int) -> int:
    """One number for a layer and a feature of it."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature
