"""How sure a figure is: intervals, paired comparisons, gates."""
