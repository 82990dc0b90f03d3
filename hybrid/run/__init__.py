"""The run folder: its files, and what is done to it."""
