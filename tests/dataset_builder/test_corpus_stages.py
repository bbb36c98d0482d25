"""Stages that see the whole corpus: copies are marked, and clips are drawn evenly."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.compare.kmeans import assign, fit_centres
from dataset_builder.compare.marks import in_order
from dataset_builder.compare.minhash import NearTextIndex, overlap, runs_of
from dataset_builder.compare.same_video import SameVideoIndex
from dataset_builder.draft import Draft
from dataset_builder.inputs import SourceVideo
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.stages.deduplicate import DeduplicateSettings, DeduplicateStage
from dataset_builder.stages.segment import difference_hashes
from dataset_builder.stages.select import SelectSettings, SelectStage, draw_evenly
from dataset_builder.toy.videos import write_toy_videos
from tests.dataset_builder.make_videos import encode, story


@dataclass(frozen=True)
class Listed:
    """Drafts in memory, for stages that accept anything that can be counted and indexed."""

    drafts: list[Draft]

    def __len__(self) -> int:
        return len(self.drafts)

    def __getitem__(self, index: int, /) -> Draft:
        return self.drafts[index]


def draft(name: str, captions: list[str], embeddings: np.ndarray, split: str = "train") -> Draft:
    path = Path(f"/nowhere/{split}/{name}.mp4")
    source = SourceVideo(split=split, video_id=name, path=path, name=path.name, subtitles=None, truth=None)
    clips = tuple(Clip(start_s=i, end_s=i + 1.0, caption=text) for i, text in enumerate(captions))
    record = InterleavedVideo(video_id=name, duration_s=float(len(captions)), clips=clips)
    return Draft(source=source, record=record, clip_embeddings=embeddings.astype(np.float16))


def reasons(drafts) -> dict[str, list[str]]:
    return {one.source.video_id: [clip.drop_reason for clip in one.record.clips] for one in in_order(drafts)}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_near_captions_of_any_video_stay_once_and_the_test_split_keeps_its_own():
    long = "take the red star from the table and turn it over slowly until it lies on its back"
    drafts = Listed(
        [
            draft("a", [long.replace("slowly", "quickly"), "something else is said in here"], np.eye(3)[:2]),
            draft("b", ["nothing like it at all, ever", "take the red star"], np.eye(3)[:2]),
            draft("c", [long], np.eye(3)[:1], split="test"),
        ]
    )
    found = DeduplicateStage(DeduplicateSettings(exact_videos=False, caption_overlap=0.6), seed=0)(drafts)
    assert reasons(found) == {"a": ["near-duplicate caption: test/c clip 0", ""], "b": ["", ""], "c": [""]}
    assert [clip.keep for clip in found[0].record.clips] == [False, True]


def test_minhash_finds_what_comparing_all_pairs_finds():
    """Texts of many degrees of similarity; the chance of missing a pair at 0.7 is 2 in 10,000."""
    draw = np.random.default_rng(5)
    words = [f"w{index}" for index in range(40)]
    texts = []
    for _ in range(120):
        base = (
            texts[draw.integers(len(texts))].split() if texts and draw.random() < 0.6 else list(draw.choice(words, 23))
        )
        base = [str(draw.choice(words)) if draw.random() < 0.03 else word for word in base]
        texts.append(" ".join(base))
    index, kept = NearTextIndex(0.7), list[int]()
    for number, text in enumerate(texts):
        runs = {tuple(text.split()[i : i + 3]) for i in range(21)}
        alike = []
        for other in kept:
            theirs = {tuple(texts[other].split()[i : i + 3]) for i in range(21)}
            jaccard = len(runs & theirs) / len(runs | theirs)
            assert overlap(runs_of(text), runs_of(texts[other])) == pytest.approx(jaccard)
            alike += [other] if jaccard >= 0.7 else []
        found = index.find_or_add(number, text)
        assert (found is None) == (not alike)
        assert found is None or found in alike
        kept += [number] if found is None else []
    assert 20 < len(kept) < 100, "both happen"


def test_what_does_not_count_in_a_text():
    assert runs_of("Take the RED star, now!").tolist() == runs_of("take the red -- star now").tolist()
    assert len(runs_of("two words")) == 1
    assert len(runs_of(" ... ")) == 0
    assert NearTextIndex(0.5).find_or_add(0, "") is None


def test_clips_of_other_videos_that_show_the_same_stay_once():
    draw = np.random.default_rng(0)
    base = unit(draw.normal(size=(5, 32)))
    near = unit(base + 0.02 * draw.normal(size=base.shape))
    drafts = Listed(
        [
            draft("a", ["x", "y", "z"], np.stack([base[0], base[0], base[1]])),  # alike in one video: both stay
            draft("b", ["x", "y"], np.stack([near[1], base[2]])),
            draft("c", ["x"], near[2:3], split="test"),
        ]
    )
    found = DeduplicateStage(DeduplicateSettings(exact_videos=False, clip_similarity=0.95), seed=0)(drafts)
    assert reasons(found) == {
        "a": ["", "", ""],
        "b": ["near-duplicate clip: train/a clip 2", "near-duplicate clip: test/c clip 0"],
        "c": [""],
    }


def test_embeddings_of_different_length_are_told_with_the_video():
    drafts = Listed([draft("a", ["x"], np.ones((1, 7))), draft("b", ["y"], np.ones((1, 5)))])
    with pytest.raises(ValueError, match=r"embeddings of b\.mp4 have 5 numbers each; those of the videos before it 7"):
        SelectStage(SelectSettings(share=0.5), seed=0)(drafts)


def transcode(source: Path, target: Path, *, size: int, rate: int, crf: int, gain: float = 1.0) -> Path:
    """The same pictures in another size, rate, codec quality and brightness."""
    with av.open(str(source)) as container, av.open(str(target), mode="w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height = stream.width = size
        stream.pix_fmt = "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        times = np.arange(int(len(frames) * rate / 8)) * 8 / rate
        for index, time in enumerate(times):
            pixels = np.clip(frames[int(time)] * gain, 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(size, size, "yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return target


def test_videos_encoded_again_are_found_and_no_others(tower_dir, tmp_path):
    write_toy_videos(tmp_path / "toy", num_videos=27, seed=11, workers=1, progress=False)
    originals = sorted((tmp_path / "toy" / "train").glob("*.mp4"))
    folder = tmp_path / "in" / "train"
    folder.mkdir(parents=True)
    for path in originals:
        (folder / f"{path.stem}.mp4").hardlink_to(path)
    forms = {
        "smaller": {"size": 48, "rate": 8, "crf": 30},
        "larger and faster": {"size": 150, "rate": 25, "crf": 23},
        "brighter": {"size": 64, "rate": 8, "crf": 20, "gain": 1.15},
    }
    for (name, form), path in zip(forms.items(), originals[::5], strict=False):
        transcode(path, folder / f"z {name}.mp4", **form)
    overrides = {"segment.tower": str(tower_dir), "filter": None, "deduplicate.video_overlap": 0.75}
    recipe = load_recipe("laptop", overrides | {"segment.frame_rate_hz": 4.0})
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
    records = read_corpus(tmp_path / "out", "train", include_dropped=True)
    dropped = {record.video_id: record.clips[0].drop_reason for record in records if not record.clips[0].keep}
    expected = {
        f"z {name}": f"duplicate video: train/{path.stem}" for name, path in zip(forms, originals[::5], strict=False)
    }
    assert dropped == expected


def test_a_part_of_a_video_is_that_video_and_flat_frames_are_nothing():
    draw = np.random.default_rng(3)
    whole, others = (
        draw.integers(0, 2**63, size=40, dtype=np.uint64),
        draw.integers(0, 2**63, size=40, dtype=np.uint64),
    )
    index = SameVideoIndex(least_share=0.8, max_bits=4)
    assert index.find_or_add(0, whole) is None
    assert index.find_or_add(1, others) is None
    noisy = whole[13:31] ^ (np.uint64(1) << draw.integers(0, 64, size=18, dtype=np.uint64))
    assert index.find_or_add(2, noisy) == 0
    assert index.find_or_add(3, whole[::-1].copy()) is None, "in another order"
    assert index.find_or_add(4, np.concatenate([others[:15], whole[:15]])) is None, "half of it is new"
    black = np.zeros(50, dtype=np.uint64)
    assert index.find_or_add(5, black) is None
    assert index.find_or_add(6, black) is None


def test_long_videos_are_compared_in_little_memory():
    """Six hours at one frame a second, and the same with a second more: all pairs at once would be 3.7 GB."""
    frames = np.random.default_rng(4).integers(0, 2**63, size=5000, dtype=np.uint64)
    index = SameVideoIndex(least_share=0.8, max_bits=4)
    assert index.find_or_add(0, frames) is None
    tracemalloc.start()
    assert index.find_or_add(1, np.concatenate([frames[:1], frames])) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6, "of the 200 MB that 5000 x 5001 pairs of 8 bytes take"


def test_a_hash_compares_neighbouring_cells():
    """Compare with means taken cell by cell, in sizes that do not divide evenly."""
    frames = np.random.default_rng(1).integers(0, 256, size=(3, 37, 53, 3), dtype=np.uint8)
    for pixels, found in zip(frames, difference_hashes(frames), strict=True):
        grey = pixels.mean(axis=2)
        rows = [37 * index // 8 for index in range(9)]
        columns = [53 * index // 9 for index in range(10)]
        bits = ""
        for top, bottom in pairwise(rows):
            cells = [grey[top:bottom, left:right].mean() for left, right in pairwise(columns)]
            bits += "".join(str(int(left < right - 0.5)) for left, right in pairwise(cells))
        expected = np.packbits([int(bit) for bit in bits]).view(np.uint64)[0]
        assert found == expected


def test_clusters_are_found_and_the_same_for_the_same_seed():
    draw = np.random.default_rng(2)
    truth = np.repeat(np.arange(7), [50, 3, 20, 11, 5, 40, 2])
    rows = unit(np.eye(13)[truth] + 0.03 * draw.normal(size=(len(truth), 13))).astype(np.float16)
    found = assign(rows, fit_centres(rows, 7, seed=1))
    pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 7, "one cluster each"
    np.testing.assert_array_equal(found, assign(rows, fit_centres(rows, 7, seed=1)))
    assert len(fit_centres(rows[:3], 7, seed=1)) == 3
    assert len(np.unique(fit_centres(np.ones((5, 2)) / np.sqrt(2), 3, seed=0), axis=0)) == 1


@pytest.mark.parametrize(
    ("wanted", "expected"), [(9, [3, 1, 2, 3]), (8, [3, 1, 2, 2]), (4, [1, 1, 1, 1]), (0, [0] * 4)]
)
def test_every_cluster_gives_as_many_as_it_can(wanted, expected):
    clusters = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [100, 1, 2, 50]))
    chosen = draw_evenly(clusters, wanted, seed=4)
    counts = [int(chosen[clusters == cluster].sum()) for cluster in range(4)]
    assert sorted(counts) == sorted(expected)
    assert counts[1] == expected[1]
    np.testing.assert_array_equal(chosen, draw_evenly(clusters, wanted, seed=4))


def test_draws_within_a_cluster_are_even_over_seeds():
    hits = sum(draw_evenly(np.zeros(10, dtype=int), 3, seed) for seed in range(2000))
    # a binomial of 2000 x 0.3 has a deviation of 20.5: six of them
    assert np.abs(hits - 600).max() < 125


def test_select_keeps_the_rare_and_thins_the_common():
    """Keep 72 % of 100 clips: the 28 dropped are among the 90 that show the same."""
    rows = np.concatenate([np.tile(np.eye(11)[0], (90, 1)), np.eye(11)[1:]])
    noise = 0.01 * np.random.default_rng(0).normal(size=rows.shape)
    drafts = Listed([draft(f"v{index}", ["x"], unit(row[None])) for index, row in enumerate(rows + noise)])
    done = SelectStage(SelectSettings(share=0.72, num_clusters=11), seed=0)(drafts)
    kept = [all(clip.keep for clip in one.record.clips) for one in in_order(done)]
    assert sum(kept) == 72
    assert all(kept[90:])
    counts = Counter(reason for listed in reasons(done).values() for reason in listed)
    assert counts == {"": 72, "not selected": 28}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("select.share", 1.2, "select: share is 1.2; expected a share up to 1"),
        ("select.share", 0.0, "select: share is 0.0; expected more than 0"),
        ("deduplicate.video_overlap", 2.0, "deduplicate: video_overlap is 2.0"),
        ("deduplicate.video_hash_bits", 40, "deduplicate: video_hash_bits is 40"),
        ("deduplicate.clip_similarity", 2.0, "deduplicate: clip_similarity is 2.0"),
    ],
)
def test_wrong_settings_are_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("toy", {key: value})


def test_changing_what_sees_all_videos_redoes_no_video(tower_dir, tmp_path):
    for index in range(4):
        encode(tmp_path / "in" / f"{index}.mp4", story(index))
    base = {
        "segment.tower": str(tower_dir),
        "filter": None,
        "segment.penalty": 0.01,
        "segment.frames_per_segment": 3.0,
    }
    build_corpus(tmp_path / "in", tmp_path / "out", load_recipe("laptop", base), workers=1, progress=False)
    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out/.build").rglob("*.json") if "state" not in path.name
    }
    recipe = load_recipe("laptop", base | {"select.share": 0.5, "select.num_clusters": 3})
    summary = build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
    assert stamps
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert summary.drop_reasons == {"not selected": summary.num_clips - round(0.5 * summary.num_clips)}
    build_corpus(tmp_path / "in", tmp_path / "again", recipe, workers=1, progress=False)
    for path in (tmp_path / "out" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "data" / path.name).read_bytes()
