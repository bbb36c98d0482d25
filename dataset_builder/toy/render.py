"""Draw the frames of a step: a shape with smooth edges, moved by an action, in front of a textured background.

Axes: T frames, S side in pixels. Positions and sizes are shares of the side, angles are radians.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dataset_builder.toy.world import COLOURS, Scene


Array = NDArray[np.floating]
PAN_FRAMES = 4
"""Length of the camera pan in a join by "move"; the border is in its middle."""
BLEND_FRAMES = 3
"""Frames over which an invisible join leads from the old pose to the new one."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Position and shape of the object in each frame; every field has shape (T,)."""

    x: Array
    y: Array
    radius: Array
    angle: Array
    opacity: Array
    gap: Array
    """Distance of each of the two copies from their middle; 0 while the object is whole."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The properties of a step that do not change over time, drawn once per object."""

    x: float
    y: float
    radius: float
    angle: float
    phase: tuple[float, float]
    tones: tuple[float, float]
    tint: tuple[float, float, float]


def draw_look(rng: np.random.Generator) -> Appearance:
    """A random appearance: position and size of the object, shift and lighting of the background."""
    dark = rng.uniform(58, 84)
    return Appearance(
        x=rng.uniform(0.40, 0.60),
        y=rng.uniform(0.40, 0.60),
        radius=rng.uniform(0.185, 0.235),
        angle=rng.uniform(-0.4, 0.4),
        phase=(rng.uniform(0, 1), rng.uniform(0, 1)),
        tones=(dark, dark + rng.uniform(28, 46)),
        tint=tuple(rng.uniform(0.94, 1.06, size=3)),
    )


def draw_pose(action: str, appearance: Appearance, num_frames: int, rng: np.random.Generator) -> Pose:
    """The object's path through a step of `num_frames` frames; order-only pairs are mirrored in time."""
    time = np.linspace(0, 1, num_frames, dtype=np.float32)
    still = np.ones(num_frames, dtype=np.float32)
    pose = {
        "x": appearance.x * still,
        "y": appearance.y * still,
        "radius": appearance.radius * still,
        "angle": appearance.angle * still,
        "opacity": still,
        "gap": 0 * still,
    }
    start, end = rng.uniform(0.20, 0.28), rng.uniform(0.72, 0.80)
    if action in ("roll_left", "roll_right", "rise", "fall"):
        backwards = action in ("roll_left", "rise")  # y grows downwards
        path = (end + (start - end) * time) if backwards else (start + (end - start) * time)
        pose["y" if action in ("rise", "fall") else "x"] = path
        if action.startswith("roll"):
            pose["angle"] = appearance.angle + (path - path[0]) / appearance.radius
    elif action in ("grow", "shrink"):
        small, large = rng.uniform(0.42, 0.52), rng.uniform(1.25, 1.40)
        scale = small + (large - small) * (time if action == "grow" else 1 - time)
        pose["radius"] = appearance.radius * scale
    elif action == "blink":
        pose["opacity"] = _blinking(num_frames, rng)
    elif action == "split":
        pose["radius"] = appearance.radius * (1 - 0.35 * time)
        pose["gap"] = rng.uniform(0.24, 0.29) * time
        pose["x"] = (0.5 + (appearance.x - 0.5) * 0.3) * still
    else:
        raise ValueError(f"unknown action {action!r}")
    return Pose(**{name: value.astype(np.float32) for name, value in pose.items()})


def _blinking(num_frames: int, rng: np.random.Generator) -> Array:
    """Two or three frames on, two off, without a fixed period that a sampling rate could miss."""
    runs: list[float] = []
    while len(runs) < num_frames:
        runs += [1.0] * int(rng.integers(2, 4)) + [0.0] * 2
    shift = int(rng.integers(0, 3))
    return np.asarray((runs + [1.0] * 3)[shift : shift + num_frames], dtype=np.float32)


def blend_poses(last: Pose, pose: Pose) -> Pose:
    """Make `pose` start where `last` ended, so that nothing jumps between them."""
    weight = np.clip(np.arange(len(pose.x), dtype=np.float32) / BLEND_FRAMES, 0, 1)
    names = [field.name for field in fields(Pose)]
    return Pose(**{name: weight * getattr(pose, name) + (1 - weight) * getattr(last, name)[-1] for name in names})


