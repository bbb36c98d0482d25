"""The quickstart's card holds its results; a folder without a card gets one when it is published."""

import re
import shutil
import sys

import pytest

import cosmo_cli
from modeling_cosmo import CosmoConfig
from tests.training.test_report import RESULTS
from training.publishing.model_card import quickstart_card, write_missing_card


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    """A saved model without a card."""
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    return tmp_path / "model"


def test_the_quickstarts_card_shows_its_results(tiny_model_folder):
    card = quickstart_card(CosmoConfig.from_pretrained(tiny_model_folder), RESULTS, "quickstart")
    rows = re.findall(r"^\| .+ \| 0\.850 \| 0\.110 \| 0\.020 \|$", card, re.MULTILINE)
    assert len(rows) == 5
    assert "tells apart: 0.900; the same model without frame position embeddings: not measured." in card
    assert "Measured on 7 clips" in card
    assert "searches among 3 clips" in card
    assert "trained: 40.0 %" in card
    assert "license: apache-2.0" in card


def test_publishing_writes_a_missing_card_and_says_so(folder, monkeypatch, capsys):
    command = ["cosmo", "publish", "model", str(folder), "--repo-id", "someone/stars", "--dry-run"]
    for run in ("first", "second"):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cosmo_cli.main()
        printed = capsys.readouterr().out
        assert not stopped.value.code
        assert "  README.md\n" in printed
        assert ("was missing: written from the config" in printed) is (run == "first")
    card = (folder / "README.md").read_text()
    assert "# stars\n" in card
    assert "repository = 'someone/stars'" in card
    assert "license" not in card
    assert "Nothing was measured." in card


def test_a_card_that_is_there_stays(tiny_model_folder, tmp_path):
    before = (tiny_model_folder / "README.md").read_text()
    assert not write_missing_card(tiny_model_folder, "a/b")
    assert (tiny_model_folder / "README.md").read_text() == before


@pytest.mark.parametrize("config", [None, "{", "[]", '{"model_type": "opt"}'])
def test_nothing_is_written_into_a_folder_of_something_else(config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert not write_missing_card(tmp_path, "a/b")
    assert not (tmp_path / "README.md").exists()


def test_a_card_for_no_name_is_refused(folder):
    with pytest.raises(ValueError, match="a/b/c"):
        write_missing_card(folder, "a/b/c")
    assert not (folder / "README.md").exists()
