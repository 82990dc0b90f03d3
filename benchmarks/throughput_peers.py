"""What people use today, as their own documentation has it: open_clip and transformers, on the weights they are given.

Each function here makes one system of benchmarks/throughput.py in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from throughput_worker import Setup, Work

TEMPLATE = "a photo of a {}."


def load_open_clip(setup: Setup) -> tuple[Any, Any]:
    """The model with the given weights, and its own preprocessing."""
    import open_clip

    precision = "fp32" if setup.precision == "auto" else setup.precision
    model, _, transform = open_clip.create_model_and_transforms(
        setup.model, pretrained=str(setup.weights), precision=precision, device=setup.device
    )
    return model.eval(), transform


def autocast(setup: Setup) -> AbstractContextManager[object]:
    """What open_clip's README wraps its models in: mixed precision on CUDA, and nothing on a CPU."""
    import torch

    return torch.autocast("cuda") if setup.device == "cuda" and setup.precision == "auto" else nullcontext()


def open_clip_dataloader(setup: Setup) -> Work:
    """Embed images with a torch DataLoader around open_clip's transform, as its users do for many images."""
    import open_clip
    import torch
    from torch.utils.data import DataLoader

    model, transform = load_open_clip(setup)
    dtype = open_clip.get_input_dtype(setup.precision)

    def work(files: Sequence[str], option: object) -> None:
        # Its processes start with every pass, as they do for everybody who reads a folder once: some 50 ms.
        images: Any = ImageFiles(files, transform)
        loader = DataLoader(
            images,
            batch_size=setup.batch,
            num_workers=setup.workers,
            pin_memory=setup.device == "cuda",
        )
        found = []
        with torch.inference_mode(), autocast(setup):
            for pictures in loader:
                features = model.encode_image(pictures.to(setup.device, dtype, non_blocking=True))
                found.append(torch.nn.functional.normalize(features.float(), dim=-1).cpu())
        _check(torch.cat(found), len(files))

    return work


def open_clip_readme(setup: Setup) -> Work:
    """Embed one image at a time: the loop around the README's lines."""
    import torch
    from PIL import Image

    model, transform = load_open_clip(setup)

    def work(files: Sequence[str], option: object) -> None:
        found = []
        with torch.no_grad(), autocast(setup):
            for file in files:
                image = transform(Image.open(file)).unsqueeze(0).to(setup.device)
                features = model.encode_image(image)
                found.append((features / features.norm(dim=-1, keepdim=True)).float().cpu())
        _check(torch.cat(found), len(files))

    return work


def open_clip_predict(setup: Setup) -> Work:
    """The README's zero-shot classification, one image at a time, with the prompts encoded once."""
    import open_clip
    import torch
    from PIL import Image

    model, transform = load_open_clip(setup)
    tokens = open_clip.get_tokenizer(setup.model)(texts(setup.names)).to(setup.device)
    with torch.no_grad(), autocast(setup):
        text = model.encode_text(tokens)
        text = model.logit_scale.exp() * text / text.norm(dim=-1, keepdim=True)

    def work(files: Sequence[str], option: object) -> None:
        found = []
        with torch.no_grad(), autocast(setup):
            for file in files:
                image = transform(Image.open(file)).unsqueeze(0).to(setup.device)
                features = model.encode_image(image)
                features /= features.norm(dim=-1, keepdim=True)
                found.append((features @ text.T).softmax(dim=-1).cpu())
        _check(torch.cat(found), len(files))

    return work


def transformers_pipeline(setup: Setup) -> Work:
    """The zero-shot pipeline of transformers on a list of files; the option is its batch size."""
    import torch
    from transformers import pipeline

    dtype = {"auto": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[setup.precision]
    pipe = pipeline("zero-shot-image-classification", model=str(setup.converted), device=setup.device, dtype=dtype)

    def work(files: Sequence[str], option: Any) -> None:
        found = pipe(
            list(files),
            candidate_labels=list(setup.names),
            hypothesis_template=TEMPLATE,
            batch_size=option,
        )
        _check(found, len(files))

    return work


def texts(names: Sequence[str]) -> list[str]:
    """The prompts that every system reads."""
    return [TEMPLATE.format(name) for name in names]


class ImageFiles:
    """A map-style dataset of files under a transform."""

    def __init__(self, files: Sequence[str], transform: Any) -> None:
        self._files, self._transform = files, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self._transform(Image.open(self._files[index]))


def _check(found: Any, images: int) -> None:
    if len(found) != images:
        raise RuntimeError(f"{len(found)} answers for {images} photos")
