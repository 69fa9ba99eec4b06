"""A module that runs: architectures, edits, features, weights, and how a checkpoint becomes a module again."""
