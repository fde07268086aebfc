"""The type checker of test runs: beartype, for what says shapes; the rest is pyright's.

jaxtyping's import hook would decorate every function, which costs each call 50 µs, and an inner one anew at each call
of the outer one, which costs a millisecond: more than half the time of the tests. So it decorates those that say shapes
and are no inner ones.
"""

from __future__ import annotations

import ast
from typing import Any

from beartype import beartype
from jaxtyping._import_hook import JaxtypingTransformer

SHAPES = {"Bool", "Float", "Int", "Shaped", "Gaps"}
"""jaxtyping's names, and the one alias of them."""

shape_checker = beartype

_whole_function, _whole_class = JaxtypingTransformer.visit_FunctionDef, JaxtypingTransformer.visit_ClassDef


def says_shapes(*annotations: ast.AST | None) -> bool:
    """Whether one of the annotations is of shapes."""
    parts = (part for annotation in annotations if annotation for part in ast.walk(annotation))
    return any(isinstance(part, ast.Name) and part.id in SHAPES for part in parts)


def _visit_function(self: Any, node: ast.FunctionDef) -> ast.FunctionDef:
    if says_shapes(node.args, node.returns):
        body, node.body = node.body, []
        _whole_function(self, node)
        node.body = body
    return node


def _visit_class(self: Any, node: ast.ClassDef) -> ast.ClassDef:
    fields = (part.annotation for part in node.body if isinstance(part, ast.AnnAssign))
    (_whole_class if says_shapes(*fields) else JaxtypingTransformer.generic_visit)(self, node)
    return node


JaxtypingTransformer.visit_FunctionDef = _visit_function
JaxtypingTransformer.visit_ClassDef = _visit_class
