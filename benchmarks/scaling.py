"""Numbers of docs/scaling.md: the cost of one million videos, from rates measured here and from FLOPs.

    COSMO_SAMPLES=FOLDER python -m benchmarks.scaling [--toy-videos N] [--write]

CPU stages run in this process, on one thread, one after the other, and their processor time counts. Decoding uses real
640x480 files (the folder COSMO_SAMPLES), the rest toy videos. Values under `ASSUMED` are not measured.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from benchmarks.table import machine
from dataset_builder import build_corpus, load_recipe
from dataset_builder.compare.kts import kts
from dataset_builder.corpus.shards import write_shard
from dataset_builder.engines.fingerprint import build_fingerprint, video_key
from dataset_builder.engines.outcomes import Outcomes
from dataset_builder.inputs import find_videos
from dataset_builder.pipeline import begin, video_stages
from dataset_builder.text.attach import attach_by_overlap
from dataset_builder.text.subtitles import Sentence
from dataset_builder.toy.videos import write_toy_videos
from dataset_builder.video.frames import FrameFit, FrameSampler


PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- numbers: python -m benchmarks.scaling --write -->", "<!-- end of numbers -->"
REAL_SIZE = (640, 480)

# ASSUMED: the collection, the machines, the prices. Change them here.
VIDEOS = 1_000_000
MINUTES = 6.5  # per video; HowTo100M: 134,472 hours in 1.22 million videos
FILE_MB = 35.0  # 640x480, H.264 at 0.7 Mbit/s
CLIPS = 10  # per video
RECORD_KB = 12.0  # of a record without its video, compressed
CORE_HOUR, H100_HOUR, GB_MONTH = 0.04, 2.5, 0.02  # dollars
CORES, H100S = 512, 8  # working at the same time
H100_FLOPS, A100_FLOPS = 989e12, 312e12  # dense bfloat16, by the vendor's data sheets
ENCODING, GENERATING = 0.40, 0.15  # share of it that is reached with large batches of pictures, and batched generation


@dataclass(frozen=True)
class CpuRate:
    """A measured rate: processor seconds per unit of something."""

    stage: str
    seconds: float
    per: str
    per_video: float
    """Units in a video of the collection."""

    @property
    def core_hours(self) -> float:
        """For the whole collection."""
        return self.seconds * self.per_video * VIDEOS / 3600


@dataclass(frozen=True)
class GpuWork:
    """An estimate: operations per unit, and units per video."""

    stage: str
    flops: float
    per: str
    per_video: float
    utilisation: float
    formula: str

    def gpu_hours(self, peak: float) -> float:
        """For the whole collection, on GPUs of this peak."""
        return self.flops * self.per_video * VIDEOS / (peak * self.utilisation) / 3600


def processor_seconds(work: Callable[[], object], at_least_s: float = 1.0) -> float:
    """Processor time of one call, averaged over calls that together take long enough to measure."""
    work()
    started, calls = time.process_time(), 0
    while time.process_time() - started < at_least_s:
        work()
        calls += 1
    return (time.process_time() - started) / calls


def real_files() -> list[tuple[Path, float]]:
    """Real 640x480 files with their lengths in seconds."""
    found = []
    for path in sorted(Path(os.environ.get("COSMO_SAMPLES", "/nowhere")).rglob("*.*")):
        if path.suffix not in (".mkv", ".mp4"):
            continue
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            if (context.width, context.height) == REAL_SIZE and container.duration:
                found.append((path, container.duration / 1e6))
    return found


def decode_rates() -> list[CpuRate]:
    """Rate of one pass at one frame a second, scaled to 224 pixels; none without real files."""
    files = real_files()
    if not files:
        return []
    fit = FrameFit(height_px=224, width_px=224)

    def watch() -> None:
        for path, _ in files:
            for _ in FrameSampler(path, 1.0, fit, batch=64):
                pass

    per_hour = processor_seconds(watch) / sum(length_s for _, length_s in files) * 3600
    return [CpuRate("probe, decode at 1 frame/s, scale to 224 px", per_hour, "hour of 640x480 video", MINUTES / 60)]


def algorithm_rates() -> list[CpuRate]:
    """Rates of segmenting and of assigning sentences to clips, at the sizes of such a video."""
    draw = np.random.default_rng(0)
    frames = int(MINUTES * 60)
    embeddings = draw.normal(size=(frames, 512)).astype(np.float32)
    segment = processor_seconds(lambda: kts(embeddings, frames // 10, 1.0, 3, 60))
    starts = [5.0 * index for index in range(frames // 5)]
    sentences = [Sentence(start_s=start_s, end_s=start_s + 4, text="and so on") for start_s in starts]
    spans = [(length * 39.0, length * 39.0 + 39) for length in range(CLIPS)]
    attach = processor_seconds(lambda: attach_by_overlap(sentences, spans))
    return [
        CpuRate(f"segment: KTS of {frames} frames", segment, "video", 1),
        CpuRate(f"speech: {len(sentences)} sentences to {CLIPS} clips", attach, "video", 1),
    ]


def build_rates(folder: Path, num_videos: int) -> list[CpuRate]:
    """Rates of the caption and filter stages, outcome files, and the assembly, on toy videos."""
    write_toy_videos(folder / "videos", num_videos, seed=0, workers=1, progress=False)
    recipe = load_recipe("toy", {"shards.embed_videos": False})
    sources = find_videos(folder / "videos")
    drafts = [begin(source, recipe) for source in sources]
    late = 0.0
    for name, make in video_stages(recipe).items():
        stage, started = make(), time.process_time()
        drafts = list(stage(drafts))
        late += time.process_time() - started if name in ("caption", "filter") else 0.0
    build_corpus(folder / "videos", folder / "corpus", recipe, workers=1, progress=False)
    outcomes, fingerprint = Outcomes(folder / "corpus" / ".build"), build_fingerprint(recipe)
    keys = [video_key(fingerprint, source) for source in sources]
    read = processor_seconds(lambda: [outcomes.load(key, source) for key, source in zip(keys, sources, strict=True)])

    def assemble() -> None:
        (folder / "corpus" / ".build" / "state.json").unlink()
        build_corpus(folder / "videos", folder / "corpus", recipe, workers=1, progress=False)

    records = [replace(draft.record, video_bytes=np.random.default_rng(0).bytes(1_000_000)) for draft in drafts[:20]]
    settings = replace(recipe.shards, embed_videos=True)
    embed = processor_seconds(lambda: write_shard(folder / "shard.parquet", records, settings)) / len(records)
    return [
        CpuRate("caption and filter stages (no model)", late / num_videos, "video", 1),
        CpuRate("check that its outcome is there", read / num_videos, "video", 1),
        CpuRate("assembly (1 process)", processor_seconds(assemble) / num_videos, "video", 1),
        CpuRate("where shards embed videos: writing them", embed, "MB of video", FILE_MB),
    ]


def gpu_work() -> list[GpuWork]:
    """Estimate 2 x parameters x tokens, plus attention's 4 x layers x tokens^2 x width for the picture encoders."""
    frames, words = MINUTES * 60, 90  # words: tokens of a narrative caption
    large = 2 * 0.304e9 * 257 + 4 * 24 * 257**2 * 1024
    small = 2 * 0.088e9 * 50
    giant = 2 * 0.986e9 * 257 + 4 * 39 * 257**2 * 1408 + 2 * 0.105e9 * 32 + 2 * 2.65e9 * (32 + 10 + 20)
    florence = 2 * 0.36e9 * (768 // 32) ** 2 * 3.6 + 2 * 0.2e9 * 577 + 2 * 0.2e9 * 200
    whisper = 2 * 0.088e9 * 1500 + 2 * 0.153e9 * 100
    narrator = 2 * 7.6e9 * (700 + words)
    return [
        GpuWork("segment, score: CLIP B/32, 1 frame/s", small, "frame", frames, ENCODING, "2 x 88M x 50"),
        GpuWork("the same with CLIP L/14", large, "frame", frames, ENCODING, "2 x 304M x 257 + attention"),
        GpuWork(
            "speech: Whisper small (videos without subtitles)", whisper, "30 s", frames / 30, GENERATING,
            "2 x 88M x 1500 + 2 x 153M x 100",
        ),
        GpuWork(
            "look: BLIP-2 OPT-2.7B, 1 frame a clip", giant, "frame", CLIPS, GENERATING,
            "2 x 986M x 257 + attention + Q-Former + 2 x 2.65B x 62",
        ),
        GpuWork(
            "look: Florence-2 large, regions of 1 frame a clip", florence, "frame", CLIPS, GENERATING,
            "DaViT: 2 x 360M x 24^2 x 3.6; text: 2 x 200M x 777",
        ),
        GpuWork(
            "narrate: 7B, 700 tokens in, 90 out", narrator, "clip", CLIPS, GENERATING, "2 x 7.6B x 790",
        ),
    ]  # fmt: skip


def cpu_table(rates: Iterable[CpuRate]) -> list[str]:
    """Table of the measured rates and their costs."""
    lines = ["| CPU stage, measured | processor time | core hours | dollars |", "| --- | --- | --- | --- |"]
    for rate in rates:
        time_taken = f"{rate.seconds:.3g} s" if rate.seconds >= 1 else f"{rate.seconds * 1000:.3g} ms"
        cost = rate.core_hours * CORE_HOUR
        lines.append(f"| {rate.stage} | {time_taken} per {rate.per} | {rate.core_hours:,.0f} | {cost:,.0f} |")
    return lines


def gpu_table(works: Iterable[GpuWork]) -> list[str]:
    """Table of the estimates."""
    lines = [
        "| GPU stage, **estimated** | operations | H100 hours | A100 hours | dollars |",
        "| --- | --- | --- | --- | --- |",
    ]
    for work in works:
        hours = work.gpu_hours(H100_FLOPS)
        lines.append(
            f"| {work.stage} | {work.flops / 1e9:,.0f} G per {work.per} ({work.formula}) | {hours:,.0f} | "
            f"{work.gpu_hours(A100_FLOPS):,.0f} | {hours * H100_HOUR:,.0f} |"
        )
    return lines


def numbers(toy_videos: int) -> str:
    """Measure, and return the page's block."""
    with tempfile.TemporaryDirectory() as folder:
        decoding, others = decode_rates(), [*algorithm_rates(), *build_rates(Path(folder), toy_videos)]
    works = gpu_work()
    spread = sum(rate.core_hours for rate in [*decoding, *others[:3]])
    chosen = [work for work in works if "the same" not in work.stage]
    gpu_hours = sum(work.gpu_hours(H100_FLOPS) for work in chosen)
    videos_tb, records_gb = VIDEOS * FILE_MB / 1e6, VIDEOS * RECORD_KB / 1e6
    assembly = next(rate for rate in others if rate.stage.startswith("assembly"))
    lines = [
        f"Measured on {machine()}, one thread, on {len(real_files())} real 640x480 files and {toy_videos} toy videos.",
        "" if decoding else "\nWithout COSMO_SAMPLES: decoding was not measured.\n",
        *cpu_table([*decoding, *others]),
        "",
        *gpu_table(works),
        "",
        f"- Ranks on the CPU: {spread:,.0f} core hours, {spread / CORES:,.1f} h on {CORES} cores.",
        f"- Ranks on GPUs, with CLIP B/32: {gpu_hours:,.0f} H100 hours, {gpu_hours / H100S:,.0f} h on {H100S} H100.",
        f"- Assembly, one process: {assembly.core_hours:,.1f} h.",
        f"- Storage: {videos_tb:,.0f} TB of videos ({videos_tb * 1000 * GB_MONTH:,.0f} dollars a month; twice that "
        f"where the shards embed them), {records_gb:,.0f} GB of records, two to three times that in `.build`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the block, and with `--write` put it into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy-videos", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    block = numbers(options.toy_videos)
    print(block)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{block}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
