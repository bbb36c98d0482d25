"""The narration of a toy video: sentences about a step, early or late, or about something else."""

from dataclasses import dataclass

import numpy as np

from dataset_builder.toy.world import Scene


OFF_TOPIC_SHARE = 0.15
MAX_SHIFT_S = 1.5
"""A sentence may begin up to this much before or after the step that it is about."""

_SAYINGS = {
    "roll_left": (
        "now roll the {object} over to the left",
        "the {object} goes left",
        "we send the {object} towards the left side",
        "watch the {object} travel to the left",
        "give the {object} a push to the left",
        "let the {object} roll left",
    ),
    "roll_right": (
        "now roll the {object} over to the right",
        "the {object} goes right",
        "we send the {object} towards the right side",
        "watch the {object} travel to the right",
        "give the {object} a push to the right",
        "let the {object} roll right",
    ),
    "rise": (
        "lift the {object} up",
        "the {object} goes up",
        "we raise the {object} slowly",
        "watch the {object} climb to the top",
        "pull the {object} upwards",
        "let the {object} rise",
    ),
    "fall": (
        "drop the {object} down",
        "the {object} goes down",
        "we lower the {object} slowly",
        "watch the {object} sink to the bottom",
        "let go of the {object} and it comes down",
        "let the {object} fall",
    ),
    "grow": (
        "make the {object} bigger",
        "the {object} gets larger",
        "we blow up the {object}",
        "watch the {object} expand",
        "stretch the {object} on all sides",
        "let the {object} grow",
    ),
    "shrink": (
        "make the {object} smaller",
        "the {object} gets tiny",
        "we squeeze the {object}",
        "watch the {object} contract",
        "press the {object} together on all sides",
        "let the {object} shrink",
    ),
    "blink": (
        "switch the {object} on and off",
        "the {object} flashes",
        "we make the {object} flicker",
        "watch the {object} come and go",
        "hide the {object} and show it again",
        "let the {object} blink",
    ),
    "split": (
        "cut the {object} in two",
        "the {object} comes apart",
        "we divide the {object}",
        "watch the {object} turn into two",
        "take the {object} to pieces",
        "let the {object} split",
    ),
}
_FILLERS = ("", "", "", "so ", "okay ", "um ", "and then ", "alright ", "next ", "you know ")
OFF_TOPIC = (
    "do not forget to subscribe to the channel",
    "my neighbour is mowing the lawn again",
    "i had a really good coffee this morning",
    "leave a comment if you have any questions",
    "sorry about the noise in the background",
    "this video is not sponsored by anyone",
    "last week we talked about something else",
    "it has been raining here for days",
)


@dataclass(frozen=True, kw_only=True)
class NarratedSentence:
    """A spoken sentence; `step_index` is the step that it is about, None if it is off topic."""

    start_s: float
    end_s: float
    text: str
    step_index: int | None


def say(scene: Scene, rng: np.random.Generator) -> str:
    """A random narration of a scene, with or without a filler in front."""
    ways = _SAYINGS[scene.action]
    filler = _FILLERS[rng.integers(len(_FILLERS))]
    return filler + ways[rng.integers(len(ways))].format(object=scene.object_phrase)


def narrate(
    scenes: list[Scene], spans_s: list[tuple[float, float]], duration_s: float, rng: np.random.Generator
) -> list[NarratedSentence]:
    """One sentence per step, shifted by up to `MAX_SHIFT_S` but within the video, in order of their start."""
    sentences = []
    for index, (scene, (start_s, end_s)) in enumerate(zip(scenes, spans_s, strict=True)):
        off_topic = rng.random() < OFF_TOPIC_SHARE
        text = OFF_TOPIC[rng.integers(len(OFF_TOPIC))] if off_topic else say(scene, rng)
        length_s = min(end_s - start_s, 0.3 + 0.22 * len(text.split()))
        begin_s = start_s + rng.uniform(-MAX_SHIFT_S, MAX_SHIFT_S)
        begin_s = min(max(begin_s, 0.0), duration_s - length_s)
        sentences.append(
            NarratedSentence(
                start_s=round(begin_s, 3),
                end_s=round(begin_s + length_s, 3),
                text=text,
                step_index=None if off_topic else index,
            )
        )
    return sorted(sentences, key=lambda sentence: sentence.start_s)


def to_webvtt(sentences: list[NarratedSentence]) -> str:
    """The sentences as a WebVTT file."""
    cues = [f"{_clock(s.start_s)} --> {_clock(s.end_s)}\n{s.text}\n" for s in sentences]
    return "WEBVTT\n\n" + "\n".join(cues)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
