"""From what the user wrote to artifacts: recipe, plan, steps with keys, the run that executes them."""
