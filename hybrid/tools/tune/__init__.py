"""Search for the hyperparameters of a recipe."""
