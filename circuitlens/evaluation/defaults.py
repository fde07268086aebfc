"""How much `verify` measures unless it is told otherwise; apart, so that the command line's help needs no torch."""

DRAWS = 20
"""Random circuits that the circuit is compared with."""

TOP = 100
"""Strongest nodes whose effects are measured."""

PROMPTS = 32
"""Prompts of each kind that are run, at most."""

SEED = 0
"""Seed of the random circuits and of resampling."""
