"""The shape of the code: data flows one way, start-up is light, and every plugin is packed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import circuitlens
from circuitlens.circuit import schema

ROOT = Path(__file__).parent.parent
ORDER = [
    "errors",
    "files",
    "pairs",
    "tasks",
    "adapter",
    "registry",
    "prompts",
    "tracing",
    "attribution",
    "integration",
    "patching",
    "evidence",
    "circuit",
    "scoring",
    "alignment",
    "discovery",
    "aggregation",
    "features",
    "evaluation",
    "intervention",
    "verification",
    "plots",
    "viewer",
    "cli",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def stage(path: Path) -> str:
    return path.relative_to(ROOT / "circuitlens").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules of circuitlens that a file imports when it is imported itself."""
    found = set()
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.ImportFrom) and (module := statement.module or "").split(".")[0] == "circuitlens":
            found.update(module.split(".")[1:2] or [alias.name for alias in statement.names])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "circuitlens").rglob("*.py")), ids=str)
def test_a_stage_imports_only_stages_to_its_left(path: Path) -> None:
    here = stage(path)
    if here in ("__init__", "__main__", "testing"):
        return
    allowed = {*ORDER[: ORDER.index(here)], here}
    assert imports(path) <= allowed


def test_plugins_are_packed_and_declared() -> None:
    folders = {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()}
    packed = {Path(package).name for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    declared = {value.split(":")[0] for value in PROJECT["project"]["entry-points"]["circuitlens.adapters"].values()}
    assert folders == packed - {"circuitlens"} == declared


def test_plugins_use_the_contract_only() -> None:
    for path in (ROOT / "plugins").rglob("*.py"):
        assert imports(path) <= {"adapter", "errors", "files", "tasks"}, path


@pytest.mark.parametrize("what", ["circuitlens", "circuitlens.cli.app", "circuitlens.circuit", "circuitlens.registry"])
def test_light_modules_import_no_torch(what: str) -> None:
    heavy = "{'torch', 'dash', 'lemminflect', 'networkx', 'numpy'}"
    code = f"import sys, {what}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    for name in [*circuitlens.__all__, "open", "__version__"]:
        assert getattr(circuitlens, name) is not None
    assert set(circuitlens.__all__) <= set(dir(circuitlens))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = circuitlens.nothing


def test_published_schema_is_current() -> None:
    published = json.loads((ROOT / "circuitlens/circuit/circuit.schema.json").read_text())
    assert published == schema(), "run `make schema`"


def test_version_has_a_changelog_entry() -> None:
    assert f"## {PROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()
