"""Artifacts by content: manifests, saves, locks, integrity, and the removal of what no run needs."""
