"""Models that travel: a run as one file that needs no torch."""
