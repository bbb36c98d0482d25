"""Run docs/processor.md line by line."""

import base64
import doctest
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from modeling_cosmo import CosmoProcessor
from tests.modeling_cosmo.videos import write_video
from tests.tiny_model import make_tokenizer


PAGE = Path(__file__).parents[2] / "docs" / "processor.md"


@pytest.fixture
def folder(tmp_path):
    """The files that the page says are in its folder."""
    Image.new("RGB", (60, 40), (200, 120, 40)).save(tmp_path / "cat.png")
    write_video(tmp_path / "clip.mp4", 24, rate=4)
    CosmoProcessor.from_towers(CLIPImageProcessorPil(), make_tokenizer()).save_pretrained(tmp_path / "model")
    return tmp_path


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the page opens files as users do at a prompt
def test_every_line_of_the_page_does_what_it_says(folder, served, monkeypatch):
    monkeypatch.chdir(folder)
    text = PAGE.read_text().replace("https://example.org", served)
    names = {"cat_base64": base64.b64encode((folder / "cat.png").read_bytes()).decode()}
    page = doctest.DocTestParser().get_doctest(text, names, PAGE.name, str(PAGE), 0)
    assert len(page.examples) > 35
    report = []
    result = doctest.DocTestRunner().run(page, out=report.append)
    assert result.attempted == len(page.examples)
    assert not result.failed, "\n".join(report)
