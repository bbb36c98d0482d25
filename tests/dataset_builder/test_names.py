"""What users import, by the paths that the documents name: folders inside the package change none of it."""

import importlib

import pytest

import dataset_builder


NAMES = {
    "dataset_builder.build": ["BuildSummary", "build_corpus"],
    "dataset_builder.corpus": ["list_shards", "list_splits", "read_corpus"],
    "dataset_builder.engines": ["ENGINES", "ClusterSettings", "Engine", "Work", "make_engine", "run_local"],
    "dataset_builder.engines.cluster": ["load_cluster"],
    "dataset_builder.engines.rank": ["main"],
    "dataset_builder.errors": ["BuildStopped", "DamagedInput"],
    "dataset_builder.howto_interlink": ["HowtoInterlink", "howto_interlink_shards"],
    "dataset_builder.readers": ["decode_image", "mmc4_documents", "obelics_documents", "save_corpus", "webvid_pairs"],
    "dataset_builder.recipe": ["Recipe", "SegmentSettings", "ShardSettings", "load_recipe"],
    "dataset_builder.schema": ["FEATURES", "Clip", "InterleavedVideo", "from_row", "to_row"],
    "dataset_builder.streaming": ["stream_corpus"],
    "dataset_builder.toy.videos": ["write_toy_videos"],
}


@pytest.mark.parametrize("module", NAMES)
def test_a_documented_module_has_its_names(module):
    loaded = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("name", dataset_builder.__all__)
def test_the_package_has_what_it_lists(name):
    assert hasattr(dataset_builder, name)
