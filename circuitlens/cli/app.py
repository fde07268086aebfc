"""The command line put together. torch, Dash and adapters are imported where they are needed, so that help is quick.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 3 the verdict is not the required one.
Errors go to stderr as one sentence.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from typing import Annotated

import typer

from circuitlens.cli.adapter_options import AdapterCommand
from circuitlens.cli.corpus import app as corpus
from circuitlens.cli.doctor import doctor
from circuitlens.cli.exchange import export, import_
from circuitlens.cli.find import find
from circuitlens.cli.label import label
from circuitlens.cli.output import print_table, printable
from circuitlens.cli.plugin import new_plugin
from circuitlens.cli.prompts import prompts
from circuitlens.cli.runs import merge, runs
from circuitlens.cli.share import share
from circuitlens.cli.verify import verify
from circuitlens.cli.view import demo, view
from circuitlens.errors import CircuitLensError, is_no_memory

app = typer.Typer(
    name="circuitlens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find, check and show feature circuits: how a model's sparse features combine into one decision.",
)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or pipe that can't show "→" shows "?"
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("circuitlens_saelens").setLevel(logging.INFO)  # what is downloaded, and how large it is
    code: str | int | None = 0
    try:
        app()
    except SystemExit as stop:
        code = stop.code
    except CircuitLensError as error:
        code = _say(str(error))
    except Exception as error:
        if not (told := _told_of_system(error)):
            raise
        code = _say(told)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = 1 if code == 1 else _say(f"Can't print: {error.strerror}.")
        # What can't be printed would be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _say(message: str) -> int:
    with suppress(OSError):
        sys.stderr.write(f"Error: {printable(message)}\n")
        sys.stderr.flush()
    return 1


def _told_of_system(error: Exception) -> str:
    """A sentence on what the system refused, and nothing on what may be a fault of the program."""
    if is_no_memory(error):
        return "There is not enough memory for this: close other programs, or ask for less."
    if isinstance(error, OSError):
        about = f" {error.filename!r}" if error.filename else ""
        return f"The system can't read or write{about}: {error.strerror or error}."
    return ""


def _print_version(wanted: bool) -> bool:
    if wanted:
        import circuitlens

        typer.echo(circuitlens.__version__)
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand before a command; `--version` is handled by its callback."""


def adapters() -> None:
    """List the installed adapters."""
    from circuitlens.registry import ALIASES, installed_adapters

    older = {name: f" (once {alias})" for alias, name in ALIASES.items()}
    rows = [(a.name + older.get(a.name, ""), a.package, a.version) for a in installed_adapters()]
    print_table([("Adapter", "Package", "Version"), *rows])


def releases(
    model: Annotated[str | None, typer.Argument(help="Part of a model's name; without it, of all models.")] = None,
) -> None:
    """List the published SAEs that adapters load by name, for which model, and how large one of them is."""
    from circuitlens.registry import releases

    found = releases(model)
    if not found:
        near = get_close_matches(model or "", {release.model for release in releases()}, n=3, cutoff=0.5)
        hint = f" Names like it: {', '.join(near)}." if near else ""
        raise CircuitLensError(
            f"No release is for a model called {model!r}.{hint} See them all with `circuitlens releases`."
        )
    rows = [(r.name, r.model, str(r.count), r.size, "no: it " + r.refused if r.refused else "yes") for r in found]
    print_table([("Release", "Model", "SAEs", "One takes", "Loads"), *rows])


app.command()(demo)
app.command()(adapters)
app.command()(releases)
app.command(cls=AdapterCommand)(find)
app.command(cls=AdapterCommand)(verify)
app.command(cls=AdapterCommand)(merge)
app.command()(runs)
app.command(cls=AdapterCommand)(label)
app.add_typer(corpus, name="corpus")
app.command()(prompts)
app.command()(view)
app.command()(share)
app.command()(doctor)
app.command()(new_plugin)
app.command()(export)
app.command("import", cls=AdapterCommand)(import_)
