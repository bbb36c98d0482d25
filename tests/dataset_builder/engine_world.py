"""Shared by the tests of the engines: narrated videos, a recipe and a comparison of corpora."""

import shutil
from pathlib import Path

from dataset_builder import build_corpus, load_recipe
from dataset_builder.engines.work import Work
from dataset_builder.recipe import Recipe
from tests.dataset_builder.make_videos import encode, story


def narrate(folder: Path, num_videos: int) -> Path:
    """The same pictures in every video; videos differ in name and speech."""
    first = encode(folder / "train" / "v00.mp4", story(0))
    for index in range(num_videos):
        path = folder / ("test" if index % 4 == 3 else "train") / f"v{index:02d}.mp4"
        path.parent.mkdir(exist_ok=True)
        if path != first:
            shutil.copy(first, path)
        said = f"sentence number {index}"
        path.with_suffix(".vtt").write_text(f"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n{said}\n")
    return folder


def narrow_recipe(tower: Path) -> Recipe:
    """`laptop` with the tiny tower, whose embeddings lie close together."""
    settings = {"segment.tower": str(tower), "segment.penalty": 0.01, "filter.min_caption_words": 1}
    return load_recipe("laptop", settings)


def planned(folder: Path, output: Path, recipe: Recipe) -> Work:
    """The work of a build as an engine gets it, with no outcome yet."""
    seen: list[Work] = []

    def look_on(work: Work) -> str:
        seen.append(work)
        return "queued"

    assert build_corpus(folder, output, recipe, progress=False, engine=look_on).submitted == "queued"
    return seen[0]


def files_of(corpus: Path) -> dict[str, bytes]:
    """Content of every file of a corpus, except the folder `.build`."""
    paths = [path for path in corpus.rglob("*") if path.is_file() and ".build" not in path.relative_to(corpus).parts]
    return {path.relative_to(corpus).as_posix(): path.read_bytes() for path in paths}


def children_of(pid: int) -> list[int]:
    """Processes below a process, at any depth."""
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return direct + [below for child in direct for below in children_of(child)]


def command_of(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""
