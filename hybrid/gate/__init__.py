"""Two experts, one calibrated probability: the evidence, the gate that weighs it, and how the gate is fitted.

Read `evidence` first (what each source says of a batch of images), then `gate` (how it is weighed) and `decide` (a
fitted gate at work). `fit` and `episodes` fit it; `policy`, `rejection` and `conformal` say what is asked of the
answers; `few_shot` holds the experts for classes that a few images show.
"""
