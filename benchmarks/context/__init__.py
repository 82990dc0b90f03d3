"""What class priors by region and sequences of photos are worth, and what a wrong prior costs, on drawn worlds."""

from benchmarks.kit.about import About

ABOUT = About(time="6 minutes for 6 seeds", needs="nothing: photos are drawn")
