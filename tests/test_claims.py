"""What a circuit's file says of options is compared with what a person gave, and never done unasked."""

from __future__ import annotations

import shlex

import pytest

from circuitlens import claims as module
from circuitlens.claims import harmless, unsaid
from circuitlens.options import AdapterOption

OPTIONS = (
    AdapterOption("model", "A name."),
    AdapterOption("saes", "Names.", several=True, flag="--sae", default="usual"),
    AdapterOption("bos", "A switch.", type=bool),
    AdapterOption("share", "A number.", type=float),
    AdapterOption("dtype", "One of few.", choices=("a", "b")),
)


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.declared_options
    monkeypatch.setattr(module, "declared_options", lambda: {**real(), "mine": OPTIONS})


def test_only_declared_numbers_and_switches_are_taken() -> None:
    claims = {"model": "m", "saes": "s", "bos": False, "share": 1, "dtype": "a", "other": 3}
    assert harmless("mine", claims) == {"bos": False, "share": 1}
    assert harmless("mine", {"bos": "yes", "share": True}) == {}
    assert harmless("unknown", claims) == {}


def test_a_claim_is_refused_before_anything_is_loaded_where_the_default_is_another() -> None:
    claims = {"model": "m", "saes": "a, b c", "dtype": "a"}
    wrong = unsaid("mine", claims, {})
    assert wrong is not None
    assert wrong.claims == {"saes": "a, b c"}
    words = [word for option, value in wrong.options for word in option.flags(value)]
    assert shlex.join(words) == "--model m --sae a --sae 'b c' --dtype a"
    assert unsaid("mine", {**claims, "saes": "usual"}, {}) is None
    assert unsaid("mine", claims, {"saes": ["a", "b c"], "model": "m"}) is None


def test_a_claim_is_set_against_what_is_loaded() -> None:
    loaded = {"model": "n", "saes": "usual", "dtype": "b", "device": "cpu"}
    assert unsaid("mine", {"saes": "usual", "dtype": "a", "device": "cuda"}, {}, loaded) is None
    wrong = unsaid("mine", {"model": "m"}, {}, loaded)
    assert wrong is not None
    assert [(option.name, value) for option, value in wrong.options] == [("model", "m")]
    unheard = unsaid("mine", {"folder": "/f"}, {}, loaded)
    assert unheard is not None
    assert unheard.options == ()
