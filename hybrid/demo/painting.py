"""`draw`: one image of one animal, never the same twice, always the same for the same generator state."""

from __future__ import annotations

import colorsys
import math
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hybrid.demo.animals import Animal
from hybrid.demo.figures import Figure, Shape, figure, part_shapes
from hybrid.demo.geometry import Points
from hybrid.demo.scene import background, photographed

_FINE = 3  # Shapes are painted this many times larger and then shrunk: that is the antialiasing.
# Hue in degrees, saturation and brightness between 0 and 1.
_PALETTE = {
    "red": (358, 0.86, 0.80),
    "orange": (25, 0.90, 0.96),
    "yellow": (51, 0.86, 0.96),
    "green": (118, 0.62, 0.62),
    "blue": (214, 0.76, 0.82),
    "purple": (274, 0.60, 0.68),
    "pink": (332, 0.48, 0.96),
    "brown": (24, 0.62, 0.46),
}
_FIXED_TONES = {
    "cream": (244, 228, 178),
    "ink": (34, 28, 34),
    "white": (250, 250, 252),
    "gray": (168, 172, 186),
    "red": (206, 40, 48),
    "rose": (236, 168, 176),
}
_Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Species:
    """What all animals of one class share beyond their name, as the members of a species do.

    A name tells none of it: it is what a head can learn from images and a prompt cannot say.
    """

    hue: float
    brightness: float
    length: float
    density: float
    light_marks: bool
    slant: float
    part_size: float


