"""The toy world: what exists in it, which combinations training never shows, and how a step is captioned.

A step of a video is one *action* of an object (a *colour* and a *shape*) in front of a *background*.
"""

import random
from dataclasses import dataclass
from itertools import product


SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent")
COLOURS = {
    "red": (214, 32, 36),
    "orange": (248, 140, 20),
    "yellow": (246, 228, 48),
    "green": (40, 170, 62),
    "cyan": (58, 208, 222),
    "blue": (40, 74, 222),
    "purple": (150, 48, 196),
    "white": (244, 244, 244),
}
ACTIONS = {
    "roll_left": "rolls left",
    "roll_right": "rolls right",
    "rise": "rises",
    "fall": "falls",
    "grow": "grows",
    "shrink": "shrinks",
    "blink": "blinks",
    "split": "splits in two",
}
ORDER_ONLY_PAIRS = (("roll_left", "roll_right"), ("rise", "fall"), ("grow", "shrink"))
"""Pairs of actions with the same set of frames in a different order."""
BACKGROUNDS = ("bricks", "checks", "dots", "grid", "stripes", "waves")
HELD_OUT_SHARE = 0.15

Combination = tuple[str, str, str]


def _draw_held_out() -> frozenset[Combination]:
    combinations = list(product(SHAPES, COLOURS, ACTIONS))
    random.Random(7).shuffle(combinations)
    return frozenset(combinations[: round(HELD_OUT_SHARE * len(combinations))])


HELD_OUT: frozenset[Combination] = _draw_held_out()
"""The (shape, colour, action) combinations that only the test split shows; the same for every seed."""
SEEN: tuple[Combination, ...] = tuple(sorted(set(product(SHAPES, COLOURS, ACTIONS)) - HELD_OUT))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of one step."""

    shape: str
    colour: str
    action: str
    background: str

    @property
    def object_phrase(self) -> str:
        """Colour and shape as a caption names them, such as "red star"."""
        return f"{self.colour} {self.shape}"

    @property
    def action_phrase(self) -> str:
        """The action as a caption names it, such as "rolls left"."""
        return ACTIONS[self.action]

    @property
    def caption(self) -> str:
        """The canonical caption, such as "a red star rolls left in front of the bricks"."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.object_phrase} {self.action_phrase} in front of the {self.background}"


def combinations_of(split: str) -> tuple[Combination, ...]:
    """Combinations that a split may show: the held-out ones for "test", all others for the other splits."""
    return tuple(sorted(HELD_OUT)) if split == "test" else SEEN
