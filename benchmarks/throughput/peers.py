"""What people use today, as their own documentation has it: open_clip and transformers, on the weights they are given.

Each function that takes a `Setup` makes one system in a process of its own. At the end, an open_clip checkpoint as a
folder that transformers loads by itself, tokenizer and all, without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.throughput.processes import Setup, Work

TEMPLATE = "a photo of a {}."
# open_clip and transformers call the same two tokens by different names.
SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OTHERS = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
# open_clip multiplies by these from the right, transformers' linear layers from the left.
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


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


def write_transformers(model: str, weights: Path, folder: Path) -> None:
    """Write model, tokenizer and image processor of an open_clip checkpoint in the format of transformers.

    Parameters
    ----------
    model : str
        open_clip's name.
    weights : Path
        Its weights as safetensors.
    folder : Path
        Made if need be.
    """
    import open_clip
    from safetensors.torch import load_file

    save(convert(open_clip.get_model_config(model), load_file(weights)), folder)


def save(model: Any, folder: Path) -> None:
    """Write a converted model with its tokenizer and image processor."""
    from transformers import CLIPImageProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    size = model.config.vision_config.image_size
    # Mean, standard deviation and bicubic resizing are OpenAI's by default, as in open_clip.
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, default_to_square=False
    ).save_pretrained(folder)


def convert(config: dict[str, Any], state: dict[str, Any]) -> Any:
    """An open_clip ViT and its text tower as a `CLIPModel` with the same weights.

    Parameters
    ----------
    config : dict
        ``embed_dim``, ``vision_cfg``, ``text_cfg`` and ``quick_gelu``, as open_clip has them.
    state : dict of str to tensor
        open_clip's state dict.
    """
    from transformers import CLIPConfig, CLIPModel

    vision, text = config["vision_cfg"], config["text_cfg"]
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    common = {"projection_dim": config["embed_dim"], "hidden_act": activation, "layer_norm_eps": 1e-5}
    made = CLIPModel(
        CLIPConfig(
            projection_dim=config["embed_dim"],
            text_config=common
            | {
                "vocab_size": text["vocab_size"],
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "max_position_embeddings": text["context_length"],
                # The text's feature is read at the first end token.
                "eos_token_id": text["vocab_size"] - 1,
                "bos_token_id": text["vocab_size"] - 2,
            },
            vision_config=common
            | {
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // vision.get("head_width", 64),
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
            },
        )
    )
    made.load_state_dict(convert_state(state))
    return made.eval()


def convert_state(state: dict[str, Any]) -> dict[str, Any]:
    """open_clip's state dict by the names and shapes of transformers; KeyError for a weight that has no place."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        if name in TRANSPOSED:
            found[TRANSPOSED[name]] = tensor.T.contiguous()
        elif "transformer.resblocks." in name:
            found |= _layer(name, tensor)
        else:
            found[OTHERS[name]] = tensor
    return found


def _layer(name: str, tensor: Any) -> dict[str, Any]:
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    number, _, part = name.partition("resblocks.")[2].partition(".")
    place = f"{tower}.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return {
            f"{place}.self_attn.{one}_proj.{kind}": third.contiguous()
            for one, third in zip("qkv", tensor.chunk(3), strict=True)
        }
    module, _, kind = part.rpartition(".")
    return {f"{place}.{LAYER[module]}.{kind}": tensor}


def tokenizer() -> Any:
    """The fast CLIP tokenizer of transformers over the vocabulary that open_clip brings."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    vocabulary = {SPECIAL.get(token, token): number for token, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks), model_max_length=own.context_length)
