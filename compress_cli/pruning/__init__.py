"""Groups of channels that are removed together, their cost, and their importance."""
