"""The card of a corpus: the build's facts about it, in the form of the published card."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from dataset_builder.card import keep_common, make_card
from dataset_builder.corpus.statistics import SplitStatistics, token_counter, total
from dataset_builder.recipe import load_recipe
from tests.dataset_builder.test_corpus import full_record


def statistics_of(names: str, **changes) -> SplitStatistics:
    """Records of 2.9 s with two clips, of which one is kept: 1.6 s, "a red star", something said."""
    statistics = SplitStatistics()
    for name in names:
        statistics.add(replace(full_record(name), **changes))
    return statistics


def card_of(splits: dict[str, SplitStatistics], **overrides: object) -> str:
    recipe = load_recipe("toy", {"segment.tower": "/home/me/towers/mine", **overrides})
    tools = {**full_record("a").provenance, "caption": {"tool": "speech"}}
    return make_card(recipe, splits, tools, num_faults=2)


def test_the_card_counts_and_shows_no_path_of_the_machine():
    card = card_of({"train": statistics_of("abc")})
    assert "| split | documents | clips per document | words per caption | words per document |" in card
    assert "| train | 3 | 1.0 | 3.0 | 3.0 |" in card
    assert "| train | 3 | 6 | 3 | 1.6 | 100.0 | 0.002 | 0.001 |" in card  # 3 x 2.9 s; 3 x 1.6 s kept
    assert "| empty caption | 3 |" in card
    assert "| here | `cc-by-4.0` | 3 |" in card
    assert "tower: mine" in card
    assert "/home" not in card
    assert "2 damaged files" in card
    assert "it need not describe what is seen" in card
    assert "`probe`, `segment`, `speech`" in card


def test_several_splits_get_a_line_for_all_and_each_source_its_licence():
    other = statistics_of("d", source="there|x", license="unknown", clips=())
    card = card_of({"train": statistics_of("abc"), "test": other})
    assert "| test | 0 | - | - | - |" in card
    assert "| all | 3 | 1.0 | 3.0 | 3.0 |" in card
    assert "| there\\|x | `unknown` | 1 |" in card
    assert "1 of 4 videos have no clip that was kept" in card
    assert "clear it before you use" in card


def test_tokens_are_counted_where_there_is_a_tokenizer():
    statistics = SplitStatistics()
    count = token_counter("toy")
    for name in "ab":
        statistics.add(full_record(name), count)
    assert statistics.num_tokens == 2 * count("a red star")
    assert count("a red star") == 3  # each a word of the toy world
    card = card_of({"train": statistics})
    assert "tokens per document |" in card
    assert "| train | 2 | 1.0 | 3.0 | 3.0 |" in card
    with pytest.raises(ValueError, match="cannot load the tokenizer '/nowhere'"):
        token_counter("/nowhere")


def test_totals_add_up():
    whole = total([statistics_of("abc"), statistics_of("de")])
    assert (whole.num_videos, whole.num_kept, whole.num_tokens) == (5, 5, None)
    assert whole.reasons == {"empty caption": 5}


def test_the_header_names_the_shards_and_for_tars_the_features():
    for changes, suffix in (({}, "parquet"), ({"shards.format": "webdataset"}, "tar")):
        card = card_of({"train": statistics_of("a"), "test": statistics_of("b")}, **changes)
        front = yaml.safe_load(card.split("---\n")[1])
        files = front["configs"][0]["data_files"]
        assert [(entry["split"], entry["path"]) for entry in files] == [
            ("train", f"data/train-*.{suffix}"), ("test", f"data/test-*.{suffix}"),
        ]  # fmt: skip
        assert ("dataset_info" in front) == (suffix == "tar")


def test_only_what_holds_for_every_record_is_told_of_the_tools():
    tools = dict[str, Any]()
    for name, container in (("a", "mp4"), ("b", "matroska")):
        keep_common(tools, {"probe": {"tool": "av", "container": container}, "speech": {"file": f"{name}.vtt"}})
    assert tools == {"probe": {"tool": "av"}, "speech": {}}
    keep_common(tools, {"speech": {}})
    assert tools == {"probe": {}, "speech": {}}
