"""Runnable modules, one a shipped recipe."""
