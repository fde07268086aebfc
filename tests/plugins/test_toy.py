"""The toy: its grammar, what its training reaches, and its cache."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from circuitlens_toy import ToyAdapter, training
from circuitlens_toy.grammar import VERBS, evidence, noun_number, sentences
from circuitlens_toy.training import Config, load_or_train

import circuitlens
from circuitlens.errors import AdapterError, PromptError
from circuitlens.prompts.words import NOUNS, plural_of

QUICK = Config(model_steps=3, sae_steps=3)


# Grammar


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The cat", (1, 0)),
        ("The cats", (0, 1)),
        ("the CATS.", (0, 1)),
        ("The children run", (0, 1)),
        ("The baby runs", (1, 0)),
        ("These babies", (0, 1.5)),
        ("A mouse", (1.5, 0)),
        ("My geese", (0, 1)),
        ("The bus", (1, 0)),
        ("The sheep", (0.5, 0.5)),
        ("These sheep", (0.5, 1)),
    ],
)
def test_evidence(sentence: str, expected: tuple[float, float]) -> None:
    assert evidence(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "why"),
    [
        ("", "no sentence of two or three words"),
        ("   ", "no sentence of two or three words"),
        ("Cats", "no sentence of two or three words"),
        ("Colourless green", "'colourless' is not a determiner"),
        ("The xyzzy", "'xyzzy' is not a noun"),
        ("The cats quickly", "'quickly' is not a verb"),
        ("The cats near the dogs", "no sentence of two or three words"),
        ("\x1b[31m 💥", "no sentence|not a determiner"),
    ],
)
def test_what_it_cannot_read_is_told_what_it_accepts(toy: ToyAdapter, sentence: str, why: str) -> None:
    with pytest.raises(PromptError, match=why) as error:
        circuitlens.find(toy, sentence, "run", "runs")
    assert "reads a determiner, a noun" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_the_vocabulary_is_large_enough_and_unambiguous() -> None:
    assert len(set(NOUNS)) >= 60
    assert len(set(VERBS)) >= 20
    assert {"mouse", "goose", "child", "woman", "wolf", "baby"} <= set(NOUNS)
    for noun in NOUNS:
        assert noun_number(noun) == (1, 0), noun
        assert noun_number(plural_of(noun)) == (0, 1), noun


def test_training_sentences() -> None:
    made = sentences(list(NOUNS))
    assert len(made) == len(NOUNS) * len(VERBS) * 2
    texts = {s.text for s in made}
    assert "The cat runs" in texts
    assert any(text.split()[1:] == ["babies", "run"] for text in texts)
    assert any(text.startswith("An ant") for text in texts)
    assert not any(text.startswith("A ant") for text in texts)


def test_it_answers_only_runs_and_run(toy: ToyAdapter) -> None:
    with pytest.raises(PromptError, match="'runs' or 'run'"):
        toy.answer_index(" run", "The cat")


# Training


def test_training_reaches_its_targets(toy: ToyAdapter) -> None:
    measured = toy.measured
    assert measured.sentences == 640
    assert measured.agreement == 1.0
    assert measured.explained_variance >= 0.95
    assert measured.l0 < 4
    assert measured.dead <= 4


def test_quality_measured_again_from_outside(toy: ToyAdapter) -> None:
    """The same targets through the adapter's public side, on every noun, with noise of the test's own."""
    made = sentences(list(NOUNS))
    inputs = toy.inputs([s.text for s in made])
    logits = toy.run(inputs, {})[:, 0]
    assert torch.equal(logits[:, 1] > logits[:, 0], torch.tensor([s.plural for s in made]))

    noise = 0.2 * torch.randn(inputs.values.shape, generator=torch.Generator().manual_seed(5))
    seen: list[torch.Tensor] = []
    toy.run(replace(inputs, values=inputs.values + noise), {"hook_sae": seen.append})
    (hidden,) = seen
    features = toy.sae.encode(hidden)
    unexplained = (hidden - toy.sae.decode(features)).square().sum() / (hidden - hidden.mean(0)).square().sum()
    assert 1 - unexplained >= 0.95
    assert (features > 0).sum(-1).double().mean() < 4
    assert (features.amax((0, 1)) == 0).sum() <= 4


def test_held_out_nouns_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    original = training.sentences
    monkeypatch.setattr(training, "sentences", lambda nouns: asked.append(nouns) or original(nouns))
    training.train(QUICK)
    trained, held_out = asked
    assert not set(trained) & set(held_out)
    assert len(held_out) == 16
    assert {*trained, *held_out} == set(NOUNS)


def test_training_is_seeded_and_leaves_the_callers_random_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two = training.train(QUICK), training.train(QUICK)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.model.hidden.weight, two.model.hidden.weight)
    assert torch.equal(one.sae.decoder.weight, two.sae.decoder.weight)
    assert not any(p.requires_grad for p in [*one.model.parameters(), *one.sae.parameters()])


def test_it_trains_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        training.train(QUICK)


# Cache


def test_a_cached_toy_is_the_trained_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = load_or_train(QUICK, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.safetensors"]
    again = load_or_train(QUICK, tmp_path)
    assert again.measured == trained.measured
    for ours, theirs in zip(again.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not caplog.records


@pytest.mark.parametrize(
    "damage", ["truncated", "swapped", "not json", "no keys", "not safetensors", "measurements", "folder"]
)
def test_a_damaged_cache_is_trained_again_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = load_or_train(QUICK, tmp_path)
    weights, document = tmp_path / "toy.safetensors", tmp_path / "toy.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "swapped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "not json":
        document.write_text("{")
    elif damage == "no keys":
        document.write_text("[]")
    elif damage == "measurements":
        document.write_text(document.read_text().replace('"dead": ', '"dead": "x", "was": '))
    elif damage == "folder":
        document.unlink()
        document.mkdir()
    else:
        about = json.loads(document.read_text())
        weights.write_bytes(b"\xff" * 100)
        about["sha256"] = training._checksum(weights.read_bytes(), about["measured"])
        document.write_text(json.dumps(about))
    with caplog.at_level(logging.WARNING):
        again = load_or_train(QUICK, tmp_path)
    assert "is damaged" in caplog.text
    assert again.measured == first.measured
    if damage != "folder":
        caplog.clear()
        load_or_train(QUICK, tmp_path)
        assert not caplog.records


def test_a_stale_cache_is_trained_again_with_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_or_train(QUICK, tmp_path)
    with caplog.at_level(logging.WARNING):
        load_or_train(Config(model_steps=4, sae_steps=3), tmp_path)
    assert "another configuration" in caplog.text


def test_a_cache_that_cannot_be_written_is_a_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        load_or_train(QUICK, tmp_path / "file" / "below")
    assert "can't be kept" in caplog.text


def test_options_are_checked() -> None:
    with pytest.raises(AdapterError, match="option 'layers'"):
        circuitlens.load("toy", layers=3)
    with pytest.raises(AdapterError, match="dtype 'float8'"):
        circuitlens.load("toy", dtype="float8")


def test_the_verb_is_not_evidence() -> None:
    assert evidence("The cat run") == evidence("The cat runs") == evidence("The cat")
    assert evidence("The cats run") == evidence("The cats")
