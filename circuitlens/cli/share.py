"""`circuitlens share`: a circuit's file as a page that opens without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from circuitlens.cli.inputs import require_apart
from circuitlens.errors import ViewerError


def share(
    file: Annotated[Path, typer.Argument(help="A circuit file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page to write; by default beside the file, as .html.")
    ] = None,
) -> None:
    """Write a circuit as one file of HTML, to send to somebody: it opens without a server and without a network."""
    output = output or file.parent / f"{file.stem}.html"
    require_apart({"FILE": file, "--output": output})
    from circuitlens.circuit import open_circuit
    from circuitlens.files import format_bytes, write_file
    from circuitlens.viewer.sharing import share

    page = share(open_circuit(file))
    write_file(output, page, ViewerError)
    typer.echo(f"{output}: {format_bytes(len(page))}")
