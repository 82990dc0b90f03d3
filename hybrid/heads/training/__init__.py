"""Training of a head."""
