"""The command line put together. torch, Dash and adapters are imported where they are needed, so that help is quick.

Exit codes: 0 done, 1 it could not be done, 2 the command line is wrong, 3 the verdict is not the required one.
Errors go to stderr as one sentence.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from circuitlens.cli.adapter_options import AdapterCommand
from circuitlens.cli.find import find
from circuitlens.cli.output import print_table, printable
from circuitlens.cli.prompts import prompts
from circuitlens.cli.verify import verify
from circuitlens.cli.view import demo, view
from circuitlens.errors import CircuitLensError

app = typer.Typer(
    name="circuitlens",
    no_args_is_help=True,
    add_completion=False,
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
    try:
        app()
    except CircuitLensError as error:
        sys.stderr.write(f"Error: {printable(str(error))}\n")
        sys.exit(1)


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
    from circuitlens.registry import installed_adapters

    print_table([("Adapter", "Package", "Version"), *((a.name, a.package, a.version) for a in installed_adapters())])


app.command()(demo)
app.command()(adapters)
app.command(cls=AdapterCommand)(find)
app.command(cls=AdapterCommand)(verify)
app.command()(prompts)
app.command()(view)
