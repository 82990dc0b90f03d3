"""Do the maps of `hybrid explain` point at the animal? On drawn images, where it is known where that stands."""

from benchmarks.kit.about import About

ABOUT = About(time="1 minute", needs="extra explain; no data")
