"""The words of prompts: lists without repetition, and a lexicon that is loaded on use only."""

from __future__ import annotations

import subprocess
import sys

from circuitlens.prompts.words import EVENTS, NAMES, NOUNS, PEOPLE, plural_of


def test_the_lists_are_sound() -> None:
    for words in (NOUNS, PEOPLE, NAMES, EVENTS):
        assert len(set(words)) == len(words) >= 50
    for noun in PEOPLE:
        assert plural_of(noun) != noun


def test_the_lexicon_is_loaded_on_use_only() -> None:
    code = "import sys, circuitlens.prompts.variants; print({'lemminflect', 'torch', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