@dataclass(frozen=True, slots=True)
class _Pose:
    """How body coordinates fall on the canvas: x' = matrix x + offset, after a gentle bend."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    bend: float
    phase: float

    def place(self, points: Points) -> list[tuple[float, float]]:
        bent = points + np.stack([0 * points[:, 0], self.bend * np.sin(2 * points[:, 0] + self.phase)], axis=1)
        return list(map(tuple, (bent @ self.matrix.T + self.offset).tolist()))


def draw(animal: Animal, rng: Generator, size: int = 64, frame: Generator | None = None) -> Image.Image:
    """Draw one image of an animal.

    Parameters
    ----------
    animal : Animal
        What to draw.
    rng : numpy.random.Generator
        Pose, size, place, light, background and grain come from it: the same state gives the same pixels.
    size : int, default 64
        Width and height in pixels.
    frame : numpy.random.Generator, optional
        Draw one of a burst: animal and place are those of `rng`, and how far it has moved since, light and grain come
        from here.

    Returns
    -------
    PIL.Image.Image
        An RGB picture of `size` by `size` pixels.
    """
    species = _species(animal)
    coat = _coat_color(animal.color, species, rng)
    pose = _pose(species, rng, size * _FINE)
    pose = pose if frame is None else _moved(pose, frame, size * _FINE)
    scene = background(rng, size).astype(np.uint8)
    canvas = Image.fromarray(scene).resize((size * _FINE, size * _FINE), Image.Resampling.BILINEAR)
    body = figure(animal.kind)
    behind, front = part_shapes(body, animal.part, species.part_size * rng.uniform(0.92, 1.08))
    tones = _FIXED_TONES | {
        "coat": coat,
        "shade": _mixed(coat, (0, 0, 0), 0.35),
        "tint": _mixed(coat, (255, 246, 226), 0.45),
        "outline": _mixed(coat, (0, 0, 0), 0.62),
    }
    _paint(canvas, (*behind, *body.behind, *(Shape(area, "coat") for area in body.coat)), pose, tones)
    pitch = 0.36 / species.density * rng.uniform(0.94, 1.06)
    start = (rng.uniform(0, 1), rng.uniform(0, 1))
    marks = _Marks(animal.pattern, pitch, species.slant + rng.uniform(-6, 6), start)
    _paint_coat(canvas, body, marks, pose, coat, species.light_marks)
    _paint(canvas, (*body.front, *front), pose, tones)
    small = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    return Image.fromarray(photographed(small, frame or rng).astype(np.uint8))


@cache
def _species(animal: Animal) -> _Species:
    rng = np.random.default_rng(zlib.crc32(animal.name.encode()))
    return _Species(
        hue=rng.uniform(-11, 11),
        brightness=rng.uniform(0.88, 1.06),
        length=rng.uniform(0.86, 1.16),
        density=rng.uniform(0.82, 1.25),
        light_marks=bool(rng.random() < 0.4),
        slant=rng.uniform(-25, 25),
        part_size=rng.uniform(0.7, 1.15),
    )


def _coat_color(name: str, species: _Species, rng: Generator) -> _Color:
    hue, saturation, brightness = _PALETTE[name]
    red, green, blue = colorsys.hsv_to_rgb(
        ((hue + species.hue + rng.uniform(-3, 3)) % 360) / 360,
        min(1.0, saturation * rng.uniform(0.9, 1.08)),
        min(1.0, brightness * species.brightness * rng.uniform(0.94, 1.06)),
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def _pose(species: _Species, rng: Generator, canvas: int) -> _Pose:
    turn = np.radians(rng.uniform(-22, 22))
    flip = -1 if rng.random() < 0.5 else 1
    scale = canvas * rng.uniform(0.29, 0.38)
    stretch = species.length * rng.uniform(0.95, 1.05)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = scale * spin @ np.diag([flip * stretch, 1 / stretch])
    offset = canvas * (0.5 + rng.uniform(-0.08, 0.08, 2))
    return _Pose(matrix, offset, rng.uniform(-0.09, 0.09), rng.uniform(0, 2 * np.pi))


def _moved(pose: _Pose, frame: Generator, canvas: int) -> _Pose:
    """The same animal a moment later."""
    turn = np.radians(frame.uniform(-14, 14))
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = frame.uniform(0.92, 1.08) * spin @ pose.matrix
    offset = pose.offset + canvas * frame.uniform(-0.06, 0.06, 2)
    return _Pose(matrix, offset, frame.uniform(-0.09, 0.09), pose.phase)


def _mixed(color: _Color, other: _Color, share: float) -> _Color:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _paint(canvas: Image.Image, shapes: tuple[Shape, ...], pose: _Pose, tones: dict[str, _Color]) -> None:
    brush = ImageDraw.Draw(canvas)
    line = max(2, round(canvas.width / 96))
    for shape in shapes:
        # Ink and the white of the eyes are small or dark already: an outline would swallow them.
        edge = shape.tone if shape.tone in ("ink", "gray", "red", "rose") else "outline"
        corners = pose.place(shape.points)
        brush.line([*corners, corners[0]], fill=tones[edge], width=2 * line, joint="curve")
        brush.polygon(corners, fill=tones[shape.tone])


@dataclass(frozen=True, slots=True)
class _Marks:
    """A pattern with its measures fixed: how wide, how slanted and where it starts."""

    pattern: str
    pitch: float
    slant: float
    start: tuple[float, float]

    def contain(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say for each point of the body whether it lies on a mark."""
        turn = math.radians(self.slant)
        cos, sin = math.cos(turn) / self.pitch, math.sin(turn) / self.pitch
        along = cos * x + sin * y + self.start[0]
        across = cos * y - sin * x + self.start[1]
        if self.pattern == "striped":
            return (along * 1.1 % 1) < 0.45
        if self.pattern == "checkered":
            return (np.floor(along * 1.6) + np.floor(across * 1.6)) % 2 < 1
        # Spots and rings stand in rows, every second row set off by half a step.
        grow = 1.0 if self.pattern == "spotted" else 0.72
        row = np.floor(across * grow)
        distance = np.hypot((along * grow + row / 2) % 1 - 0.5, across * grow - row - 0.5)
        if self.pattern == "spotted":
            return distance < 0.31
        return (distance < 0.43) & (distance > 0.2)


def _paint_coat(canvas: Image.Image, body: Figure, marks: _Marks, pose: _Pose, coat: _Color, light_marks: bool) -> None:
    """Fill the coat again without its inner outlines, and lay the marks over it."""
    mask = Image.new("L", canvas.size)
    brush = ImageDraw.Draw(mask)
    for area in body.coat:
        brush.polygon(pose.place(area), fill=255)
    canvas.paste(coat, (0, 0), mask)
    box = mask.getbbox()
    if marks.pattern == "plain" or box is None:
        return
    inverse = np.linalg.inv(pose.matrix).astype(np.float32)
    dx = np.arange(box[0], box[2], dtype=np.float32)[None, :] - np.float32(pose.offset[0])
    dy = np.arange(box[1], box[3], dtype=np.float32)[:, None] - np.float32(pose.offset[1])
    on_mark = marks.contain(inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy)
    shade = _mixed(coat, (255, 250, 235), 0.78) if light_marks else _mixed(coat, (12, 8, 20), 0.68)
    canvas.paste(shade, box, Image.fromarray(np.where(on_mark, np.asarray(mask.crop(box)), np.uint8(0))))
