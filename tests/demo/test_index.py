"""The index of a folder: what is found, what is embedded again, what is on disk, and the command that uses it."""

import copy
import itertools
import json
import math
import multiprocessing
import os
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cosmo_cli
from demo.engine import CaptionEngine
from demo.index import FolderIndex, IndexedFile, list_media
from demo.media import read_medium
from demo.saved_index import INDEX_FILE, INSIDE_MEDIA, IndexLocation, find_location, load_index, save_index
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor


COLOURS = ["red", "lime", "blue", "white", "black", "yellow", "gray"]


@pytest.fixture(scope="module")
def captioner(tiny_model_folder) -> CaptionEngine:
    return CaptionEngine.load(str(tiny_model_folder))


@pytest.fixture(scope="module")
def other_captioner(tiny_model_folder) -> CaptionEngine:
    """The same architecture with other weights."""
    model = CosmoForConditionalGeneration.from_pretrained(tiny_model_folder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return CaptionEngine(model, CosmoProcessor.from_pretrained(tiny_model_folder))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Seven pictures in two folders."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        parent = folder / "more" if number % 2 else folder
        Image.new("RGB", (24, 24), colour).save(parent / f"{colour}.png")
    return folder


@pytest.fixture
def embedded(captioner, monkeypatch) -> list[str]:
    """Names of all media that get embedded, in order."""
    names: list[str] = []
    embed = captioner.embed_media

    def record(media):
        names.extend(medium.name for medium in media if medium.name != "probe")
        return embed(media)

    monkeypatch.setattr(captioner, "embed_media", record)
    return names


def path_of(colour: str) -> str:
    return f"more/{colour}.png" if COLOURS.index(colour) % 2 else f"{colour}.png"


def test_nearest_come_first_and_batches_change_nothing(captioner, photos, monkeypatch):
    monkeypatch.setattr("demo.index.EMBED_BATCH", 3)
    index = FolderIndex(captioner, photos)
    assert index.update() == []
    text = captioner.embed_text("a red star").tolist()
    cosines = {}
    for colour in COLOURS:
        inputs = captioner.processor(images=[[Image.new("RGB", (24, 24), colour)]])
        with torch.no_grad():
            row = captioner.model.get_image_features(**inputs).pooler_output[0].tolist()
        cosines[path_of(colour)] = math.fsum(a * b for a, b in zip(row, text, strict=True))
    expected = sorted(cosines, key=cosines.__getitem__, reverse=True)
    found = index.search("a red star", 5)
    assert [one.path for one in found] == expected[:5]
    # float32 rounding differs between batch sizes
    assert [one.cosine for one in found] == pytest.approx([cosines[path] for path in expected[:5]], abs=1e-5)
    assert len(index.search("a red star", 99)) == 7


def test_ties_keep_the_order_of_paths(captioner, photos, monkeypatch):
    for name in ("z.png", "a.png", "more/m.png"):
        shutil.copy(photos / "red.png", photos / name)
    rows = torch.nn.functional.normalize(torch.arange(1.0, 14.0), dim=0)
    monkeypatch.setattr(captioner, "embed_media", lambda media: rows.expand(len(media), -1))
    index = FolderIndex(captioner, photos)
    index.update()
    assert [one.path for one in index.search("a red star", 10)] == list_media(photos) == sorted(list_media(photos))


def test_videos_are_found_by_their_parts(captioner, photos, clip, monkeypatch):
    """Three parts of a video and a picture, in batches of two."""
    monkeypatch.setattr("demo.index.EMBED_BATCH", 2)
    monkeypatch.setattr("demo.index.PART_S", 1.3)
    shutil.copy(clip, photos / "grey.mp4")
    shutil.copy(clip, photos / "told.mp4")
    (photos / "told.json").write_text(json.dumps({"clips": [{"start_s": 1.0, "end_s": 3.0}]}))
    index = FolderIndex(captioner, photos)
    index.update()
    spans = {span for path, span in index.clips if path == "grey.mp4"}
    assert spans == {(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)}
    assert [span for path, span in index.clips if path == "told.mp4"] == [None], "one part is the whole"
    assert index.embeddings.shape == (7 + 3 + 1, 13)
    np.testing.assert_allclose(np.linalg.norm(index.embeddings, axis=1), 1, atol=1e-5)
    assert {(one.path, one.span) for one in index.search("a star", 99)} == set(index.clips)


def test_only_new_and_changed_files_are_embedded_again(captioner, photos, embedded, tmp_path, clip):
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="m")
    shutil.copy(clip, photos / "told.mp4")
    index = load_index(captioner, place)
    index.update(save=lambda: save_index(index, place))
    assert len(embedded) == 8
    before = index.search("a blue ring", 99)

    embedded.clear()
    again = load_index(captioner, place)
    written = (place.directory / INDEX_FILE).stat().st_mtime_ns
    again.update(save=lambda: save_index(again, place))
    assert embedded == []
    assert again.search("a blue ring", 99) == before
    assert (place.directory / INDEX_FILE).stat().st_mtime_ns == written, "nothing to write"

    (photos / "more" / "lime.png").unlink()
    Image.new("RGB", (24, 24), "orange").save(photos / "red.png")
    Image.new("RGB", (24, 24), "pink").save(photos / "new.png")
    (photos / "told.json").write_text(json.dumps({"clips": [{"start_s": 0, "end_s": 1}, {"start_s": 1, "end_s": 3}]}))
    changed = load_index(captioner, place)
    changed.update(save=lambda: save_index(changed, place))
    assert sorted(embedded) == ["new.png", "red.png", "told.mp4 0:00.0-0:01.0", "told.mp4 0:01.0-0:03.0"]
    saved = load_index(captioner, place)
    fresh = FolderIndex(captioner, photos)
    fresh.update()
    assert saved.clips == changed.clips == fresh.clips
    np.testing.assert_allclose(saved.embeddings, fresh.embeddings, atol=1e-5)
    assert len(list(place.directory.glob("[!.]*"))) == 2, "no file of the earlier index is left"


