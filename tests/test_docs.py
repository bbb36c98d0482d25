"""Pages with code: it runs and prints what they say. docs/model.md: its table of config fields is the config's own."""

import importlib.util
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from modeling_cosmo import CosmoConfig


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "model.md"
TEXT = PAGE.read_text()


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
    table = (ROOT / "docs" / "architecture.md").read_text()
    assert {"B", "M", "F", "P", "V", "L", "E", "D_v", "D_t"} <= axes
    for axis in axes:
        assert re.search(rf"^\| [^|]*\b{axis}\b", table, re.MULTILINE), axis


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
