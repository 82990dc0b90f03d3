"""Networks that a head can be: timm backbones with a small classifier, alone, adapted (LoRA), by regions, in ensembles.

Read `backbone_head` first (the head), then `backbone` (the network).
"""
