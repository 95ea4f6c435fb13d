"""Loops, checkpoints and what they tell."""
