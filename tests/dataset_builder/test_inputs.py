import errno
import resource
from pathlib import Path

import pytest

from dataset_builder.atomic import WriteError, replacing, write_whole
from dataset_builder.corpus.output_folder import store_videos
from dataset_builder.inputs import find_videos


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_split_folders_make_the_splits(tmp_path):
    touch(tmp_path, "train/b.mp4", "train/sub/a.MKV", "test/c.webm", "LICENCE", "notes/d.txt", ".cache/e.mp4")
    found = [(source.split, source.video_id, source.name) for source in find_videos(tmp_path)]
    assert found == [
        ("train", "b", "train/b.mp4"),
        ("train", "sub/a", "train/sub/a.MKV"),
        ("test", "c", "test/c.webm"),
    ]


def test_a_video_beside_the_splits_is_not_lost_without_a_word(tmp_path):
    """Some collections name the split val or dev; without a refusal, its videos would be left out silently."""
    touch(tmp_path, "train/a.mp4", "val/b.mp4", "val/sub/c.MKV")
    with pytest.raises(ValueError, match=r"splits train, and beside them val/b\.mp4 and 1 more videos: a split is"):
        find_videos(tmp_path)
    (tmp_path / "val").rename(tmp_path / "validation")
    touch(tmp_path, "d.mp4")
    with pytest.raises(ValueError, match=r"splits train, validation, and beside them d\.mp4: a split is one of"):
        find_videos(tmp_path)


def test_without_split_folders_everything_is_train(tmp_path):
    touch(tmp_path, "b.mp4", "sub/a.mp4", "sub/a.json", "b.txt")
    assert [(source.split, source.video_id) for source in find_videos(tmp_path)] == [
        ("train", "b"),
        ("train", "sub/a"),
    ]
    assert [source.truth and source.truth.name for source in find_videos(tmp_path)] == [None, "a.json"]


def test_the_plainest_subtitle_is_taken(tmp_path):
    touch(
        tmp_path,
        "a.mp4",
        "a.en.vtt",
        "a.srt",
        "b.mp4",
        "b.fr.srt",
        "b.en.srt",
        "c.mp4",
        "c.d.vtt.bak",
        "d.part.mp4",
        "d.part.vtt",
        "e.mp4",
        "e.ass",
        "e.srt",
        "f.mp4",
        "f.ttml",
    )
    chosen = {source.video_id: source.subtitles and source.subtitles.name for source in find_videos(tmp_path)}
    assert chosen == {"a": "a.srt", "b": "b.en.srt", "c": None, "d.part": "d.part.vtt", "e": "e.srt", "f": "f.ttml"}


def test_no_video_speaks_with_anothers_voice(tmp_path):
    """`cake.2.srt` belongs to cake.2.mp4 and is not a translation for cake.mp4."""
    touch(
        tmp_path,
        "cake.mp4",
        "cake.2.mp4",
        "cake.2.srt",
        "Mr.mp4",
        "Mr. Smith.mkv",
        "Mr. Smith.vtt",
        "Mr. Smith.en.vtt",
    )
    chosen = {source.video_id: source.subtitles and source.subtitles.name for source in find_videos(tmp_path)}
    assert chosen == {"cake": None, "cake.2": "cake.2.srt", "Mr": None, "Mr. Smith": "Mr. Smith.vtt"}


def test_files_of_one_stem_keep_their_suffix(tmp_path):
    touch(tmp_path, "a.mp4", "a.mkv", "b.mp4")
    assert [(source.video_id, source.stored_path) for source in find_videos(tmp_path)] == [
        ("a.mkv", "videos/train/a.mkv"),
        ("a.mp4", "videos/train/a.mp4"),
        ("b", "videos/train/b.mp4"),
    ]


def test_a_suffix_said_twice_is_no_other_video(tmp_path):
    touch(tmp_path, "a.mp4", "a.mp4.mp4", "b.mp4", "b.mkv", "b.mp4.mp4", "c.mp4.mp4")
    found = {source.name: (source.video_id, source.stored_path) for source in find_videos(tmp_path)}
    assert found == {
        "a.mp4": ("a", "videos/train/a.mp4"),
        "a.mp4.mp4": ("a.mp4.mp4", "videos/train/a.mp4.mp4"),
        "b.mkv": ("b.mkv", "videos/train/b.mkv"),
        "b.mp4": ("b.mp4", "videos/train/b.mp4"),
        "b.mp4.mp4": ("b.mp4.mp4", "videos/train/b.mp4.mp4"),
        "c.mp4.mp4": ("c.mp4", "videos/train/c.mp4.mp4"),
    }


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    write_whole(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:  # noqa: PT012 - the write before the fault matters
        temporary.write_text("half of the new")
        raise RuntimeError("killed")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_write_that_fails_names_the_file(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match=r"cannot write .*file/below: (Not a directory|File exists)"):
        write_whole(tmp_path / "file" / "below", "x")


def test_other_faults_inside_the_block_keep_their_own_message(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        (tmp_path / "missing").read_text()


def test_a_copy_that_fails_names_the_file_that_is_written(tmp_path, monkeypatch):
    """Python names the source first; a video is copied if the disk has no links."""
    touch(tmp_path / "in", "a.mp4")
    (tmp_path / "in/a.mp4").write_bytes(bytes(5000))
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "another disk")))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(WriteError, match=r"^cannot write .*out/videos/train/a\.mp4: File too large; nothing half"):
            store_videos(tmp_path / "out", find_videos(tmp_path / "in"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    store_videos(tmp_path / "out", find_videos(tmp_path / "in"))
    assert (tmp_path / "out/videos/train/a.mp4").stat().st_size == 5000


def test_files_written_at_once_never_share_a_temporary_name(tmp_path, monkeypatch):
    """Long names may differ only at their ends, and machines that share a disk may have processes with the same id."""
    monkeypatch.setattr("os.getpid", lambda: 7)
    packs = [tmp_path / f"{'0123456789abcdef' * 4}-{index:05d}.parquet" for index in (0, 1, 1)]
    with replacing(packs[0]) as first, replacing(packs[1]) as second, replacing(packs[2]) as again:
        assert len({first, second, again}) == 3
        for number, path in enumerate((first, second, again)):
            path.write_text(str(number))
    assert {path.name[-13:]: path.read_text() for path in tmp_path.iterdir()} == {
        "00000.parquet": "0",
        "00001.parquet": "1",  # the outermost of both ends last
    }


def test_names_as_long_as_the_disk_takes_them(tmp_path):
    """255 bytes: titles of downloaded videos are cut there. Neither NAME.json nor a temporary name may be longer."""
    name = f"{'料' * 83}ab.mp4"
    touch(tmp_path / "in", name)
    found = find_videos(tmp_path / "in")
    assert [source.name for source in found] == [name]
    store_videos(tmp_path / "out", found)
    assert [path.name for path in (tmp_path / "out/videos/train").iterdir()] == [name]
