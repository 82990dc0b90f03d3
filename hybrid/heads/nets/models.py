"""Small networks of the project's own, trained from nothing; importing this module makes timm know their names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from timm.layers import ConvNormAct, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

# timm's `register_model` asks the module for these two names.
__all__ = [
    "hybrid_autoencoder",
    "hybrid_cifar_cnn",
    "hybrid_cifar_resnet18",
    "hybrid_cnn",
    "hybrid_pixels",
    "hybrid_resblock",
]
HALF = (0.5, 0.5, 0.5)


def _config(size: int, **more: Any) -> dict[str, Any]:
    return {
        "num_classes": 0,
        "input_size": (3, size, size),
        "min_input_size": (3, 16, 16),
        "crop_pct": 1.0,
        "mean": HALF,
        "std": HALF,
        **more,
    }


default_cfgs = generate_default_cfgs(
    {
        "hybrid_autoencoder": _config(64, fixed_input_size=True),
        "hybrid_cifar_cnn": _config(32, first_conv="stages.0.0.conv"),
        "hybrid_cifar_resnet18": _config(32, first_conv="conv1", classifier="fc"),
        "hybrid_cnn": _config(64, first_conv="stages.0.0"),
        "hybrid_pixels": _config(32, fixed_input_size=True),
        "hybrid_resblock": _config(64, first_conv="conv1.0", classifier="fc"),
    }
)


def he_normal(module: nn.Module) -> None:
    """He's initialization of one convolution or linear layer: normal, variance 2 / inputs, bias 0.

    Keeps the variance of what goes forward through layers with a ReLU between them; for use with ``Module.apply``.
    He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SmallNet(nn.Module):
    """Stages of convolutions, average pooling to a grid, features, and a linear layer if classes are asked for.

    Parameters
    ----------
    stages : sequence of Module
        (n, in_chans, h, w) to (n, channels, h', w').
    channels : int
        Channels of the last stage.
    grid : int
        Rows and columns that the last stage's map is averaged to; features = channels * grid * grid.
    num_classes : int
        0: the features are the output.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: int, num_classes: int, grid: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = channels * grid * grid
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten())
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """(n, in_chans, h, w) to the last stage's map (n, channels, h', w')."""
        features: torch.Tensor = self.stages(images)
        return features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, in_chans, h, w) to features (n, head_hidden_size), or logits (n, num_classes)."""
        output: torch.Tensor = self.head(self.pool(self.forward_features(images)))
        return output

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Timm's way to say which parameters are which stage; what matches none counts as the last."""
        return {"stages": r"^stages\.(\d+)"}


class Pixels(nn.Module):
    """The pixels of an image as its features; no parameters unless classes are asked for.

    Parameters
    ----------
    img_size : int or (int, int)
        Height and width of the images, which say how many features there are.
    """

    def __init__(self, img_size: int | tuple[int, int] = 32, in_chans: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        height, width = to_2tuple(img_size)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = in_chans * height * width
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, in_chans, h, w) to (n, in_chans * h * w), channel by channel, row by row."""
        output: torch.Tensor = self.head(images.flatten(1))
        return output

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """No stages: there is nothing to freeze."""
        return {}


class PlainCnn(SmallNet):
    """A convolution, ReLU and 2 x 2 max-pooling a stage, nothing else.

    Parameters
    ----------
    channels : sequence of int
        Of each stage; an image needs at least 2 ** len(channels) pixels a side.
    grid : int
        The last map is averaged to grid x grid, so that some of the places stay.
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64, 128, 256), grid: int = 2, in_chans: int = 3, num_classes: int = 0
    ) -> None:
        stages = [
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            for before, after in pairwise((in_chans, *channels))
        ]
        super().__init__(stages, channels[-1], num_classes, grid)
        self.apply(he_normal)


