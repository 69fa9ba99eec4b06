"""Which channels can go together, what they cost, and which matter."""
