"""Circuits: plain values that are pruned, walked, compared and kept in files; no tensors and no model."""

from circuitlens.circuit.annotations import Annotations as Annotations
from circuitlens.circuit.annotations import Group as Group
from circuitlens.circuit.circuit import Circuit as Circuit
from circuitlens.circuit.circuit import open_circuit as open_circuit
from circuitlens.circuit.circuit import schema as schema
from circuitlens.circuit.document import FORMAT as FORMAT
from circuitlens.circuit.document import MAX_BYTES as MAX_BYTES
from circuitlens.circuit.document import VERSION as VERSION
from circuitlens.circuit.grouping import suggest_groups as suggest_groups
from circuitlens.circuit.meaning import Meaning as Meaning
from circuitlens.circuit.nodes import ANSWER as ANSWER
from circuitlens.circuit.nodes import DISTRACTOR as DISTRACTOR
from circuitlens.circuit.nodes import CircuitPath as CircuitPath
from circuitlens.circuit.nodes import Edge as Edge
from circuitlens.circuit.nodes import FullGraphSize as FullGraphSize
from circuitlens.circuit.nodes import HeadShare as HeadShare
from circuitlens.circuit.nodes import MetricRecord as MetricRecord
from circuitlens.circuit.nodes import Node as Node
from circuitlens.circuit.nodes import Output as Output
from circuitlens.circuit.nodes import full_name as full_name
from circuitlens.circuit.updating import update_file as update_file
