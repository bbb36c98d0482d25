"""Limits on the length and frame size of a video."""

from dataclasses import dataclass

from dataset_builder.draft import positive


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Limits above which a video is quarantined undecoded, so that none can stall a build or fill its memory."""

    max_duration_s: float = 6 * 3600.0
    """Longest video, in seconds; a video that lasts longer than its header says is stopped there, too."""
    max_frame_px: int = 7680 * 4320
    """Most pixels in a frame (8K fits); the decoder refuses larger frames before it allocates memory for them."""

    def __post_init__(self) -> None:
        positive(self, "max_duration_s", "max_frame_px")


def too_long(duration_s: float, max_duration_s: float) -> str:
    """The reason for refusing a video that is too long."""
    return f"{duration_s:.0f} s long; the recipe allows {max_duration_s:.0f} s (probe.max_duration_s)"
