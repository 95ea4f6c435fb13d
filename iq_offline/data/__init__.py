"""From Minari datasets to batches."""
