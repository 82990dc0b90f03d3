"""What 30 labels from the queue of a review change, beside 30 of photos drawn at random."""

from benchmarks.kit.about import About

ABOUT = About(time="7 minutes for 5 seeds", needs="nothing: photos are drawn")
