"""What a search is said to take: by hand from two trials, and by a trial of the real thing, which changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitlens.adapter import Adapter
from circuitlens.discovery import search_many
from circuitlens.pipeline import estimate, run
from circuitlens.pipeline.estimate import Estimate, Trial
from circuitlens.torch_modes import own_modes
from tests.circuits import toy_pairs

ONE, FEW = Trial(1, 2.0, 100), Trial(4, 3.5, 160)
"""Each further prompt adds half a second and 20 bytes."""


def test_batches_are_estimated_from_one_prompt_and_a_few(toy: Adapter) -> None:
    search = search_many(toy, toy_pairs(10), batch_size=4)
    assert [len(batch) for batch in search.batches] == [4, 4, 2]
    assert Estimate(ONE, FEW, 0, 0).seconds(search) == 3.5 + 3.5 + 2.5
    assert Estimate(ONE, None, 0, 0).seconds(search) == 10 * 2.0, "one prompt does not tell what a batch saves"
    assert Estimate(ONE, FEW, 0, 0).growth(16) == 100 + 15 * 20
    noisy = Trial(4, 1.0, 900)
    assert Estimate(ONE, noisy, 0, 0).growth(16) == 16 * 100, "no prompt takes more than the first"
    assert Estimate(ONE, noisy, 0, 0).seconds(search) == 3 * 2.0, "nor less than nothing"


@pytest.mark.parametrize(("free", "size"), [(500, 16), (499, 8), (300, 8), (200, 4), (125, 1), (1, 1)])
def test_the_largest_batch_fits_in_four_fifths_of_what_is_free(free: int, size: int) -> None:
    assert Estimate(ONE, FEW, 0, free).largest_batch() == size


def test_a_trial_changes_nothing(toy: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_many(toy, toy_pairs(12), batch_size=4)
    with own_modes(gradients=True):
        expected = run(search)
        monkeypatch.setattr(estimate, "SHORT", 0.0)
        found = estimate.estimate(search)
        assert run(search) == expected
    assert (found.tried, found.one.prompts, found.few and found.few.prompts) == (4, 1, 4)
    assert found.one.seconds > 0
    assert found.held > 10_000_000


def test_what_does_not_fit_with_a_few_is_done_one_by_one(toy: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate._tried

    def tried(search: object, count: int, held: int) -> Trial:
        if count > 1:
            torch.empty(10**15)  # what torch raises on a CPU
        return whole(search, count, held)  # type: ignore[arg-type]

    monkeypatch.setattr(estimate, "SHORT", 0.0)
    monkeypatch.setattr(estimate, "_tried", tried)
    search = search_many(toy, toy_pairs(12))
    with own_modes(gradients=True):
        found = estimate.estimate(search)
        assert found.largest_batch() == 1
        assert run(replace(search, batch_size=1)).found is not None
