"""Circuits of the toy that many tests of evidence are about, and the evidence of one."""

from __future__ import annotations

import pytest
from circuitlens_toy import ToyAdapter

import circuitlens
from circuitlens.circuit import Circuit
from circuitlens.circuit.evidence import Evidence
from tests.evidence import CATS, TRAIN, evidence_of


@pytest.fixture(scope="session")
def contrast(toy: ToyAdapter) -> Circuit:
    return circuitlens.find(toy, *CATS)


@pytest.fixture(scope="session")
def contrast_evidence(toy: ToyAdapter, contrast: Circuit) -> Evidence:
    return evidence_of(toy, contrast)


@pytest.fixture(scope="session")
def common(toy: ToyAdapter) -> Circuit:
    return circuitlens.aggregate(toy, TRAIN[:8], max_edges=0)
