"""Write the tables of docs/ from what they are of, checks, releases and commands: `make docs`."""

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from circuitlens.cli.app import app
from circuitlens.evaluation.checks import CHECKS

DOCS = Path(__file__).parent
BEGIN, END = "<!-- made by `make docs` -->", "<!-- end -->"


def main() -> None:
    """Replace what stands between the marks of each page."""
    for name, table in TABLES.items():
        page = DOCS / f"{name}.md"
        before, rest = page.read_text().split(BEGIN)
        _, after = rest.split(END, 1)
        page.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


def checks() -> str:
    """The checks as a table of their thresholds, and a list of their docstrings."""
    rows = [("check", "weak from", "passes from", "decisive", "may be left out"), ("---",) * 5]
    items = []
    for check in CHECKS:
        threshold = ("–", "–") if check.threshold is None else (f"{number:g}" for number in check.threshold)
        rows.append((check.name, *threshold, *("yes" if each else "no" for each in (check.decisive, check.optional))))
        words = f"- **{check.name}**: {inspect.getdoc(check.measure)}".split()
        items.append(textwrap.fill(" ".join(words), 120, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join([_table(rows), "", *items])


def releases() -> str:
    """How many releases load, and all of them as a table."""
    from circuitlens_saelens import SAELensAdapter  # takes seconds

    listed = SAELensAdapter.releases()
    head = [("release", "model", "SAEs", "one takes", "loads by name"), ("---",) * 5]
    rows = [(r.name, r.model, str(r.count), r.size, f"no: it {r.refused}" if r.refused else "yes") for r in listed]
    loading = sum(one.refused is None for one in listed)
    return f"{loading} of {len(listed)} load by name.\n\n{_table([*head, *rows])}"


def commands() -> str:
    """Every command with its own arguments and flags; those that adapters declare depend on what is installed."""
    return "\n\n".join(part for name, command in _walk(get_command(app)) for part in _command(name, command))


def _walk(command: TyperCommand | TyperGroup, name: str = "circuitlens") -> Iterator[tuple[str, TyperCommand]]:
    if not isinstance(command, TyperGroup):
        yield name, command
        return
    for inner, each in command.commands.items():
        yield from _walk(each, f"{name} {inner}")


def _command(name: str, command: TyperCommand) -> Iterator[str]:
    """A heading, what the command does, and a table of what it takes."""
    yield f"### {name}"
    yield inspect.cleandoc(command.help or "")
    rows = [("argument or flag", "what it is"), ("---",) * 2]
    for parameter in command.params:
        flags = [*reversed(parameter.opts), *parameter.secondary_opts]
        names = [parameter.name.upper()] if parameter.param_type_name == "argument" else flags
        rows.append((", ".join(f"`{each}`" for each in names), parameter.help))
    if command.params:
        yield _table(rows)


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


TABLES = {"command-line": commands, "evidence": checks, "releases": releases}


if __name__ == "__main__":
    main()
