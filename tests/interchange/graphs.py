"""Attribution graphs as other tools write them, and the schema that Neuronpedia holds them to, stated by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from circuitlens.circuit import Circuit

Json = dict[str, Any]

TEXTS = {"type": "array", "items": {"type": "string"}}
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                **{name: {"type": "string"} for name in ("slug", "scan", "prompt")},
                "prompt_tokens": TEXTS,
                "node_threshold": {"type": "number"},
                "feature_details": {
                    "type": "object",
                    "properties": {"neuronpedia_source_set": {"type": "string"}},
                },
                "info": {
                    "type": "object",
                    "properties": {
                        "description": {"type": "string"},
                        "generator": {
                            "type": "object",
                            "properties": {name: {"type": "string"} for name in ("name", "version", "url")},
                        },
                    },
                },
            },
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": TEXTS,
                "supernodes": {"type": "array", "items": TEXTS},
                **{name: {"type": "string"} for name in ("linkType", "clickedId", "sg_pos")},
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    **{name: {"type": "string"} for name in ("node_id", "feature_type", "jsNodeId", "clerp")},
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer"},
                    **{name: {"type": ["number", "null"]} for name in ("influence", "activation")},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {
                    **{name: {"type": "string"} for name in ("source", "target")},
                    "weight": {"type": "number"},
                },
            },
        },
    },
}
"""What Neuronpedia's graph-schema.json (draft 7) asks of the fields that are written here, and the lists of text that
its page reads of `qParams` without a check.
"""


def check(graph: Json) -> None:
    """Hold a graph to the schema, and to what readers take for granted beside it."""
    Draft7Validator(SCHEMA).validate(graph)
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len({*ids}) == len(ids)
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= {*ids}
    for node in graph["nodes"]:
        if node["feature_type"] == "logit" and node["clerp"]:
            float(node["clerp"].split("(p=")[1].split(")")[0])


def made_node(kind: str, layer: str, which: int, pos: int, **more: Any) -> Json:
    """A node as circuit-tracer writes it."""
    types = {
        "feature": "cross layer transcoder",
        "error": "mlp reconstruction error",
        "token": "embedding",
        "logit": "logit",
    }
    feature = which
    if kind == "feature":
        n = int(layer) + which
        feature = n * (n + 1) // 2 + which
    return {
        "node_id": f"{layer}_{which}_{pos}",
        "feature": pos if kind == "token" else feature,
        "layer": layer,
        "ctx_idx": pos,
        "feature_type": types[kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{which}-0",
        "clerp": "",
        "influence": 0.5,
        "activation": None,
        **more,
    }


def transcoder_graph() -> Json:
    """A graph of a model of two layers, as circuit-tracer writes one and a reader of Neuronpedia saves it.

    Into "rain" go 3 from feature 1/7, 1 from the error of layer 1 and −2 from feature 0/5. Feature 1/7 is active at 4,
    by 6 from feature 0/5 and −2 from the token; feature 0/5 is active at 2, by the token alone.
    """
    nodes = [
        made_node("feature", "0", 5, 1, activation=2.0, clerp="weather", influence=0.2),
        made_node("feature", "1", 7, 1, activation=4.0, clerp="<b>Spain</b>", influence=0.1),
        made_node("error", "1", -1, 1, influence=0.9),
        made_node("token", "E", 2, 0),
        made_node("token", "E", 99, 1),
        made_node("logit", "3", 11, 1, token_prob=0.6, is_target_logit=True, clerp='Output " rain" (p=0.600)'),
        made_node("logit", "3", 12, 1, token_prob=0.2, clerp='Output " "q"" (p=0.200)'),
    ]
    links = {
        ("E_99_1", "0_5_1"): 2.5,
        ("0_5_1", "1_7_1"): 6.0,
        ("E_99_1", "1_7_1"): -2.0,
        ("1_7_1", "3_11_1"): 3.0,
        ("1_-1_1", "3_11_1"): 1.0,
        ("0_5_1", "3_11_1"): -2.0,
        ("0_5_1", "3_12_1"): 0.5,
    }
    return {
        "metadata": {
            "slug": "rain",
            "scan": "gemma-2-2b",
            "transcoder_list": [],
            "prompt_tokens": ["<bos>", "Spain"],
            "prompt": "<bos>Spain",
            "node_threshold": 0.8,
            "schema_version": 1,
            "feature_details": {"neuronpedia_source_set": "gemmascope-transcoder-16k"},
            "info": {"creator_name": "someone", "generator": {"name": "circuit-tracer", "version": "1"}},
            "generation_settings": {"max_n_logits": 2, "desired_logit_prob": 0.95},
            "pruning_settings": {"node_threshold": 0.8, "edge_threshold": 0.98},
        },
        "qParams": {
            "pinnedIds": ["1_7_1", "0_5_1", "E_99_1"],
            "supernodes": [["place", "1_7_1", "E_99_1"]],
            "linkType": "both",
            "clickedId": "1_7_1",
            "sg_pos": "1,2",
        },
        "nodes": nodes,
        "links": [{"source": s, "target": t, "weight": w} for (s, t), w in links.items()],
    }


def as_circuit_tracer_has_it(circuit: Circuit, graph: Json) -> Json:
    """An exported graph of a circuit that is linear (found by gradients from zero) as if circuit-tracer had made it: no
    word of ours, and each link the effect on its target itself, which is the target's activation by the share of the
    target's attribution that the edge is of.
    """
    nodes = {node["node_id"]: made for node, made in zip(graph["nodes"], circuit.nodes, strict=True)}
    links = []
    for link in graph["links"]:
        target = nodes[link["target"]]
        into = 1.0 if target.is_logit else target.activation / target.attribution
        links.append({"source": link["source"], "target": link["target"], "weight": link["weight"] * into})
    return {
        "metadata": {key: value for key, value in graph["metadata"].items() if key != "circuitlens"},
        "qParams": graph["qParams"],
        "nodes": [
            {**{key: value for key, value in node.items() if key != "circuitlens"}, "activation": made.activation}
            for node, made in zip(graph["nodes"], circuit.nodes, strict=True)
        ],
        "links": links,
    }


def written(path: Path, graph: object) -> Path:
    """The graph as a file."""
    path.write_text(json.dumps(graph))
    return path


def links_of(graph: Json) -> dict[tuple[str, str], Any]:
    """The links, whose order says nothing."""
    return {(link["source"], link["target"]): link for link in graph["links"]}


def nodes_of(graph: Json) -> dict[str, Any]:
    """The nodes by their ids."""
    return {node["node_id"]: node for node in graph["nodes"]}
