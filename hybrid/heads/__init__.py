"""Heads: what knows the seen classes, trained on the index's labelled photos."""
