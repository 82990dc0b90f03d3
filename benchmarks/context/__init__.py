"""What class priors by region and sequences of photos are worth, and what a wrong prior costs, on drawn worlds."""

from benchmarks.kit.about import About

ABOUT = About(time="4 minutes for 3 seeds", needs="nothing: photos are drawn")
