"""Names of classes: prompts, templates, taxonomies, priors, and the label space that joins them.

Read `space` first (`LabelSpace`: all classes that an answer may name), then `prompts`. `names` alone decides when two
spellings name one class.
"""