def test_what_cannot_be_read_is_named_and_left_out(captioner, photos, monkeypatch):
    (photos / "more" / "letter.mp4").write_text("dear model")
    (photos / "torn.png").write_bytes((photos / "red.png").read_bytes()[:50])
    (photos / "nowhere.jpg").symlink_to(photos / "gone.jpg")
    (photos / ".hidden.png").write_bytes(b"no picture, and nobody asked")
    (photos / "notes.txt").write_text("no medium")
    index = FolderIndex(captioner, photos)
    complaints = sorted(index.update())
    assert [line.split(" ")[0].rstrip(":") for line in complaints] == ["more/letter.mp4", "nowhere.jpg", "torn.png"]
    assert all("\n" not in line for line in complaints)
    assert {path for path, _ in index.clips} == {path_of(colour) for colour in COLOURS}


def test_a_video_that_breaks_off_is_left_out_whole(captioner, photos, clip, monkeypatch):
    from demo import index as module

    shutil.copy(clip, photos / "breaks.mp4")
    read_parts = module.read_parts

    def break_off(*arguments):
        yield from read_parts(*arguments)
        raise ValueError("breaks.mp4 cannot be read as a video or picture (Invalid data)")

    monkeypatch.setattr(module, "read_parts", break_off)
    monkeypatch.setattr(module, "EMBED_BATCH", 1)
    index = FolderIndex(captioner, photos)
    assert index.update() == ["breaks.mp4 cannot be read as a video or picture (Invalid data)"]
    assert len(index.clips) == 7


def test_an_interrupted_update_keeps_what_it_has(captioner, photos, embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("demo.index.EMBED_BATCH", 2)
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="m")
    index = load_index(captioner, place)

    def interrupt(path, medium):
        if path == list_media(photos)[4]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(save=lambda: save_index(index, place), watch=interrupt)
    kept = load_index(captioner, place)
    assert len(kept.clips) == 3, "the fourth file ended a batch, and might have gone on in the next"
    embedded.clear()
    kept.update()
    assert len(embedded) == 4
    assert len(kept.clips) == 7


