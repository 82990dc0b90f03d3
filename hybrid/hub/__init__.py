"""Share a run on the model hub: what of it travels, and the card that tells others what it is."""
