"""Offline-first imitation learning on dataset standards."""