class CifarCnn(SmallNet):
    """Twice convolution, batch norm and ReLU, then 2 x 2 max-pooling a stage; global average pooling.

    The VGG pattern with batch norm at the size of CIFAR's images. Simonyan and Zisserman, "Very Deep Convolutional
    Networks for Large-Scale Image Recognition", ICLR 2015.

    Parameters
    ----------
    channels : sequence of int
        Of each stage; an image needs at least 2 ** len(channels) pixels a side.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), in_chans: int = 3, num_classes: int = 0) -> None:
        stages = [
            nn.Sequential(ConvNormAct(before, after, 3), ConvNormAct(after, after, 3), nn.MaxPool2d(2))
            for before, after in pairwise((in_chans, *channels))
        ]
        super().__init__(stages, channels[-1], num_classes)
        self.apply(he_normal)


class Autoencoder(SmallNet):
    """A convolutional encoder to a code, and a decoder that paints the image from it; the code is the features.

    The decoder is for training only: `forward` does not run it. Hinton and Salakhutdinov, "Reducing the
    Dimensionality of Data with Neural Networks", Science 2006.

    Parameters
    ----------
    img_size : int or (int, int)
        Height and width of what `reconstruct` paints.
    channels : sequence of int
        Of each stage of the encoder, which halves the map; the decoder's go back from the last, and not below 16.
    code : int
        Length of the code.
    """

    GRID = 4

    def __init__(
        self,
        img_size: int | tuple[int, int] = 64,
        channels: Sequence[int] = (32, 64, 128, 256),
        code: int = 128,
        in_chans: int = 3,
        num_classes: int = 0,
    ) -> None:
        stages = [ConvNormAct(before, after, 3, stride=2) for before, after in pairwise((in_chans, *channels))]
        super().__init__(stages, channels[-1], num_classes=0, grid=self.GRID)
        flat = self.num_features
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = code
        self.code = nn.Linear(flat, code)
        self.head = nn.Linear(code, num_classes) if num_classes else nn.Identity()
        self.decoder = self._decoder(code, flat, channels[-1], in_chans)
        self.apply(he_normal)

    def _decoder(self, code: int, flat: int, channels: int, in_chans: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Linear(code, flat), nn.Unflatten(1, (channels, self.GRID, self.GRID))]
        size = self.GRID
        while size < max(self.img_size):
            after = max(channels // 2, 16)
            layers += [
                nn.ConvTranspose2d(channels, after, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            channels, size = after, size * 2
        # No closing non-linearity: normalized pixels have no bounds that hold for every mean and std.
        return nn.Sequential(*layers, nn.Conv2d(channels, in_chans, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, in_chans, h, w) to codes (n, head_hidden_size), or logits (n, num_classes)."""
        output: torch.Tensor = self.head(self.code(self.pool(self.forward_features(images))))
        return output

    def reconstruct(self, code: torch.Tensor) -> torch.Tensor:
        """Codes (n, head_hidden_size) to images (n, in_chans, *img_size) in normalized pixels."""
        painted = self.decoder(code)
        # The learned upsampling doubles from 4 x 4; this resizes only where img_size is another size.
        return nn.functional.interpolate(painted, self.img_size, mode="bilinear")

    def reconstruction_loss(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Mean squared error between what the codes paint and the images.

        Parameters
        ----------
        features : Tensor (n, head_hidden_size)
            What `forward` gave for the images, with ``num_classes=0``.
        images : Tensor (n, in_chans, *img_size)
            The normalized images.

        Returns
        -------
        Tensor, scalar float32
        """
        return nn.functional.mse_loss(self.reconstruct(features).float(), images.float())


def _small_resnet(stem_stride: Literal[1, 2], **arguments: Any) -> Any:
    """Make timm's ResNet without max-pooling, which would leave too little of a small image.

    Parameters
    ----------
    stem_stride : {1, 2}
        1: one 3 x 3 convolution; 2: timm's deep stem of three.
    """
    model = ResNet(BasicBlock, stem_type="" if stem_stride == 1 else "deep", **arguments)
    if stem_stride == 1:
        wide = model.conv1
        model.conv1 = nn.Conv2d(wide.in_channels, wide.out_channels, 3, padding=1, bias=False)
        # As timm's ResNet does with all its other convolutions.
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    for stage in model.feature_info:
        stage["reduction"] = max(stem_stride, stage["reduction"] * stem_stride // 4)
    return model


def hybrid_pixels(pretrained: bool = False, **arguments: Any) -> Any:
    """Pixels as features: with one linear layer on top, multinomial logistic regression."""
    return build_model_with_cfg(Pixels, "hybrid_pixels", pretrained, **arguments)


def hybrid_cnn(pretrained: bool = False, **arguments: Any) -> Any:
    """Plain CNN of four convolutions, 0.4 M parameters; arguments of `PlainCnn`."""
    return build_model_with_cfg(PlainCnn, "hybrid_cnn", pretrained, **arguments)


def hybrid_cifar_cnn(pretrained: bool = False, **arguments: Any) -> Any:
    """CNN of six convolutions with batch norm, 0.3 M parameters; arguments of `CifarCnn`."""
    return build_model_with_cfg(CifarCnn, "hybrid_cifar_cnn", pretrained, **arguments)


def hybrid_autoencoder(pretrained: bool = False, **arguments: Any) -> Any:
    """Autoencoder whose code is the features; arguments of `Autoencoder`."""
    return build_model_with_cfg(Autoencoder, "hybrid_autoencoder", pretrained, **arguments)


def hybrid_cifar_resnet18(pretrained: bool = False, **arguments: Any) -> Any:
    """ResNet-18 for images of 32 pixels: 3 x 3 stem of stride 1, no max-pooling; arguments of timm's ResNet.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stem of their CIFAR networks.
    """
    own = {"stem_stride": 1, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(_small_resnet, "hybrid_cifar_resnet18", pretrained, **own | arguments)


def hybrid_resblock(pretrained: bool = False, **arguments: Any) -> Any:
    """Small residual network, one block a stage, He initialization and batch norm; arguments of timm's ResNet."""
    own = {"stem_stride": 2, "stem_width": 16, "layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}
    return build_model_with_cfg(_small_resnet, "hybrid_resblock", pretrained, **own | arguments)


for entry in (
    hybrid_autoencoder,
    hybrid_cifar_cnn,
    hybrid_cifar_resnet18,
    hybrid_cnn,
    hybrid_pixels,
    hybrid_resblock,
):
    register_model(entry)
