"""How long and how large a video may be."""

from dataclasses import dataclass

from dataset_builder.draft import positive


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Which videos go into quarantine undecoded, so that none holds up a build or fills its memory."""

    max_duration_s: float = 6 * 3600.0
    """Longest video, in seconds; one that goes on past what its header says is stopped there, too."""
    max_frame_px: int = 7680 * 4320
    """Most pixels of a frame (8K fits); the decoder itself refuses larger ones, before it takes memory for them."""

    def __post_init__(self) -> None:
        positive(self, "max_duration_s", "max_frame_px")


def too_long(duration_s: float, max_duration_s: float) -> str:
    """Why a long video is refused."""
    return f"{duration_s:.0f} s long; the recipe allows {max_duration_s:.0f} s (probe.max_duration_s)"
