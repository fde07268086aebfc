"""What is asked of a model: pairs of prompts, their batches and metric, and tasks that make them."""
