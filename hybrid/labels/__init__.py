"""Names of classes: prompts, templates, and the label space that joins them."""
