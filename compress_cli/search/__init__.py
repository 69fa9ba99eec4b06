"""Search over a recipe's fields: the space, the study that workers share, trials that pause and go on, the outcome."""
