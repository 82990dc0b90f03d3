"""Auditing: near duplicates and poor images in a run, and labels that are probably wrong."""

# Cosine, by default. Of the pairs of Caltech-101 images (CLIP ViT-B/32) above 0.99 about two in three are one picture,
# resaved or mirrored; from 0.98 to 0.99 three in ten; just below one in five, and they become too many to look at.
DUPLICATES_ABOVE = 0.98
