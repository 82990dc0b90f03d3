"""An open_clip checkpoint as a folder that transformers loads by itself, tokenizer and all, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
