"""Find hard cuts with scenedetect (optional: `pip install 'cosmo-vlm[scenes]'`), in frames that PyAV decodes."""

from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dataset_builder.video.container import RgbConverter, decode_forward, open_video, shown_size


HEIGHT_PX = 96  # cuts show in small pictures, too, which are cheap to compare
CLOCK_HZ = 1000  # scenedetect counts frames; we number each frame by its time in milliseconds
MIN_SCENE_MS = 400  # cuts closer together than this are flashes


def load_scenedetect() -> Any:
    """Import the package.

    Raises:
        ValueError: if it is not installed, saying what to install.
    """
    try:
        import scenedetect
    except ImportError as error:
        raise ValueError(
            "segment.snap_to_cuts_s needs scenedetect: pip install 'cosmo-vlm[scenes]' (or set it to 0)"
        ) from error
    return scenedetect


def provenance() -> dict[str, Any]:
    """Tool and version."""
    for name in ("scenedetect-headless", "scenedetect"):
        try:
            return {"tool": "scenedetect", "version": version(name)}
        except PackageNotFoundError:
            continue
    raise AssertionError("scenedetect was there when the stage was made")


def find_cuts(video: Path | bytes) -> list[float]:
    """Times of hard cuts, in seconds, ascending.

    Raises:
        DamagedInput: if the video cannot be decoded.
    """
    scenedetect = load_scenedetect()
    detector, convert = scenedetect.AdaptiveDetector(min_scene_len=MIN_SCENE_MS), RgbConverter()
    cuts: list[float] = []
    last_ms = -1
    with open_video(video) as (container, stream):
        for timed in decode_forward(stream, container):
            last_ms = max(last_ms + 1, round(timed.start_s * CLOCK_HZ))
            height_px, width_px = shown_size(timed.frame)
            width_px = max(16, round(HEIGHT_PX * width_px / height_px))
            picture = convert(timed.frame, HEIGHT_PX, width_px)[:, :, ::-1]  # scenedetect reads BGR
            clock = scenedetect.FrameTimecode(last_ms, Fraction(CLOCK_HZ))
            cuts += [found.frame_num / CLOCK_HZ for found in detector.process_frame(clock, picture.copy())]
        if last_ms >= 0:
            end = scenedetect.FrameTimecode(last_ms, Fraction(CLOCK_HZ))
            cuts += [found.frame_num / CLOCK_HZ for found in detector.post_process(end)]
    return sorted(cuts)
