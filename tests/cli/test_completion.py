"""The shell's completion: what it offers, without importing what is heavy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

HEAVY = "{'torch', 'dash', 'sae_lens', 'lemminflect', 'networkx', 'numpy'}"


def offered(words: str) -> tuple[list[str], str]:
    """What bash is offered after some words, the last of which may be empty, and what heavy modules that took."""
    code = (
        "import sys; from circuitlens.cli import main; sys.argv = ['circuitlens']\n"
        f"try: main()\nexcept SystemExit: print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    asked = {
        "_CIRCUITLENS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.split(), done.stderr.strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("circuitlens doc", ["doctor"]),
        ("circuitlens find ", ["toy", "transformerlens"]),
        ("circuitlens corpus build to", ["toy"]),
        ("circuitlens find toy x --dty", ["--dtype"]),  # a flag that an adapter declares
        ("circuitlens verify c.json --require ", ["supported", "weak"]),
    ],
)
def test_what_is_offered_and_what_it_takes(words: str, expected: list[str]) -> None:
    assert offered(words) == (expected, "[]")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_that_is_shown_completes_in_bash() -> None:
    """It is read by bash, which then asks for words as it does when a reader presses Tab."""
    program = shutil.which("circuitlens", path=os.path.dirname(sys.executable))  # noqa: PTH120
    assert program is not None
    folder = program.removesuffix("circuitlens")
    script = (
        f'PATH="{folder}:$PATH"; eval "$(circuitlens --show-completion)"; COMP_WORDS=(circuitlens new-); COMP_CWORD=1\n'
        '_circuitlens_completion circuitlens; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "new-plugin", done.stderr
