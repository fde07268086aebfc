"""Circuits: plain values that are pruned, walked, compared and kept in files; no tensors and no model."""

from circuitlens.circuit.circuit import ANSWER as ANSWER
from circuitlens.circuit.circuit import DISTRACTOR as DISTRACTOR
from circuitlens.circuit.circuit import FORMAT as FORMAT
from circuitlens.circuit.circuit import MAX_BYTES as MAX_BYTES
from circuitlens.circuit.circuit import VERSION as VERSION
from circuitlens.circuit.circuit import Annotations as Annotations
from circuitlens.circuit.circuit import Circuit as Circuit
from circuitlens.circuit.circuit import CircuitPath as CircuitPath
from circuitlens.circuit.circuit import Edge as Edge
from circuitlens.circuit.circuit import FullGraphSize as FullGraphSize
from circuitlens.circuit.circuit import Group as Group
from circuitlens.circuit.circuit import MetricRecord as MetricRecord
from circuitlens.circuit.circuit import Node as Node
from circuitlens.circuit.circuit import Output as Output
from circuitlens.circuit.circuit import full_name as full_name
from circuitlens.circuit.circuit import open_circuit as open_circuit
from circuitlens.circuit.circuit import schema as schema
