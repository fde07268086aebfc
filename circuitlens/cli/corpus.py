"""`circuitlens corpus build` and `corpus show`: what features do on a text, recorded and looked at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuitlens.cli.adapter_options import AdapterCommand, given_options
from circuitlens.cli.inputs import MANY, AdapterName, load_adapter, require_installed
from circuitlens.cli.output import print_table, printable
from circuitlens.errors import CorpusError

if TYPE_CHECKING:
    from circuitlens.corpus import Context, Corpus

AROUND = 12
"""Tokens on each side of an active one that are printed."""
BAR = 40
"""Characters of the longest bar of a histogram."""

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Record what each feature does on a text, and look at it."
)


@app.command(cls=AdapterCommand)
def build(
    adapter: AdapterName,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help='Files of plain text or of JSON Lines with a field "text" (.jsonl), or names of datasets in the '
            "Hugging Face cache; without any, the sample that comes along.",
        ),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The corpus's folder; one that was begun goes on.")],
    context: Annotated[int, typer.Option(min=2, max=2048, help="Tokens that the model reads at a time.")] = 64,
    top: Annotated[int, typer.Option(min=1, max=100, help="Contexts to keep of each feature.")] = 10,
    max_tokens: Annotated[int, typer.Option(min=1, max=1000 * MANY, help="Where to end, in tokens.")] = 10 * MANY,
) -> None:
    """Run a model over texts and record, for each feature, its strongest contexts, density and histogram."""
    adapter = require_installed(adapter)
    loaded = load_adapter(adapter, given_options(adapter))
    from circuitlens.corpus import build

    record = build(loaded, output, texts or (), context=context, top=top, max_tokens=max_tokens).record
    features = sum(site.features for site in record.sites)
    unread = f" Parts of the texts that can't be read: {record.unread}." if record.unread else ""
    typer.echo(
        f"{output}: {features} features on {record.tokens} tokens, in windows of at most {record.context}.{unread}"
    )


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A corpus's folder.")],
    feature: Annotated[str, typer.Argument(help="HOOK/INDEX (or SITE/INDEX), or L8/INDEX for a layer with one site.")],
) -> None:
    """Print what a feature did: how often and how strongly it was active, and its contexts."""
    from circuitlens.corpus import read

    corpus = read(folder)
    record = corpus.feature(*_feature(corpus, feature))
    if not corpus.record.done:
        typer.echo(f"{folder} is not whole yet: build it again with the same call to go on.", err=True)
    typer.secho(printable(f"\n{record.hook}/{record.index}"), bold=True)
    typer.echo(f"active at {record.count} of {record.tokens} tokens ({record.density:.3%})")
    if not record.contexts:
        return
    most = max(count for _, _, count in record.histogram)
    rows = [("size", "tokens", "")]
    for low, high, count in record.histogram:
        rows.append((f"{low:.3g} to {high:.3g}", str(count), "█" * max(1, round(BAR * count / most))))
    print_table(rows)
    for title, contexts in (("strongest", record.contexts), ("weaker", record.weaker)):
        if contexts:
            typer.echo("")
            print_table([(title, "context"), *((f"{c.value:.3f}", _text(c)) for c in contexts)])


def _feature(corpus: Corpus, typed: str) -> tuple[str, int]:
    """The hook and index that a person means."""
    where, _, number = typed.rpartition("/")
    if not where or not re.fullmatch("[0-9]{1,18}", number):
        raise CorpusError(f"{typed!r} is no feature: write HOOK/INDEX, such as {corpus.record.sites[-1].hook}/4.")
    if corpus.site(where) is None and (layer := re.fullmatch("L?([0-9]{1,9})", where)):
        sites = [site for site in corpus.record.sites if site.layer == int(layer[1])]
        if len(sites) == 1:
            return sites[0].hook, int(number)
    return where, int(number)


def _text(context: Context) -> str:
    """A context in one line, the active token in brackets."""
    start, end = max(context.pos - AROUND, 0), context.pos + AROUND + 1
    before, after = context.tokens[start : context.pos], context.tokens[context.pos + 1 : end]
    text = f"{'…' if start else ''}{''.join(before)}⟦{context.token}⟧{''.join(after)}"
    return f"{text}{'…' if end < len(context.tokens) else ''}".replace("\n", "⏎")
