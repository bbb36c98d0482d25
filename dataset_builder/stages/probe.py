"""The stage `probe`: read each video's header, and quarantine videos that are too long or too large to decode."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import av

from dataset_builder.draft import Draft, each
from dataset_builder.errors import DamagedInput
from dataset_builder.video.container import VideoFacts, open_video, read_facts
from dataset_builder.video.limits import ProbeSettings, too_long


class ProbeStage:
    """Reads the header of every video and records its facts in the provenance."""

    def __init__(self, settings: ProbeSettings) -> None:
        self.settings = settings

    def __call__(self, drafts: Iterable[Draft]) -> Iterator[Draft]:
        """The same videos; those that cannot be opened or exceed a limit are quarantined."""
        return each(drafts, self._probe)

    def _probe(self, draft: Draft) -> Draft:
        with open_video(draft.source.path, self.settings.max_frame_px) as (container, stream):
            facts = read_facts(container, stream)
        check_facts(facts, self.settings)
        record = replace(draft.record, duration_s=facts.duration_s or 0.0)
        return replace(draft, record=record).noted(
            "probe", {"tool": "av", "version": av.__version__} | facts.as_dict()
        )


def check_facts(facts: VideoFacts, settings: ProbeSettings) -> None:
    """Refuse a video whose header exceeds a limit.

    Raises:
        DamagedInput: naming the limit.
    """
    if facts.width_px * facts.height_px > settings.max_frame_px:
        raise DamagedInput(
            f"frames of {facts.width_px}x{facts.height_px} pixels; the recipe allows {settings.max_frame_px} "
            "(probe.max_frame_px)"
        )
    if facts.duration_s is not None and facts.duration_s > settings.max_duration_s:
        raise DamagedInput(too_long(facts.duration_s, settings.max_duration_s))
