"""A corpus built: texts in windows, the model run to each site, and what its features did there taken into statistics.

1. Pieces of text are cut into windows until a batch is full; whole pieces are read, so that a count of them says how
   far the work is.
2. The model is run to its last site; coders run on what each site reads, and only active features are kept.
3. From time to time, and at the end, the folder is brought up to date. One that was begun goes on from there.

Results depend on the pieces and not on interruptions: a batch never joins pieces that a restart would part.
Memory: one batch, the statistics (about 0.4 kB a feature), and the tokens of `SEGMENT` windows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from circuitlens.adapter import Adapter, Inputs, Site
from circuitlens.corpus.folder import (
    DOCUMENT,
    MAX_CONTEXT,
    MAX_TOP,
    SEGMENT,
    CorpusRecord,
    CorpusSite,
    CorpusText,
    pair_of,
    read_record,
    read_segment,
    remove_old,
    write_record,
    write_segment,
)
from circuitlens.corpus.reading import Corpus, read
from circuitlens.corpus.statistics import Active, read_statistics, write_statistics
from circuitlens.corpus.texts import Text, open_texts
from circuitlens.corpus.windows import BATCH, Window, batches, cut_windows
from circuitlens.errors import AdapterError, CorpusError
from circuitlens.files import locked, remove_dead_parts
from circuitlens.files.writing import PART
from circuitlens.fingerprint import difference, fingerprint_of
from circuitlens.progress import Progress, ProgressCallback
from circuitlens.prompts.alignment import tokenize_pairs
from circuitlens.prompts.pairs import Pair
from circuitlens.runs import run_held
from circuitlens.torch_modes import own_modes
from circuitlens.tracing import trace

CONTEXT, TOP, MAX_TOKENS = 64, 10, 10_000_000
SECONDS = 60.0
"""How long what was done may be only in memory."""
ASKED = ("adapter", "options", "sites", "texts", "context", "top", "max_tokens")
"""What makes one corpus another."""


def build(
    adapter: Adapter,
    folder: str | os.PathLike[str],
    texts: Sequence[str | os.PathLike[str]] = (),
    *,
    context: int = CONTEXT,
    top: int = TOP,
    max_tokens: int = MAX_TOKENS,
    seconds: float = SECONDS,
    progress: ProgressCallback | None = None,
) -> Corpus:
    """Record what each feature of an adapter does on texts: how often it is active, how strongly, and where most.

    Args:
        adapter: a model with its sparse coders.
        folder: where it is kept. One that was begun with the same model, texts and sizes goes on where it was.
        texts: files of plain text, of JSON Lines with a field "text" (.jsonl), or names of datasets in the Hugging Face
            cache; none for the sample that comes along (or the adapter's own).
        context: tokens of a window, which the model reads by itself.
        top: how many windows to keep of each feature.
        max_tokens: where to end, if the texts do not before.
        seconds: how long what was done may be only in memory.
        progress: told how much of the texts is done, in bytes; what it raises ends the work and comes out.

    Raises:
        CorpusError: a text can't be read, the folder can't be written or holds another corpus, or a size is out of
            range.
        AdapterError: the model's numbers are not finite.
    """
    if not (2 <= context <= MAX_CONTEXT and 1 <= top <= MAX_TOP and max_tokens >= 1):
        raise CorpusError(
            f"context is {context}, top {top} and max_tokens {max_tokens}: give 2 to {MAX_CONTEXT} tokens, 1 to "
            f"{MAX_TOP} windows, and at least 1 token in all."
        )
    opened, path = open_texts(adapter, texts), Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise CorpusError(f"Can't make the folder {str(path)!r}: {fault.strerror}. Give another.") from fault
    with own_modes(gradients=False), locked(path / DOCUMENT, CorpusError):
        remove_dead_parts(path)
        asked = _record(adapter, opened, {"context": context, "top": top, "max_tokens": max_tokens})
        record = _begin(path, asked, adapter)
        remove_old(path, record)
        if not record.done:
            _Building(adapter, path, record, seconds).run(opened, progress)
    return read(path)


def _record(adapter: Adapter, texts: Sequence[Text], sizes: dict[str, Any]) -> CorpusRecord:
    """What is asked, nothing of it done; its fingerprint is on the adapter's first example."""
    example = adapter.examples[0]
    pair = Pair.model_construct(prompt=example.prompt, corrupted=None, answer=(example.answer,), distractor=())
    batch = tokenize_pairs(adapter, [pair], lambda logits: logits[:, 0])
    return CorpusRecord(
        adapter=adapter.name,
        options=adapter.options,
        prompt=example.prompt,
        answer=example.answer,
        fingerprint=fingerprint_of(trace(adapter, batch.clean, batch.metric, graph=False)),
        sites=tuple(
            CorpusSite(name=s.name, hook=s.write, kind=s.kind, layer=s.layer, features=s.coder.d_sae)
            for s in adapter.sites
            if s.coder is not None
        ),
        texts=tuple(CorpusText(name=text.name, digest=text.digest) for text in texts),
        **sizes,
    )


def _begin(folder: Path, asked: CorpusRecord, adapter: Adapter) -> CorpusRecord:
    """The record of the folder, a new one where there is none; CorpusError where it is of something else."""
    if not (folder / DOCUMENT).exists():
        if other := [path.name for path in folder.iterdir() if not PART.fullmatch(path.name)]:
            raise CorpusError(f"{str(folder)!r} holds {min(other)!r} and no corpus: give a new folder.")
        write_record(folder, asked)
        return asked
    known = read_record(folder)
    told = ""
    for name in ASKED:
        ours, theirs = _comparable(getattr(asked, name)), _comparable(getattr(known, name))
        if ours != theirs:
            told = told or f"its {name} is {theirs!r:.300}, and now it is {ours!r:.300}"
    if not told and asked.fingerprint.dtype != known.fingerprint.dtype:
        told = f"it was begun in {known.fingerprint.dtype}, and now the model is in {asked.fingerprint.dtype}"
    if told or (told := difference(adapter, known.fingerprint, pair_of(known))):
        raise CorpusError(f"{str(folder)!r} holds another corpus: {told}. Give another folder, or remove this one.")
    return known


def _comparable(value: object) -> object:
    """What corpora have to have in common of a field: where computing is done is no part of it, nor a file's name."""
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if name != "device"}
    if isinstance(value, tuple):
        return [each.digest if isinstance(each, CorpusText) else each.model_dump() for each in value]
    return value