def test_long_updates_are_saved_now_and_then(captioner, photos, monkeypatch):
    monkeypatch.setattr("demo.index.EMBED_BATCH", 2)
    monkeypatch.setattr("demo.index.SAVE_EVERY_S", -1.0)
    index, sizes = FolderIndex(captioner, photos), []
    index.update(save=lambda: sizes.append(len(index.clips)))
    assert sizes == [1, 2, 3, 4, 5, 6, 7, 7]


def test_a_crash_while_saving_leaves_the_old_index(captioner, photos, tmp_path, monkeypatch):
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="m")
    index = FolderIndex(captioner, photos)
    index.update()
    save_index(index, place)
    replace = Path.replace

    def crash(self, target):
        if Path(target).name == INDEX_FILE:
            raise OSError("the power went")
        return replace(self, target)

    (photos / "red.png").unlink()
    index.update()
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="the power went"):
        save_index(index, place)
    assert len(load_index(captioner, place).clips) == 7


def test_a_full_disk_leaves_the_old_index(captioner, photos, tmp_path):
    """A limit on file sizes stops writing in the middle, as a full disk does."""
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="m")
    index = FolderIndex(captioner, photos)
    index.update()
    save_index(index, place)
    Image.new("RGB", (24, 24), "pink").save(photos / "new.png")
    index.update()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limit[1]))
    try:
        with pytest.raises(OSError, match=r"^cannot save the index in .*index: ") as refused:
            save_index(index, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(refused.value)
    assert len(load_index(captioner, place).clips) == 7
    save_index(index, place)
    assert len(load_index(captioner, place).clips) == 8


class Constant:
    """CaptionEngine without a model, usable in a forked process."""

    num_frames = 3

    def embed_media(self, media):
        return torch.eye(1, 13).expand(len(media), -1)

    def embed_text(self, text):
        return torch.eye(1, 13)[0]


def rows_by_name(captioner, folder, number: int) -> FolderIndex:
    """Index whose rows tell their file and version."""
    rows = {f"{file}.png": np.full((1, 13), 100 * number + file, np.float32) for file in range(3 + number % 2)}
    files = {name: IndexedFile(stamp=(number, 0), spans=(None,), embeddings=of) for name, of in rows.items()}
    return FolderIndex(captioner, folder, files)


def test_processes_may_save_and_load_one_index_at_once(photos, tmp_path):
    """Two processes keep replacing the index while this one reads it, and it always gets one of theirs."""
    place, captioner = IndexLocation(directory=tmp_path / "index", folder=photos, model="m"), Constant()
    save_index(rows_by_name(captioner, photos, 0), place)
    mine = place.directory / "embeddings-mine.npy"
    mine.write_bytes(b"somebody's own")

    fork = multiprocessing.get_context("fork")
    enough = fork.Event()

    def save_often(first: int) -> None:
        for number in itertools.count(first, 2):
            save_index(rows_by_name(captioner, photos, number), place)
            if enough.is_set():
                return

    writers = [fork.Process(target=save_often, args=(first,)) for first in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while len(seen) < 20 and all(writer.is_alive() for writer in writers):
        index = load_index(captioner, place)
        [number] = {file.stamp[0] for file in index.files.values()}
        assert index.embeddings[:, 0].tolist() == [100 * number + file for file in range(3 + number % 2)]
        seen.add(number)
    enough.set()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(seen) == 20
    assert len(load_index(captioner, place).clips) in (3, 4)
    assert len(list(place.directory.glob("[!.]*"))) == 3
    assert mine.read_bytes() == b"somebody's own"


def test_a_folder_that_has_become_empty_is_not_forgotten(captioner, photos):
    """Such as an unmounted drive; once one picture is there, the others are forgotten."""
    index = FolderIndex(captioner, photos)
    index.update()
    away = photos.rename(photos.parent / "away")
    photos.mkdir()
    saves = []
    [line] = index.update(save=lambda: saves.append(1))
    assert line.endswith("photos holds no pictures or videos: searching the files indexed earlier")
    assert len(index.clips) == 7
    assert not saves
    (away / "red.png").rename(photos / "red.png")
    assert index.update(save=lambda: saves.append(1)) == []
    assert [path for path, _ in index.clips] == ["red.png"]
    assert saves


def test_an_index_by_another_model_is_refused(captioner, other_captioner, photos, tmp_path):
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="first")
    index = FolderIndex(captioner, photos)
    index.update()
    save_index(index, place)
    other = IndexLocation(directory=place.directory, folder=photos, model="second")
    with pytest.raises(ValueError, match=r"made by another model than second \(by first\)") as refused:
        load_index(other_captioner, other)
    assert "\n" not in str(refused.value)
    low = CaptionEngine(copy.deepcopy(captioner.model).bfloat16(), captioner.processor)
    assert len(load_index(low, other).clips) == 7, "the same model under another name, rounded"


def cut(name: str, num_bytes: int):
    def damage(directory: Path) -> None:
        [file] = directory.glob(name)
        file.write_bytes(file.read_bytes()[:-num_bytes])

    return damage


def drop_rows(directory: Path) -> None:
    [file] = directory.glob("*.npy")
    np.save(file, np.load(file)[:-1])


def other_rows(directory: Path) -> None:
    [file] = directory.glob("*.npy")
    np.save(file, np.load(file)[::-1])


def pickled(directory: Path) -> None:
    [file] = directory.glob("*.npy")
    np.save(file, np.array([{"a": 1}], dtype=object))


def other_format(directory: Path) -> None:
    text = (directory / INDEX_FILE).read_text()
    (directory / INDEX_FILE).write_text(text.replace('"format": 1', '"format": 2', 1))


@pytest.mark.parametrize(
    "damage",
    [
        cut("*.npy", 5),
        cut("index.jsonl", 30),
        drop_rows,
        other_rows,
        pickled,
        other_format,
        lambda directory: next(directory.glob("*.npy")).unlink(),
        lambda directory: (directory / INDEX_FILE).write_text("[]\n"),
        lambda directory: (directory / INDEX_FILE).write_text('{"somebody": "else"}\n'),
    ],
    ids=["short array", "short list", "fewer rows", "other rows", "pickled", "format", "no array", "list", "foreign"],
)
def test_a_damaged_index_is_named(captioner, photos, tmp_path, damage):
    place = IndexLocation(directory=tmp_path / "index", folder=photos, model="m")
    index = FolderIndex(captioner, photos)
    index.update()
    save_index(index, place)
    damage(place.directory)
    with pytest.raises(ValueError, match=r"index is a damaged index \(.*delete it") as refused:
        load_index(captioner, place)
    assert "\n" not in str(refused.value)


def test_a_place_is_completed_by_what_the_index_remembers(captioner, photos, tmp_path):
    directory = tmp_path / "index"
    with pytest.raises(FileNotFoundError, match=r"no index at .*index: name the folder"):
        find_location(directory)
    with pytest.raises(ValueError, match="name the model"):
        find_location(directory, photos)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_location(directory, tmp_path / "nowhere", "m")
    place = find_location(directory, photos, "owner/name")
    index = FolderIndex(captioner, photos)
    index.update()
    save_index(index, place)
    assert find_location(directory) == place
    assert find_location(directory, model="other/name").model == "other/name"

    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ValueError, match=r"is the index of .*photos, not of .*elsewhere"):
        find_location(directory, tmp_path / "elsewhere")
    moved = photos.rename(tmp_path / "moved")
    assert find_location(directory, moved).folder == moved
    loaded = load_index(captioner, find_location(directory, moved))
    assert len(loaded.clips) == 7
    assert loaded.update() == []


