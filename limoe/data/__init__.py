"""From sources to training batches."""
