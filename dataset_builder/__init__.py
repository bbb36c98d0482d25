"""Raw videos become an interleaved corpus that streams; docs/dataset.md says how to build and to use one."""

from dataset_builder.build import BuildSummary, build_corpus
from dataset_builder.corpus.reading import list_splits, read_corpus
from dataset_builder.errors import DamagedInput
from dataset_builder.recipe import Recipe, load_recipe
from dataset_builder.schema import FEATURES, Clip, InterleavedVideo, from_row, to_row
from dataset_builder.video.decode import decode_clip, decode_clips


__all__ = [
    "FEATURES",
    "BuildSummary",
    "Clip",
    "DamagedInput",
    "InterleavedVideo",
    "Recipe",
    "build_corpus",
    "decode_clip",
    "decode_clips",
    "from_row",
    "list_splits",
    "load_recipe",
    "read_corpus",
    "to_row",
]
