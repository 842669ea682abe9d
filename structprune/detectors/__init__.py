"""Detectors: when to prune a network in training. Empty so far; they come with the training methods."""
