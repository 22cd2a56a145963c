"""Inference: a model in a worker process of its own, and the loop that feeds it."""
