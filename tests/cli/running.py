"""What the command line's tests call it through."""

from collections.abc import Callable

Here = Callable[..., tuple[int, str, str]]
"""Runs `circuitlens` with some words in this process: exit code, stdout, stderr."""
