"""Heads: classifiers of the seen classes, trained on the labeled images of the index.

Read `base` first (what every head offers), then `linear`, the simplest. The other kind, `backbone`, is a fine-tuned
timm network: `nets` holds the networks, `training` the loop, `recipes` the settings as TOML.
"""
