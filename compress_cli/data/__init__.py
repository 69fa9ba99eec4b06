"""Samples: batches, signatures, datasets, tasks, and the files that they come from."""
