"""Networks that a head can be."""
