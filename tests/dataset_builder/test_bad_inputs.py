"""Damaged files are listed with a reason and the build continues; bad requests get one clear line."""

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.atomic import WriteError
from dataset_builder.build import _locked
from dataset_builder.draft import Draft, each
from dataset_builder.engines import ENGINES, make_engine
from dataset_builder.errors import BuildStopped
from dataset_builder.inputs import find_videos
from dataset_builder.schema import InterleavedVideo
from tests.dataset_builder.make_videos import encode, story


@pytest.fixture(scope="module")
def recipe(tower_dir):
    """Speech for captions; empty ones are kept, so that every readable video counts."""
    return load_recipe("laptop", {"segment.tower": str(tower_dir), "filter.min_caption_words": 0})


@pytest.fixture
def folder(tmp_path) -> Path:
    """One good video, whose name sorts it first or last among the bad ones."""
    encode(tmp_path / "in" / "good.mp4", story(0))
    return tmp_path / "in"


def build(folder, recipe, **options):
    return build_corpus(folder, folder.parent / "out", recipe, workers=1, progress=False, **options)


def sound(path: Path) -> None:
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def without_frames(path: Path) -> None:
    """An AVI file that announces a video stream but holds none of it."""
    encode(path, story(0)[:0])


def cut_before_index(path: Path) -> None:
    data = encode(path, story(0)).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def cut_after_index(path: Path, into_frame: int = 0) -> None:
    """The index comes first, so that the file opens and promises frames that are missing."""
    encode(path, story(0), container_options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos]
    path.write_bytes(path.read_bytes()[: places[len(places) // 2] + into_frame])


def cut_in_a_frame(path: Path) -> None:
    cut_after_index(path, into_frame=20)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("notes.mp4", lambda path: path.write_text("not a video"), "not a video, or cut off"),
        ("zero.mp4", lambda path: path.write_bytes(b""), "empty file"),
        ("cut.mp4", cut_before_index, "not a video, or cut off before its index"),
        ("front.mp4", cut_after_index, "truncated: promises 6.00 s, frames end at"),
        ("sound.mp4", sound, "no video stream (found: ['audio'])"),
        ("header.avi", without_frames, "video without frames"),
        ("middle.mp4", cut_in_a_frame, "cannot be decoded after "),
    ],
)
def test_a_damaged_video_is_quarantined_and_the_others_go_on(folder, recipe, name, spoil, reason):
    spoil(folder / name)
    summary = build(folder, recipe)
    assert summary.exit_code == 3
    (line,) = (folder.parent / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == name
    assert reason in json.loads(line)["reason"]
    assert str(folder) not in line
    assert [record.video_id for record in read_corpus(folder.parent / "out", "train")] == ["good"]
    assert build(folder, recipe, allow_quarantine=True).exit_code == 0


@pytest.mark.parametrize("name", ["good.vtt", "good.srt", "good.en.vtt"])
def test_broken_subtitle_times_cost_neither_the_video_nor_the_other_sentences(folder, recipe, name):
    text = "WEBVTT\n\n00:00:03.000 --> 00:00:01.000\nbackwards\n\n00:00:01.000 --> 00:00:02.000\nforwards\n"
    (folder / name).write_text(text)
    summary = build(folder, recipe)
    assert summary.exit_code == 3
    assert [fault["path"] for fault in summary.quarantined] == [name]
    assert "line 3 has broken times" in summary.quarantined[0]["reason"]
    (record,) = read_corpus(folder.parent / "out", "train")
    assert " ".join(clip.asr for clip in record.clips).split() == ["forwards"]


def test_subtitles_that_are_no_text_cost_the_speech_alone(folder, recipe):
    (folder / "good.vtt").write_bytes(b"WEBVTT\n\n\xff\xfe")
    summary = build(folder, recipe)
    assert summary.exit_code == 3
    assert "not UTF-8" in summary.quarantined[0]["reason"]
    assert summary.num_videos == {"train": 1}


def test_missing_ground_truth_is_named(folder, tower_dir):
    summary = build(folder, load_recipe("toy", {"segment.tower": str(tower_dir)}))
    assert "no ground truth next to it (good.json)" in summary.quarantined[0]["reason"]
    assert not list((folder.parent / "out" / "data").iterdir())


def test_all_damaged_is_no_corpus(folder, recipe):
    (folder / "good.mp4").write_text("no longer")
    assert build(folder, recipe).exit_code == 3
    with pytest.raises(ValueError, match=r"none of the 1 videos in .* can be read; see .*quarantine\.jsonl"):
        build(folder, recipe, allow_quarantine=True)


def test_folders_that_cannot_be_built(folder, recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no video in .*empty \(looked for \.mp4, "):
        build(tmp_path / "empty", recipe)
    with pytest.raises(ValueError, match=r"no folder .*gone"):
        build(tmp_path / "gone", recipe)
    with pytest.raises(ValueError, match="is inside the input"):
        build_corpus(folder, folder / "out", recipe)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds data that no build wrote"):
        build_corpus(folder, tmp_path / "mine", recipe)
    assert not (tmp_path / "out").exists()


def test_a_build_takes_nobodys_files_away(folder, recipe, tmp_path):
    """A project's own videos/ and README.md: a corpus would put its files there and remove all others."""
    project = tmp_path / "project"
    encode(project / "videos" / "mine.mp4", story(1))
    (project / "videos" / "mine.vtt").write_text("WEBVTT")
    (project / "README.md").write_text("my project")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"holds videos, README\.md that no build wrote"):
        build_corpus(folder, project, recipe)
    with pytest.raises(ValueError, match="is among the files of the output"):
        build_corpus(project / "videos", project, recipe)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    build(folder, recipe)
    with pytest.raises(ValueError, match="is among the files of the output"):
        build_corpus(tmp_path / "out" / "videos", tmp_path / "out", recipe)


def test_a_missing_tokenizer_is_told_before_any_work(folder, recipe):
    """The card needs the tokenizer only after all videos are done, hours later."""
    without = replace(recipe, shards=replace(recipe.shards, tokenizer=str(folder)))
    with pytest.raises(ValueError, match="cannot load the tokenizer"):
        build(folder, without)
    assert not (folder.parent / "out" / ".build" / "results").exists()


def test_a_missing_tower_is_told_before_any_work(folder):
    with pytest.raises(ValueError, match="no model 'gone'"):
        build(folder, load_recipe("laptop", {"segment.tower": "gone"}))
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_two_builds_at_once_in_one_folder_are_refused(folder, recipe, engine):
    with (
        _locked(folder.parent / "out" / ".build"),
        pytest.raises(BuildStopped, match="another build is writing") as refusal,
    ):
        build(folder, recipe, engine=make_engine(engine))
    assert "\n" not in str(refusal.value)


def test_side_files_and_hidden_files_are_no_videos(folder, recipe):
    for name in ("LICENSE", "README.md", "list.csv", ".hidden.mp4", ".cache/part.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert build(folder, recipe).num_videos == {"train": 1}


def test_names_with_spaces_and_other_scripts_and_the_same_stem(folder, recipe):
    (folder / "wie man").mkdir()
    for name in ("wie man/Käse & Brot.mkv", "料理.mp4", "good.mkv"):
        encode(folder / name, story(1))
    assert build(folder, recipe).exit_code == 0
    records = {record.video_id: record for record in read_corpus(folder.parent / "out", "train", include_dropped=True)}
    assert set(records) == {"good.mp4", "good.mkv", "wie man/Käse & Brot", "料理"}
    for record in records.values():
        assert (folder.parent / "out" / record.video_path).is_file()


def test_a_name_that_is_no_text_is_quarantined(folder, recipe):
    """Latin-1 names, as on older systems and in archives: a corpus cannot hold them."""
    for name in (b"caf\xe9.mp4", b"caf\xe9.vtt", b"good.\xe9.vtt"):
        shutil.copy(folder / "good.mp4", folder / os.fsdecode(name))
    for _ in range(2):  # also if the corpus already exists
        summary = build(folder, recipe)
        assert summary.exit_code == 3
        assert summary.quarantined == [{"path": "caf\ufffd.mp4", "reason": "its name is not UTF-8; rename the file"}]
        assert summary.num_videos == {"train": 1}
    assert summary.up_to_date
    (folder / os.fsdecode(b"caf\xe9.mp4")).rename(folder / "café.mp4")
    assert build(folder, recipe).num_videos == {"train": 2}


def test_links_are_followed_and_those_to_nothing_are_listed(folder, recipe, tmp_path):
    """Collections over several disks, and clones whose large files were not fetched."""
    encode(tmp_path / "disk" / "far.mp4", story(1))
    (folder / "part").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(folder)
    (folder / "lost.mp4").symlink_to(tmp_path / "gone.mp4")
    summary = build(folder, recipe)
    assert summary.num_videos == {"train": 2}
    assert summary.quarantined == [{"path": "lost.mp4", "reason": "a link to a file that is not there"}]
    assert [record.video_id for record in read_corpus(tmp_path / "out", "train", include_dropped=True)] == [
        "good",
        "part/far",
    ]
    encode(tmp_path / "gone.mp4", story(2))
    assert build(folder, recipe).num_videos == {"train": 3}


def test_a_colon_in_a_name_is_no_address(folder, recipe, monkeypatch):
    """If the folder is `.`, FFmpeg would see the bare name and take its first part for a protocol."""
    for name in ("Part1: intro.mp4", "http:x.mp4", "file:y.mp4"):
        shutil.copy(folder / "good.mp4", folder / name)
    monkeypatch.chdir(folder)
    one = replace(recipe, deduplicate=None)
    assert build_corpus(".", "../out", one, workers=1, progress=False).num_videos == {"train": 4}


def test_what_may_not_be_read_is_listed_and_read_once_it_may(folder, recipe, monkeypatch):
    """Changing permissions changes no timestamp; the tests may run as root, who can read everything."""
    (folder / "good.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nnow we stir the dough")
    read, access = Path.read_bytes, os.access

    def refuse(path, *arguments, **options):
        if path.suffix == ".vtt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        patch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path).suffix != ".vtt")
        summary = build(folder, recipe)
    assert summary.quarantined == [{"path": "good.vtt", "reason": "no permission to read the subtitles"}]
    assert summary.num_videos == {"train": 1}
    assert build(folder, recipe).exit_code == 0


def test_a_videos_own_json_may_be_anything(folder, tower_dir):
    """Files that a collector left next to the videos."""
    (folder / "good.json").write_text("[" * 100_000)
    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir), "filter": None})
    assert build(folder, recipe).exit_code == 0
    late = "1" + 400 * "0"
    (folder / "good.json").write_text(f'{{"start": [1, 1e9], "end": [2, {late}], "text": ["half \\ud83d", "x"]}}')
    summary = build(folder, recipe)
    assert summary.exit_code == 3
    assert "caption 1 has broken times 1000000000.0 and 1000" in summary.quarantined[0]["reason"]
    (record,) = read_corpus(folder.parent / "out", "train")
    assert " ".join(clip.asr for clip in record.clips).split() == ["half", "?"]


def test_what_a_killed_build_was_about_to_write_is_removed(folder, recipe):
    (folder.parent / "out" / ".build").mkdir(parents=True)
    for name in ("README.md.0123456789abcdef.tmp", "shards.json.fedcba9876543210.tmp", "mine.tmp"):
        (folder.parent / "out" / name).write_text("half")
    build(folder, recipe)
    assert [path.name for path in (folder.parent / "out").glob("*.tmp")] == ["mine.tmp"]


def test_an_error_of_ours_tells_at_which_video_it_happened(folder):
    """The error ends the build; without the name, nobody could find the cause among a million videos."""
    (source,) = find_videos(folder)
    draft = Draft(source=source, record=InterleavedVideo(video_id="good", duration_s=1.0))
    with pytest.raises(ZeroDivisionError) as error:
        list(each([draft], lambda _: 1 // 0))
    assert error.value.__notes__ == ["(at the video good.mp4)"]


def test_equal_videos_stay_once_and_the_test_split_keeps_its_copy(tmp_path, recipe):
    encode(tmp_path / "in/test/b.mp4", story(0))
    encode(tmp_path / "in/train/other.mp4", story(1))
    for name in ("train/a.mp4", "train/c.mp4", "test/z.mp4"):
        shutil.copy(tmp_path / "in/test/b.mp4", tmp_path / "in" / name)
    summary = build(tmp_path / "in", recipe)
    assert summary.num_videos == {"train": 3, "test": 2}
    assert [record.video_id for record in read_corpus(tmp_path / "out", "train")] == ["other"]
    assert [record.video_id for record in read_corpus(tmp_path / "out", "test")] == ["b"]
    everything = list(read_corpus(tmp_path / "out", "train", include_dropped=True))
    reasons = {clip.drop_reason for record in everything if record.video_id != "other" for clip in record.clips}
    assert reasons == {"duplicate video: test/b"}
    assert "| duplicate video | " in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("limit_bytes", [300, 9_000])
def test_a_full_disk_stops_with_one_line_and_nothing_half_written(folder, tower_dir, tmp_path, limit_bytes):
    """A limit on file sizes makes every longer write fail, as a full disk would: a record at 300, a shard at 9000."""
    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir), "shards.embed_videos": True})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises(
            WriteError, match=r"cannot write .*: File too large; nothing half-written is kept"
        ) as refusal:
            build(folder, recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(refusal.value)
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "lock"]
    assert all(path.suffix == ".json" for path in left), "whole results of the first stage alone"
    build(folder, recipe)
    build_corpus(folder, tmp_path / "undisturbed", recipe, workers=1, progress=False)
    for path in (tmp_path / "undisturbed" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "data" / path.name).read_bytes()
