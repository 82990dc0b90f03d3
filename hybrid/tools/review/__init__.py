"""Reviewing: which photos a person should look at next, and what the labels changed."""
