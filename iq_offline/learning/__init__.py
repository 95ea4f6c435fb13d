"""The objective, the networks, the algorithms."""
