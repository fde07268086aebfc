"""The adapter keeps its contract: `circuitlens.testing` has the checks, and each says what it found."""

from collections.abc import Callable

import pytest

import circuitlens
from circuitlens.adapter import Adapter
from circuitlens.testing import CONTRACT


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """The adapter, found by its name as the command line finds it."""
    return circuitlens.load("counter")


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(adapter: Adapter, check: Callable[[Adapter], object]) -> None:
    """Every check of the contract holds."""
    check(adapter)
