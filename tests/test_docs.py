"""Code on pages runs and prints what they say; tables and maps on pages agree with the code."""

import importlib.util
import re
import sys
from dataclasses import fields
from graphlib import CycleError
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from dataset_builder.assemble import corpus_stages
from dataset_builder.pipeline import video_stages
from modeling_cosmo import CosmoConfig


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "model.md"
TEXT = PAGE.read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def code_with_its_lines(text: str) -> str:
    """All Python blocks of a page, each line with its number there."""
    lines, inside = [], False
    for line in text.splitlines():
        inside = line == "```python" or (inside and line != "```")
        lines.append(line if inside and line != "```python" else "")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "fewest"), [("model", 30), ("training", 25)])
def test_code_prints_what_the_page_says(name, fewest, tmp_path, monkeypatch):
    page = ROOT / "docs" / f"{name}.md"
    code = code_with_its_lines(page.read_text())
    monkeypatch.chdir(ROOT if name == "model" else tmp_path)  # docs/training.md leaves a run folder
    promised = {
        number: match[1]
        for number, line in enumerate(code.splitlines(), 1)
        if (match := re.match(r"print\(.*\)  # (.*)$", line))
    }
    printed = {}

    def record(*values: object) -> None:
        printed[sys._getframe(1).f_lineno] = " ".join(map(str, values))

    exec(compile(code, str(page), "exec"), {"print": record})
    assert printed == promised
    assert len(promised) > fewest


def test_the_shapes_named_in_the_drawing_are_those_of_the_axes():
    """docs/architecture.md explains every letter of a shape on the page."""
    axes = set(re.findall(r"\b[A-Z](?:_[vt])?\b", " ".join(re.findall(r"\(([^()]*)\)", TEXT.split("```")[1]))))
    assert {"B", "M", "F", "P", "V", "L", "E", "D_v", "D_t"} <= axes
    for axis in axes:
        assert re.search(rf"^\| [^|]*\b{axis}\b", ARCHITECTURE, re.MULTILINE), axis


def test_the_table_is_the_config_s_own():
    spec = importlib.util.spec_from_file_location("update_model", ROOT / "docs/update_model.py")
    assert spec is not None
    assert spec.loader is not None
    update_model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update_model)
    assert update_model.config_block() in TEXT, "run: python docs/update_model.py"
    named = re.findall(r"^\| `(\w+)` \| (.*?) \|", TEXT, re.MULTILINE)
    inherited = {field.name for field in fields(CosmoConfig.__mro__[1])}
    own = {field.name for field in fields(CosmoConfig)} - inherited
    assert own <= {name for name, _ in named}
    defaults = {field.name: field.default for field in fields(CosmoConfig)}
    for name, default in named:
        assert repr(defaults[name]).replace('"', "'") == default, name


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda page: page.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_page_stays_readable():
    lines = re.sub(r"<!-- config -->.*<!-- /config -->", "", TEXT, flags=re.DOTALL).splitlines()
    assert len(lines) <= 250


def section(title: str) -> str:
    """Text of docs/architecture.md from a heading to the next one."""
    return ARCHITECTURE.split(f"# {title}\n")[1].split("\n#")[0]


def test_the_map_names_every_stage_with_its_file_in_order():
    everything_on = MagicMock()  # as a recipe; no stage of a video is made, so no model is loaded
    modules = {name: make.func.__module__ for name, make in video_stages(everything_on).items()}
    for stage in corpus_stages(everything_on):
        module = type(stage).__module__
        modules[module.rpartition(".")[2]] = module
    rows = re.findall(r"^\| `(\w+)` \| \[.*?\]\(\.\./(.*?)\.py\)", section("What each stage adds"), re.MULTILINE)
    assert [(name, path.replace("/", ".")) for name, path in rows] == [*modules.items()]


def test_a_video_is_followed_through_few_files_each_imported_by_one_before():
    listed = re.findall(r"^(\d+)\. \[(.*?)\]\(\.\./(.*?)\):", section("The way of one video"), re.MULTILINE)
    assert [int(number) for number, _, _ in listed] == [*range(1, len(listed) + 1)]
    assert 10 < len(listed) <= 20, "a newcomer opens at most 20 files"
    assert all(shown == path for _, shown, path in listed)
    paths = [path for _, _, path in listed]
    assert paths[0] == "cosmo_cli.py"
    assert paths[-1] == "dataset_builder/corpus/shards.py"
    sources = [(ROOT / path).read_text() for path in paths]
    for index, path in enumerate(paths[1:], 1):
        module = path.removesuffix(".py").replace("/", ".")
        assert any(f"from {module} import" in source for source in sources[:index]), f"{path} comes out of nowhere"


def test_the_glossary_has_one_line_per_word_in_order():
    words = re.findall(r"^\| (\w+) \|", section("Glossary"), re.MULTILINE)[1:]
    assert words == sorted(words)
    expected = "clip document draft medium outcome pack place rank run tap work"
    assert {*expected.split()} <= {*words}


def test_every_file_that_the_glossary_names_exists():
    for name in re.findall(r"`([\w/]+\.py)`", section("Glossary")):
        assert (ROOT / name).is_file() or (ROOT / "dataset_builder" / name).is_file(), name


@pytest.fixture(scope="module")
def picture():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs/draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks for it there
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_imports_of_today(picture):
    assert picture.draw() == picture.PICTURE.read_text(), "run: python docs/draw_architecture.py"


def test_the_picture_has_a_box_for_every_folder(picture):
    boxes, _ = picture.graph()
    for package in ("dataset_builder", "training"):
        folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert folders <= {box.name for box in boxes.values() if box.package == package}
    modules = [*(ROOT / "dataset_builder" / "stages").glob("*.py")]
    assert boxes["dataset_builder.stages"].num_modules == len(modules)


def test_arrows_that_others_imply_are_left_out_and_no_more(picture):
    arrows = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"b", "d"}}
    assert picture.reduced(arrows) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"b"}}
    with pytest.raises(CycleError):
        picture.reduced({"a": {"b"}, "b": {"a"}})
