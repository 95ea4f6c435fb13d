"""The ablation: many runs from one file, and what they say together."""
