"""Heads: what knows the seen classes, trained on the index's labeled images."""
