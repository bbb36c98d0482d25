"""After a kill -9 and a second run, the corpus equals that of an undisturbed build."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.corpus.output_folder import remove_leftovers
from dataset_builder.engines.outcome_file import load_outcome
from dataset_builder.inputs import find_videos
from tests.dataset_builder.make_videos import encode, story
from tests.pause_point import PausePoint


BUILD = """
import sys
from dataset_builder import build_corpus, load_recipe
if __name__ == "__main__":
    build_corpus(sys.argv[1], sys.argv[2], load_recipe("laptop", {"segment.tower": sys.argv[3]}), workers=2)
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(tower_dir, tmp_path):
    video = encode(tmp_path / "one.mp4", story(0))
    for index in range(30):  # each differs in its name and speech
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(video, tmp_path / "in" / f"v{index:02d}.mp4")
        text = f"WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nsentence number {index}\n"
        (tmp_path / "in" / f"v{index:02d}.vtt").write_text(text)
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    pause = PausePoint(tmp_path / "pause")
    pause.arm(r"/results/.*\.json$", after=3)  # the other worker continues until the kill
    environment = os.environ | {"PYTHONPATH": pause.python_path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out"), str(tower_dir)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        results = tmp_path / "out" / ".build" / "results"
        paused = pause.wait(process)
        workers = children_of(process.pid)
        assert paused in workers
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(is_running(worker) for worker in workers), 120)  # none is left waiting for its parent
    done = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    source = find_videos(tmp_path / "in")[0]
    assert 3 <= len(done) < len(find_videos(tmp_path / "in")), "killed in the middle"
    assert all(load_outcome(path, source) for path in done)
    assert not (tmp_path / "out" / "data").exists()

    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir)})
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=2, progress=False)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items()), "what was done is not done again"
    build_corpus(tmp_path / "in", tmp_path / "undisturbed", recipe, workers=1, progress=False)
    for path in (tmp_path / "undisturbed").rglob("*"):
        name = path.relative_to(tmp_path / "undisturbed")
        if path.is_file() and ".build" not in name.parts:
            assert path.read_bytes() == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.proof  # starts a build twenty times
@pytest.mark.timeout(1800)
def test_killed_at_twenty_random_moments_equals_undisturbed(tower_dir, tmp_path):
    """Kill anywhere: in a video, in a shard, between two renames. Each build continues with what exists."""
    (tmp_path / "in").mkdir()
    for index in range(60):
        encode(tmp_path / "in" / f"v{index:02d}.mp4", story(index))
    recipe = load_recipe("laptop", {"segment.tower": str(tower_dir)})
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "in"), str(tmp_path / "out"), str(tower_dir)]

    def is_killed(after_s: float | None) -> bool:
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                assert process.wait(after_s) == 0
                return False
            except subprocess.TimeoutExpired:
                workers = children_of(process.pid)
                process.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(is_running(worker) for worker in workers), 120)
        return True

    started = time.monotonic()
    is_killed(None)
    whole_s = time.monotonic() - started
    shutil.rmtree(tmp_path / "out")
    draw, num_killed, num_whole = random.Random(0), 0, 0
    while num_killed < 20:
        if is_killed(draw.uniform(0.3, 1.0) * whole_s):
            num_killed += 1
        else:  # the rest took less time than that: start over
            num_whole += 1
            shutil.rmtree(tmp_path / "out")
    assert num_whole < 20
    is_killed(None)
    build_corpus(tmp_path / "in", tmp_path / "undisturbed", recipe, workers=1, progress=False)
    ids = [record.video_id for record in read_corpus(tmp_path / "out", "train", include_dropped=True)]
    assert ids == [f"v{index:02d}" for index in range(60)]
    for path in (tmp_path / "undisturbed").rglob("*"):
        name = path.relative_to(tmp_path / "undisturbed")
        if path.is_file() and ".build" not in name.parts:
            assert path.read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_a_torn_result_is_made_again(narrated_dir, tower_dir, tmp_path):
    """A power cut may leave a file without its content; such a file is not trusted."""
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir)})
    build_corpus(narrated_dir, tmp_path, recipe, workers=1, progress=False)
    shards = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    torn = min((tmp_path / ".build" / "results").rglob("*.json"))
    torn.write_text(torn.read_text()[:50])
    (tmp_path / ".build" / "state.json").unlink()
    assert not build_corpus(narrated_dir, tmp_path, recipe, workers=1, progress=False).up_to_date
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == shards


def test_a_kill_between_old_shards_and_new_ones_loses_neither(narrated_dir, tower_dir, tmp_path):
    """As a kill leaves it: the old shards are aside, the new ones are not there yet."""
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir)})
    build_corpus(narrated_dir, tmp_path, recipe, workers=1, progress=False)
    shards = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    aside = tmp_path / ".data.0123456789abcdef.old"
    aside.mkdir()
    (tmp_path / "data").rename(aside / "data")
    (tmp_path / "SHA256SUMS.0123456789abcdef.tmp").write_text("half")
    remove_leftovers(tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == shards
    aside.mkdir()
    (tmp_path / "data").rename(aside / "data")
    (tmp_path / ".build" / "state.json").unlink()
    build_corpus(narrated_dir, tmp_path, recipe, workers=1, progress=False)
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == shards
    assert not [path.name for path in tmp_path.iterdir() if "0123456789abcdef" in path.name]


def test_what_changed_is_made_again_and_the_rest_is_kept(narrated_dir, tower_dir, tmp_path):
    shutil.copytree(narrated_dir, tmp_path / "in")
    recipe = load_recipe("toy", {"segment.tower": str(tower_dir)})
    options = {"workers": 1, "progress": False}
    build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options)
    before = {path.name for path in (tmp_path / "out/.build/results").rglob("*.json")}
    subtitles = tmp_path / "in/test/video 4.vtt"
    subtitles.write_text(subtitles.read_text().replace("sentence", "phrase"))
    assert not build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options).up_to_date
    assert len({path.name for path in (tmp_path / "out/.build/results").rglob("*.json")} - before) == 1
    (tmp_path / "in/train/video 0.mp4").unlink()
    assert build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options).num_videos["train"] == 2
    assert len(list((tmp_path / "out/.build/results").rglob("*.json"))) == 4
    (tmp_path / "out/data/train-00000-of-00001.parquet").unlink()
    assert not build_corpus(tmp_path / "in", tmp_path / "out", recipe, **options).up_to_date
    assert (tmp_path / "out/data/train-00000-of-00001.parquet").is_file()
