"""Teachers: opening them, combining them, and the table of their stored outputs."""
