"""What each recipe costs, and how much of a pretrained backbone to train: `hybrid compare` on three datasets."""

from benchmarks.kit.about import About

ABOUT = About(
    time="every: 4 minutes; cifar: 15; backbone: 50",
    needs="extras lora and regions; photos and weights (HYBRID_DATA) but for `every`",
)
