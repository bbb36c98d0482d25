"""In come records of videos; out goes a corpus folder, and from such a folder its records, counts and a page."""

from dataset_builder.corpus.reading import list_shards, list_splits, read_corpus


__all__ = ["list_shards", "list_splits", "read_corpus"]
