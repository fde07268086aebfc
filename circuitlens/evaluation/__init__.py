"""Evaluation: what the real model does with nodes set otherwise, and whether that supports a circuit."""
