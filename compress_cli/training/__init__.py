"""The one training loop: its configuration, the loader, the objective, precision and state."""
