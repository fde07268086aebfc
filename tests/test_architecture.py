"""The shape of the code: data flows one way, parts are small, start-up is light, and every plugin is packed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import circuitlens
from circuitlens.circuit import schema
from circuitlens.distribution import DISTRIBUTION, OTHER

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = ["circuitlens_saelens", "circuitlens_toy"]
# Rooms from left to right: a module imports only from its own room and from those to its left, anywhere in its file.
ROOMS = [
    *(
        "errors",
        "distribution",
        "files",
        "literals",
        "options",
        "progress",
        "torch_modes",
        "prompts.pairs",
        "prompts.words",
    ),
    *("prompts.tasks", "coder", "adapter", "registry", "claims", "prompts", "rules", "tracing", "cuts"),
    *("runs", "edits"),
    *("attribution", "circuit", "fingerprint", "corpus", "pipeline", "runfolder", "discovery", "evaluation", "meaning"),
    *("interchange", "report", "viewer", "__init__", "testing", "cli", "__main__"),
]
# What plugins may import.
CONTRACT = {"errors", "files", "literals", "options", "torch_modes", "adapter", "prompts.words"}
ALLOWED = {
    ("circuitlens.circuit.circuit", "circuitlens.viewer"),  # Circuit.view, when it is called
    ("circuitlens", "circuitlens_saelens"),  # circuitlens.wrap, when it is asked for
}
MODULE_LINES, FUNCTION_LINES = 350, 60


def name_of(path: Path) -> str:
    """The dotted name of a module of the product."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("plugins", "__init__"))


MODULES = {name_of(path): path for folder in ("circuitlens", "plugins") for path in (ROOT / folder).rglob("*.py")}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """What a file imports, anywhere in it: at its top, in functions and for the type checker."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES or whole.startswith("tests.") else str(node.module)


ARROWS = {(name, other) for name, path in MODULES.items() for other in imports(path) if other in MODULES} - ALLOWED


def room(name: str) -> str:
    """The room of a module of circuitlens, which may be a module itself."""
    inner = name.removeprefix("circuitlens").removeprefix(".") or "__init__"
    found = [room for room in ROOMS if f"{inner}.".startswith(f"{room}.")]
    assert found, f"{name} is in no room: give it a place in ROOMS"
    return max(found, key=len)


def ours(name: str) -> bool:
    return name.split(".")[0] == "circuitlens"


def test_every_room_is_there() -> None:
    assert {room(name) for name in MODULES if ours(name)} == set(ROOMS)


def test_a_module_imports_only_from_rooms_to_its_left() -> None:
    inside = {(name, other) for name, other in ARROWS if ours(name) and ours(other)}
    assert len(inside) > 50
    assert not {arrow for arrow in inside if ROOMS.index(room(arrow[1])) > ROOMS.index(room(arrow[0]))}


def test_contributing_names_the_rooms_in_their_order_and_the_contract() -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    (row,) = re.findall(r"`(errors → [^`]*)`", text)
    named = ["__init__" if name == "circuitlens" else name for name in row.split(" → ")]
    assert [name for name in named if name in ROOMS] == [name for name in ROOMS if name != "__main__"]
    (contract,) = re.findall(r"Plugins import only (.*?`)\. ", text)
    assert set(re.findall(r"`([^`]+)`", contract)) >= CONTRACT


def test_no_import_goes_round_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, other in ARROWS:
        graph.setdefault(name, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(reversed(circle.args[1])))


def test_the_exceptions_are_needed() -> None:
    assert len(ALLOWED) <= 2
    for name, other in ALLOWED:
        assert other in imports(MODULES[name])


def test_nothing_of_ours_imports_a_plugin_and_plugins_use_the_contract_only() -> None:
    crossing = {(name, other) for name, other in ARROWS if name.split(".")[0] != other.split(".")[0]}
    assert {name.split(".")[0] for name, _ in crossing} == set(PLUGINS)
    assert {room(other) for _, other in crossing if ours(other)} <= CONTRACT
    assert all(ours(other) for _, other in crossing), "one plugin imports another"


def test_public_names_are_those_that_type_checkers_see() -> None:
    """What resolves on first use is written twice in `circuitlens/__init__.py`: as an import, and as a name."""
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree(MODULES["circuitlens"]))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("circuitlens")
        for alias in node.names
    }
    assert seen == circuitlens._PUBLIC


def test_modules_are_short() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or 0) - node.lineno + 1
                if count > FUNCTION_LINES:
                    long[f"{name}.{node.name}"] = count
    assert long == {}


def test_no_test_file_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for name in imports(path):
            if name.startswith("tests."):
                assert not re.search(r"\.(test_\w+|conftest)\b", name), f"{path} imports {name}"


def test_the_laws_say_where_they_are_tested() -> None:
    files = re.findall(r"`((?:tests|circuitlens)/[^`]+\.py)`", (ROOT / "docs/laws.md").read_text())
    assert len(set(files)) > 10
    for file in files:
        assert (ROOT / file).is_file(), file


def test_what_is_imported_is_declared_in_a_version_that_is_tried() -> None:
    declared = {}
    extras = PROJECT["project"]["optional-dependencies"]
    for words in (*PROJECT["project"]["dependencies"], *extras["plots"], *extras["ray"]):
        requirement = Requirement(words)
        declared[canonicalize_name(requirement.name)] = requirement.specifier
    roots = {name.split(".")[0] for path in MODULES.values() for name in imports(path)}
    ours = {"_typeshed"}  # of the type checker
    ours |= {root for root in roots if root in sys.stdlib_module_names or root.startswith("circuitlens")}
    foreign = roots - ours
    packages = packages_distributions()
    for root in foreign:
        (package,) = set(packages[root])
        assert canonicalize_name(package) in declared, f"{root} is imported: declare {package} in pyproject.toml"
        assert Version(version(package)).base_version in declared[canonicalize_name(package)]
    assert len(foreign) > 15


def test_plugins_are_packed_and_declared() -> None:
    folders = {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()}
    packed = {Path(package).name for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    declared = {value.split(":")[0] for value in PROJECT["project"]["entry-points"]["circuitlens.adapters"].values()}
    assert folders == packed - {"circuitlens"} == declared == set(PLUGINS)


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


def test_nothing_tells_people_to_install_the_other_tool() -> None:
    assert PROJECT["project"]["name"] == DISTRIBUTION
    told = re.compile(rf"pip3? install (?:-\S+ )*['\"]?{OTHER}\b(?!-)|\b{OTHER}\[\w+\]", re.IGNORECASE)
    folders = [ROOT / name for name in ("circuitlens", "plugins", "examples", "docs")]
    files = [file for folder in folders for file in folder.rglob("*")] + [*ROOT.iterdir()]
    files = [file for file in files if file.suffix in (".py", ".md", ".toml")]
    assert len(files) > 100
    assert [str(file) for file in files if told.search(file.read_text())] == []
    for file in (ROOT / "pyproject.toml", *ROOT.glob("examples/**/pyproject.toml")):
        needed = tomllib.loads(file.read_text())["project"]["dependencies"]
        assert OTHER not in {Requirement(words).name for words in needed}


def test_version_has_a_changelog_entry() -> None:
    assert f"\nversion: {PROJECT['project']['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {PROJECT['project']['version']}" in (ROOT / "CHANGELOG.md").read_text()
