"""A corpus is read feature by feature, and a folder that is damaged or none is refused in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from circuitlens import corpus
from circuitlens.adapter import Adapter
from circuitlens.corpus.folder import BINS, LOWEST
from circuitlens.corpus.statistics import Active, SiteStatistics
from circuitlens.errors import CorpusError


@pytest.fixture(scope="module")
def made(toy: Adapter, tmp_path_factory: pytest.TempPathFactory) -> corpus.Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    text = folder / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": line}) for line in list(toy.sample() or ())[:60]))
    return corpus.build(toy, folder / "made", [text], top=5)


@pytest.fixture
def copy(made: corpus.Corpus, tmp_path: Path) -> Path:
    for file in made.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_feature_is_found_by_hook_and_by_site(made: corpus.Corpus) -> None:
    feature = made.feature("hook_sae", 4)
    assert feature == made.feature("sae", 4)
    assert len(feature.contexts) == 5
    assert all(each.token == each.tokens[each.pos] for each in (*feature.contexts, *feature.weaker))
    for hook, index in (("hook_sae", 8), ("hook_sae", -1), ("nothing", 0)):
        with pytest.raises(CorpusError, match=r"it has hook_input \(0 to 1\), hook_hidden"):
            made.feature(hook, index)


def test_reading_needs_no_torch(made: corpus.Corpus) -> None:
    code = (
        "import sys; from circuitlens import corpus; print(corpus.read(sys.argv[1]).feature('sae', 4).count); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, made.folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(made.feature("sae", 4).count), "False"]


def test_sizes_at_the_ends_and_ties() -> None:
    values = [1e-30, 2.0**LOWEST, 0.99, -1.0, 1.0, 1e30]
    statistics = SiteStatistics.empty(2, 3)
    rows = torch.arange(len(values))
    statistics.add(Active(rows, rows * 0 + 7, rows * 0 + 1, torch.tensor(values, dtype=torch.float64)))
    histogram = statistics.tensors["histogram"][1]
    assert (int(histogram[0]), int(histogram[-1]), int(histogram.sum())) == (2, 1, len(values))
    assert int(histogram[-2 * LOWEST]) == 2  # from 1 on
    assert int(histogram[-2 * LOWEST - 1]) == 1
    assert statistics.tensors["top_window"][1].tolist() == [5, 3, 4]  # of equal ones the earlier
    assert statistics.tensors["top_value"][1, 1] == -1
    assert len(histogram) == BINS
    again = rows[:2]
    statistics.add(Active(again + 6, again, again * 0 + 1, torch.tensor([1.0, 5.0])))
    assert statistics.tensors["top_window"][1].tolist() == [5, 7, 3]
    assert not statistics.tensors["count"][0]
    one = torch.tensor([9, 9, 9])
    statistics.add(Active(one, torch.tensor([0, 1, 2]), one * 0, torch.tensor([1.0, 3.0, 2.0])))
    assert statistics.tensors["top_window"][0].tolist() == [9, -1, -1]  # one context of a window
    assert statistics.tensors["top_pos"][0, 0] == 1


def edit(copy: Path, **fields: Any) -> None:
    document = json.loads((copy / "corpus.json").read_text())
    (copy / "corpus.json").write_text(json.dumps({**document, **fields}))


def test_a_folder_that_is_none_or_damaged_is_refused(copy: Path) -> None:
    with pytest.raises(CorpusError, match=r"is no corpus \(it has no corpus.json\)"):
        corpus.read(copy / "nothing")
    site = copy / "site-2.safetensors"
    tensors, data = load_file(site), site.read_bytes()
    for wrong in ({"top_window": tensors["top_window"] + 1000}, {"top_pos": tensors["top_pos"] + 5}):
        save_file({**tensors, **wrong}, site)
        with pytest.raises(CorpusError, match="is damaged: it has no window"):
            corpus.read(copy).feature("sae", 4)
    for count, told in ((tensors["count"][:3], r"I64 \[3\]"), (tensors["count"].float(), r"F32 \[8\]")):
        save_file({**tensors, "count": count.contiguous()}, site)
        with pytest.raises(CorpusError, match=rf"damaged: count is {told}, not I64 \[8\]"):
            corpus.read(copy).feature("sae", 4)
    for broken in (b"", b"{}", data[:100], data[:-1]):
        site.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"Can't read .*site-2"):
            corpus.read(copy).feature("sae", 4)
    site.unlink()
    with pytest.raises(CorpusError, match=r"Can't read .*site-2"):
        corpus.read(copy).feature("sae", 4)
    for windows in (b"[", b"[[1]]", b"{}", b"[]"):
        (copy / "windows-00000.json").write_bytes(windows)
        with pytest.raises(CorpusError, match="is damaged"):
            corpus.read(copy).feature("hook_hidden", 0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"format": "other"}, "does not say 'format'"),
        ({"version": 2}, "has corpus format 2 and this circuitlens reads 1"),
        ({"context": 10**9}, r"damaged \(context"),
        ({"sites": []}, r"damaged \(sites"),
        ({"more": 1}, r"damaged \(more"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(fields: dict[str, Any], told: str, copy: Path) -> None:
    edit(copy, **fields)
    with pytest.raises(CorpusError, match=told):
        corpus.read(copy)


def test_a_corpus_that_has_only_been_begun_says_so(copy: Path) -> None:
    edit(copy, pieces=0, windows=0, tokens=0, done=False)
    with pytest.raises(CorpusError, match="has only been begun"):
        corpus.read(copy).feature("sae", 4)
