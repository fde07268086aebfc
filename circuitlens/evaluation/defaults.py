"""How much `verify` measures unless it is told otherwise; apart, so that the command line's help needs no torch."""

DRAWS, TOP, PROMPTS, SEED = 20, 100, 32, 0
"""Random circuits to compare with, nodes whose effects are measured, prompts of each kind, and the seed."""
