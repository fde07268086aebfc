"""The page's state as TypeScript types, made from its schema: `make lint-js` checks the page's script against them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from circuitlens.viewer.page_state import schema


def declarations(root: dict[str, Any]) -> str:
    """An interface for the schema and for each that it refers to."""
    named = {root["title"]: root, **root["$defs"]}
    return "\n".join(f"interface {name} {typescript(form)}" for name, form in named.items()) + "\n"


def typescript(form: dict[str, Any]) -> str:
    """The type of the values that a schema allows."""
    match form:
        case {"$ref": reference}:
            return reference.split("/")[-1]
        case {"anyOf": options}:
            return f"({' | '.join(map(typescript, options))})"
        case {"const": value}:
            return f'"{value}"'
        case {"enum": values}:
            return " | ".join(f'"{value}"' for value in values)
        case {"type": "array", "prefixItems": items}:
            return f"[{', '.join(map(typescript, items))}]"
        case {"type": "array", "items": items}:
            return f"({typescript(items)})[]"
        case {"type": "object", "properties": fields}:
            return "{ " + " ".join(f"{name}: {typescript(field)};" for name, field in fields.items()) + " }"
        case {"type": "object", "additionalProperties": values}:
            return f"Record<string, {typescript(values)}>"
        case {"type": "integer"}:
            return "number"
        case {"type": kind}:
            return kind
    raise ValueError(f"no type for {form}")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(exist_ok=True)
    path.write_text(declarations(schema()))