class _Building:
    """The work on one folder, from where its record says it is."""

    def __init__(self, adapter: Adapter, folder: Path, record: CorpusRecord, seconds: float):
        self.adapter, self.folder, self.record, self.seconds = adapter, folder, record, seconds
        self.statistics = read_statistics(folder, record)
        self.sites = [site for site in adapter.sites if site.coder is not None]
        self.segment = record.windows // SEGMENT
        here = record.windows % SEGMENT
        self.waiting: list[Sequence[str]] = list(read_segment(folder, self.segment)[:here]) if here else []
        self.windows = record.windows

    def run(self, texts: Sequence[Text], callback: ProgressCallback | None) -> None:
        """Read what is left of the texts."""
        pieces = (piece for text in texts for piece in text.pieces())
        total, last = sum(text.size for text in texts), time.monotonic()
        with Progress(total if all(text.size for text in texts) else 0, callback, "B") as progress:
            skipped = sum(len(piece.encode()) for piece in islice(pieces, self.record.pieces))
            progress.step("earlier", skipped)
            for count, windows, unread, size in _groups(self.adapter, pieces, self.record.context):
                self._take(windows)
                self.record = self.record.model_copy(
                    update={
                        "pieces": self.record.pieces + count,
                        "windows": self.windows,
                        "tokens": self.record.tokens + sum(len(w.tokens) - self.adapter.bos for w in windows),
                        "unread": self.record.unread + unread,
                    }
                )
                progress.step("reading", size)
                if self.record.tokens >= self.record.max_tokens:
                    break
                if time.monotonic() - last >= self.seconds:
                    self._keep()
                    last = time.monotonic()
        if not self.record.tokens:
            raise CorpusError(
                f"The adapter {self.adapter.name!r} can't read any of the texts: give others, or none for its sample."
            )
        self.record = self.record.model_copy(update={"done": True})
        self._keep()

    def _take(self, windows: Sequence[Window]) -> None:
        for inputs in batches(self.adapter, windows):
            for statistics, active in zip(self.statistics, self._active(inputs), strict=True):
                statistics.add(active)
            self.windows += len(inputs.tokens)
            self.waiting += inputs.tokens
            while len(self.waiting) >= SEGMENT:
                write_segment(self.folder, self.segment, self.waiting[:SEGMENT])
                self.segment, self.waiting = self.segment + 1, self.waiting[SEGMENT:]

    def _active(self, inputs: Inputs) -> list[Active]:
        """What is active at each site, but at the adapter's own first token."""
        counted = inputs.mask.clone()
        if self.adapter.bos:
            counted[:, 0] = False
        found: list[Active] = []

        def hold(site: Site, read: Tensor, write: Tensor) -> Tensor | None:
            assert site.coder is not None, "only sites with a coder are held"
            f = site.coder.encode(read)
            if site.coder.stateful:
                site.coder.decode(f)  # what a coder keeps from encode is used up by one decode
            f = f * counted[..., None]
            window, pos, index = f.nonzero(as_tuple=True)
            value = f[window, pos, index]
            if not value.isfinite().all():
                raise AdapterError(f"The features at {site.write} are not all finite numbers.")
            parts = (window.cpu() + self.windows, pos.cpu(), index.cpu(), value.cpu())
            found.append(Active(*parts))
            return write if len(found) < len(self.sites) else None

        run_held(self.adapter, inputs, self.sites, hold)
        return found

    def _keep(self) -> None:
        """Bring the folder up to date."""
        if self.waiting:
            write_segment(self.folder, self.segment, self.waiting)
        write_statistics(self.folder, self.record, self.statistics)
        write_record(self.folder, self.record)


def _groups(adapter: Adapter, pieces: Iterator[str], length: int) -> Iterator[tuple[int, list[Window], int, int]]:
    """Whole pieces, as many as make a batch: their number, their windows, parts that can't be read, and their bytes."""
    count, windows, unread, size = 0, list[Window](), 0, 0
    for piece in pieces:
        more, wrong = cut_windows(adapter, piece, length)
        count, unread, size = count + 1, unread + wrong, size + len(piece.encode())
        windows += more
        if len(windows) >= BATCH or count >= 100 * BATCH:
            yield count, windows, unread, size
            count, windows, unread, size = 0, [], 0, 0
    if count:
        yield count, windows, unread, size
