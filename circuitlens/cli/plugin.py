"""`circuitlens new-plugin`: a package with an adapter to begin with, which keeps its contract as it is written.

What is written is `examples/plugin`, under another name.
"""

from __future__ import annotations

import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from circuitlens.cli.inputs import installed_names
from circuitlens.distribution import DISTRIBUTION
from circuitlens.errors import AdapterError
from circuitlens.files import reason_of
from circuitlens.registry import ALIASES

EXAMPLE = "counter"
"""What the example's adapter is called: the word that becomes the new name wherever it stands."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40


def new_plugin(
    name: Annotated[str, typer.Argument(help="What the adapter is to be called, e.g. my-model.")],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to make; by default circuitlens-NAME, in this one.")
    ] = None,
) -> None:
    """Write a package with an adapter to change into one's own; its tests are the adapter's contract."""
    _require_free(name)
    folder = folder or Path(f"circuitlens-{name}")
    write_plugin(name, folder)
    typer.echo(f"{folder} has the adapter {name!r}. To go on:")
    for line in (f"pip install -e '{folder}[dev]'", f"python -m pytest {folder}", f"circuitlens find {name} --help"):
        typer.echo(f"  {line}")


def write_plugin(name: str, folder: Path) -> None:
    """Write the example under another name into a new folder, whole or not at all.

    Raises:
        AdapterError: something is there already, or it can't be written.
    """
    if folder.exists() or folder.is_symlink():
        raise AdapterError(f"{str(folder)!r} is there already: name a folder that is to be made.")
    try:
        with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".new-plugin-") as part:
            written = Path(part) / "plugin"
            _copy(template(), written, name)
            written.rename(folder)
    except OSError as error:
        raise AdapterError(
            f"Can't make the folder {str(folder)!r}: {reason_of(error)}. Name one in a folder that can be written."
        ) from error


def template() -> Path:
    """The example, in an installed package or a checkout of the repository."""
    packed = Path(__file__).parent / "plugin"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "examples/plugin"


def _require_free(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        told = f"up to {LONGEST} small letters, digits and single hyphens, such as my-model"
        raise typer.BadParameter(f"expected {told}, got {name!r}.", param_hint="NAME")
    taken = name in installed_names() or name in ALIASES or find_spec(_package(name)) is not None
    if taken or f"circuitlens-{name}" == DISTRIBUTION:
        raise typer.BadParameter(f"there is an adapter or a package of the name {name!r} already.", param_hint="NAME")


def _package(name: str) -> str:
    return f"circuitlens_{name.replace('-', '_')}"


def _renamed(text: str, name: str) -> str:
    """A text of the example with the new name in the place of the old one: the package, the class, and the rest."""
    words = {
        f"circuitlens_{EXAMPLE}": _package(name),
        EXAMPLE.capitalize(): "".join(map(str.capitalize, name.split("-"))),
        EXAMPLE: name,
    }
    return re.sub("|".join(words), lambda found: words[found[0]], text)


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy a folder of text files; what Python and tests leave behind is no part of it."""
    target.mkdir()
    for entry in sorted(source.iterdir()):
        if entry.name.startswith(".") or entry.name in ("__pycache__", "build", "dist"):
            continue
        goal = target / _renamed(entry.name, name)
        if entry.is_dir():
            _copy(entry, goal, name)
        else:
            goal.write_text(_renamed(entry.read_text("utf-8"), name), "utf-8")
