"""Images on disk: where they are, what they are called, and their pixels."""
