"""The head alone, CLIP alone and hybrid on real photos, through the commands that a user types."""

from benchmarks.kit.about import About

ABOUT = About(time="20 minutes", needs="photos (--train, --test, or HYBRID_DATA)")
