"""Shared fixtures. The toy is trained once a session, into a cache of the session's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import settings

from tests import typecheck  # noqa: F401 (pyproject.toml names it by its package alone)

# Before anything reads it, and in the environment, so that subprocesses use the same cache.
_CACHE = tempfile.TemporaryDirectory(prefix="circuitlens-tests-")
os.environ["CIRCUITLENS_CACHE"] = _CACHE.name
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_HUB_OFFLINE"] = "1"
# Small matrices gain nothing from a second thread, and two that wait for each other on a busy machine lose minutes.
os.environ["OMP_NUM_THREADS"] = "1"

from playwright.sync_api import Browser  # noqa: E402

import circuitlens  # noqa: E402
from circuitlens.adapter import Adapter  # noqa: E402
from circuitlens.circuit import Circuit  # noqa: E402
from tests.models import SAE_LENS_LAYOUTS  # noqa: E402
from tests.tiny_transformer import Layout, TinyTransformer  # noqa: E402

# No test is a clock: a busy machine is no failure.
settings.register_profile("circuitlens", deadline=None)
settings.load_profile("circuitlens")


@pytest.fixture(scope="session", autouse=True)
def _cache() -> Iterator[None]:
    yield
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def toy() -> Adapter:
    return circuitlens.load("toy")


@pytest.fixture(scope="session")
def toy64() -> Adapter:
    return circuitlens.load("toy", dtype="float64")


@pytest.fixture(
    scope="session",
    params=["toy float32", "toy float64", *get_args(Layout), *(f"SAE-Lens {name}" for name in SAE_LENS_LAYOUTS)],
)
def model(request: pytest.FixtureRequest) -> Adapter:
    """Every kind of model and site layout the engine has to serve (the transformers' weights are random)."""
    if request.param.startswith("toy"):
        return circuitlens.load("toy", dtype=request.param.split()[1])
    if request.param.startswith("SAE-Lens"):
        from tests.saelens import wrapped

        return wrapped(request.param.removeprefix("SAE-Lens "))
    return TinyTransformer(layout=request.param)


@pytest.fixture(scope="session")
def cats(toy: Adapter) -> Circuit:
    return circuitlens.find(toy, prompt="The cats", answer="run", distractor="runs")


@pytest.fixture(scope="session")
def cat(toy: Adapter) -> Circuit:
    return circuitlens.find(toy, prompt="The cat", answer="runs", distractor="run")


@pytest.fixture(scope="session")
def gpt2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a shrunken GPT-2 of twelve layers and its SAEs."""
    from tests.hub import write_gpt2, write_release

    home = tmp_path_factory.mktemp("gpt2")
    write_gpt2(home, layers=12)
    layers = [f"blocks.{n}.hook_resid_pre" for n in range(12)]
    write_release(home, "gpt2-small-res-jb", [*layers, "blocks.11.hook_resid_post"])
    return home


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium, in which a test opens pages of its own."""
    from tests.browser import chromium, find_chromium

    executable = find_chromium()
    if executable is None:
        reason = (
            "no Chromium or Chrome is installed (Debian: apt-get install chromium), or name one in CIRCUITLENS_CHROMIUM"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(executable) as started:
        yield started
