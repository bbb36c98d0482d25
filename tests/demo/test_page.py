"""The page in a real browser, served from a copy of demo/ that cannot import the project."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Every Python that starts with this folder on its path runs this file, which hides the project.
BLOCKER = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in {"modeling_cosmo", "dataset_builder", "training", "demo", "cosmo_cli"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
        return None

sys.meta_path.insert(0, NotInstalled())
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Copy of demo/, and an environment in which nothing from the project can be imported."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copytree(ROOT / "demo", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "blocker").mkdir()
    (folder / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {
        "PYTHONPATH": str(folder / "blocker"),
        "HF_HOME": str(folder / "hf_home"),
        "HF_HUB_OFFLINE": "1",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
    }
    return folder, environment


@pytest.fixture(scope="module")
def page_url(alone, tiny_model_folder, clip, tmp_path_factory) -> Iterator[str]:
    """Address of the demo, started from another folder by its own file."""
    folder, environment = alone
    clips = tmp_path_factory.mktemp("searched")
    shutil.copy(clip, clips / "first.mp4")
    (clips / "broken.mp4").write_text("no video")
    log = folder / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, folder / "app" / "app.py", "--model", tiny_model_folder, "--clips", clips],
            cwd=clips,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 180
        while (found := re.search(r"serves at (\S+)", log.read_text())) is None:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        assert "left out: broken.mp4" in log.read_text()
        yield found[1]
    finally:
        server.terminate()
        server.wait(timeout=120)


def test_the_project_is_out_of_reach_of_the_copy(alone):
    folder, environment = alone
    result = subprocess.run(
        [sys.executable, "-c", "import modeling_cosmo"], cwd=folder, env=environment, capture_output=True, check=False
    )
    assert b"modeling_cosmo is not installed here" in result.stderr


def test_a_model_that_is_not_there_gets_one_line(alone):
    folder, environment = alone
    command = [sys.executable, folder / "app" / "app.py", "--model", "nowhere"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if line] == [
        "error: no model at nowhere: expected a saved folder, or a repository as owner/name"
    ]


def test_a_taken_port_is_said_before_the_model_is_loaded():
    from demo.app import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be used"):
            serve("someone/never-loaded", port=port)


@pytest.fixture
def browser_page(page_url) -> Iterator[tuple]:
    """Page in headless Chromium, with its errors and its requests to other hosts."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                complaints.append(f"outside request: {request.url}")
                if not request.url.startswith((page_url, "data:", "blob:"))
                else None
            ),
        )
        page.goto(page_url)
        yield page, complaints
        browser.close()


@pytest.mark.browser
def test_a_visitor_captions_gives_examples_and_searches(browser_page, clip):
    page, complaints = browser_page
    has_caption = "id => document.querySelector(`#${id} textarea`).value.length > 3"

    page.wait_for_selector("#caption-file")
    page.set_input_files("#caption-file input[type=file]", clip)
    page.wait_for_selector("#caption-strip img")
    page.wait_for_function(has_caption, arg="caption-answer")
    page.click("#take-sample")
    page.wait_for_selector("#caption-strip :text('first.mp4')")
    page.wait_for_function(has_caption, arg="caption-answer")

    page.get_by_role("tab", name="Few-shot").click()
    page.set_input_files("#example-file input[type=file]", clip)
    page.fill("#example-text textarea", "a <b>grey</b> screen brightens")
    page.wait_for_selector("#example-file .file-preview")
    page.click("#add-example")
    page.wait_for_selector("#examples figure")
    assert page.inner_text("#examples figcaption span") == "a <b>grey</b> screen brightens", "text, never markup"
    page.set_input_files("#few-shot-file input[type=file]", clip)
    page.wait_for_function(has_caption, arg="few-shot-answer")
    page.click("#clear-examples")
    page.wait_for_selector("#examples figure", state="detached")

    page.get_by_role("tab", name="Search").click()
    page.fill("#query input, #query textarea", "a red star rolls left")
    page.click("#search-run")
    page.wait_for_selector("#results figure")
    assert page.locator("#results figure").count() == 1
    assert "first.mp4" in page.inner_text("#results figcaption")

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "fits a phone without scrolling sideways"
    assert not complaints


@pytest.mark.browser
def test_what_is_no_clip_is_said_on_the_page(browser_page, tmp_path):
    page, complaints = browser_page
    letter = tmp_path / "letter.mp4"
    letter.write_text("dear model")
    page.wait_for_selector("#caption-file")
    page.set_input_files("#caption-file input[type=file]", letter)
    page.get_by_text("letter.mp4 cannot be read as a video or picture").first.wait_for()
    assert not complaints
