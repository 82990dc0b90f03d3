"""How many changed labels `hybrid audit` finds, beside simpler lists; `benchmarks.audit.quality`: poor photos."""

from benchmarks.kit.about import About

ABOUT = About(time="1 minute for 2,500 photos", needs="extra audit; photos and an encoder (or precomputed vectors)")