def test_the_media_folder_itself_may_be_given_as_the_index(photos, tmp_path):
    place = find_location(photos, model="m")
    assert (place.folder, place.directory) == (photos, photos / INSIDE_MEDIA)
    assert find_location(photos, photos, "m") == place
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither an index nor pictures or videos"):
        find_location(tmp_path / "empty", model="m")


def retrieve(monkeypatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["cosmo", "retrieve", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cosmo_cli.main()
    return int(stopped.value.code or 0)


def test_the_command_finds_pictures_and_clips(tiny_model_folder, captioner, photos, clip, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr("demo.index.PART_S", 1.6)
    shutil.copy(clip, photos / "long.mp4")
    query = ("--query", "a red star rolls left", "--top", 99)
    assert retrieve(monkeypatch, "photos", "--model", tiny_model_folder, "--index", "index", *query) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    index = FolderIndex(captioner, photos)
    index.update()
    found = index.search("a red star rolls left", 99)
    assert [line[1] for line in lines] == [one.path for one in found]
    assert [line[0] for line in lines] == [f"{one.cosine:.4f}" for one in found]
    assert {tuple(line[2:]) for line in lines} == {(), ("0.00-1.50",), ("1.50-3.00",)}

    monkeypatch.setattr(CaptionEngine, "embed_media", _only_the_probe(CaptionEngine.embed_media))
    assert retrieve(monkeypatch, "--index", "index", *query) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == lines

    photos.rename(photos.parent / "away")
    assert retrieve(monkeypatch, "--index", "index", *query) == 1
    printed = capsys.readouterr()
    assert [line.split("\t") for line in printed.out.splitlines()] == lines
    assert "photos does not exist: searching the files indexed earlier" in printed.err


def _only_the_probe(embed):
    def check(self, media):
        assert [medium.name for medium in media] == ["probe"], "nothing is embedded twice"
        return embed(self, media)

    return check


def test_the_command_tells_of_unreadable_files_and_writes_odd_names_on_one_line(
    tiny_model_folder, photos, monkeypatch, capsys
):
    for colour in COLOURS:
        (photos / path_of(colour)).unlink()
    odd = ["two\nlines.png", "a\ttab.png", "back\\slash.png", os.fsdecode(b"no\xfftext.png"), "stérn ☆.png"]
    for name in odd:
        Image.new("RGB", (24, 24), "red").save(photos / name)
    (photos / "torn.png").write_bytes(b"no picture")
    assert retrieve(monkeypatch, "--model", tiny_model_folder, "--index", photos, "--query", "a star") == 1
    printed = capsys.readouterr()
    names = [line.split("\t")[1] for line in printed.out.splitlines()]
    assert sorted(names) == sorted(
        ["two\\nlines.png", "a\\ttab.png", "back\\\\slash.png", "no\\udcfftext.png", "stérn ☆.png"]
    )
    [line] = [line for line in printed.err.splitlines() if line.startswith("cosmo: error")]
    assert line.startswith("cosmo: error: torn.png ")


def test_ctrl_c_says_that_the_same_command_goes_on(tiny_model_folder, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("demo.index.EMBED_BATCH", 2)

    def interrupt(path, num_frames, limits):
        if path.name == "yellow.png":
            raise KeyboardInterrupt
        return read_medium(path, num_frames, limits)

    command = (photos, "--model", tiny_model_folder, "--index", tmp_path / "index", "--query", "a star")
    with monkeypatch.context() as patched:
        patched.setattr("demo.index.read_medium", interrupt)
        assert retrieve(monkeypatch, *command) == 130
    printed = capsys.readouterr()
    assert "cosmo: error: interrupted; the same command resumes where it stopped" in printed.err
    assert len((tmp_path / "index" / INDEX_FILE).read_text().splitlines()) > 1, "what was embedded is kept"
    assert retrieve(monkeypatch, *command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--index", "index", "--query", "a"], "no index at index"),
        (["photos", "--index", "index", "--query", "a"], "name the model"),
        (["nowhere", "--index", "index", "--model", "m", "--query", "a"], "nowhere is not a folder"),
        (["photos", "--index", "index", "--model", "nosuch", "--query", "a"], "no model at nosuch"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, complaint, photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    assert retrieve(monkeypatch, *arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (photos.parent / "index").exists()