def render_step(scene: Scene, appearance: Appearance, pose: Pose, size_px: int) -> NDArray[np.uint8]:
    """Render the frames of one step, shape (T, S, S, 3), RGB."""
    backdrop = render_background(scene.background, appearance, size_px)  # (S, S, 3)
    centre = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    cover: Array = np.zeros((len(pose.x), size_px, size_px), dtype=np.float32)
    sides = (-1, 1) if pose.gap.any() else (0,)
    for side in sides:
        dx = centre[None, None, :] - (pose.x + side * pose.gap)[:, None, None]  # (T, 1, S)
        dy = centre[None, :, None] - pose.y[:, None, None]  # (T, S, 1)
        cos, sin = np.cos(pose.angle)[:, None, None], np.sin(pose.angle)[:, None, None]
        radius = pose.radius[:, None, None]
        outside = _DISTANCE[scene.shape]((dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius)
        np.maximum(cover, np.clip(0.5 - outside * radius * size_px, 0, 1), out=cover)
    visible = (cover * pose.opacity[:, None, None])[..., None]  # (T, S, S, 1)
    paint = np.asarray(COLOURS[scene.colour], dtype=np.float32)
    return (backdrop + visible * (paint - backdrop) + 0.5).astype(np.uint8)


def render_background(background: str, appearance: Appearance, size_px: int) -> Array:
    """Render the backdrop, shape (S, S, 3): two grey tones in the named pattern."""
    centre = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    x, y = centre[None, :] * 4 + appearance.phase[0], centre[:, None] * 4 + appearance.phase[1]  # four tiles a side
    pattern = _PATTERN[background](x, y)  # (S, S) in [0, 1]
    grey = appearance.tones[0] + pattern * (appearance.tones[1] - appearance.tones[0])
    return (grey[..., None] * np.asarray(appearance.tint, dtype=np.float32)).astype(np.float32)


def pan(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Render a camera pan between two sequences of equal length: `after` pushes `before` out to the left."""
    num_frames, size_px = before.shape[0], before.shape[2]
    both = np.concatenate([before, after], axis=2)  # (T, S, 2 S, 3)
    shifts = ((np.arange(num_frames) + 0.5) / num_frames * size_px).astype(int)
    return np.stack([frame[:, shift : shift + size_px] for frame, shift in zip(both, shifts, strict=True)])


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(y, 0.8660254 * np.abs(x) - 0.5 * y) - 0.55


def _star(x: Array, y: Array) -> Array:
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)  # 0 along each ray
    length = np.sqrt(x * x + y * y)
    along, across = length * np.cos(angle), length * np.sin(angle)
    # Edge from the tip (1.15, 0) to the notch at radius 0.48, half a fifth further.
    notch = (0.48 * np.cos(fifth / 2), 0.48 * np.sin(fifth / 2))
    edge = (notch[0] - 1.15, notch[1])
    return (across * -edge[0] + (along - 1.15) * edge[1]) / float(np.hypot(*edge))


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.32, np.maximum(x, y) - 1.0)


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(np.sqrt(x * x + y * y) - 1.05, 0.80 - np.sqrt((x - 0.55) ** 2 + y * y))


_DISTANCE: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.sqrt(x * x + y * y) - 0.95,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.80,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.sqrt(x * x + y * y) - 0.78) - 0.25,
    "crescent": _crescent,
}
"""Signed distance to the outline in units of the radius, negative inside."""


def _bricks(x: Array, y: Array) -> Array:
    row = np.floor(2 * y)
    mortar = ((2 * y) % 1 < 0.18) | ((x + 0.5 * (row % 2)) % 1 < 0.1)
    return mortar.astype(np.float32)


_PATTERN: dict[str, Callable[[Array, Array], Array]] = {
    "bricks": _bricks,
    "checks": lambda x, y: ((np.floor(x) + np.floor(y)) % 2).astype(np.float32),
    "dots": lambda x, y: (((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2) < 0.08).astype(np.float32),
    "grid": lambda x, y: ((x % 1 < 0.14) | (y % 1 < 0.14)).astype(np.float32),
    "stripes": lambda x, y: ((x + y) % 1 < 0.5).astype(np.float32),
    "waves": lambda x, y: (0.5 + 0.5 * np.sin(2 * np.pi * (1.5 * y + 0.25 * np.sin(2 * np.pi * x)))).astype(
        np.float32
    ),
}
