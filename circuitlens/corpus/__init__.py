"""What features do on a text of one's own: a folder with each one's contexts, density and histogram, built and read."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitlens.corpus.building import build as build
    from circuitlens.corpus.reading import Context as Context
    from circuitlens.corpus.reading import Corpus as Corpus
    from circuitlens.corpus.reading import FeatureRecord as FeatureRecord
    from circuitlens.corpus.reading import read as read

_PUBLIC = {
    "Context": "reading",
    "Corpus": "reading",
    "FeatureRecord": "reading",
    "build": "building",
    "read": "reading",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:  # a page that only reads a corpus needs no torch
        return getattr(import_module(f"circuitlens.corpus.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
