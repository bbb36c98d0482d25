"""A worker's memory stays flat: benchmarks/data_scaling.py measures it over thousands of videos, here is its cause."""

import os

from dataset_builder.recipe import load_recipe
from dataset_builder.workers import run_jobs


def test_nothing_is_kept_for_every_shape_of_a_batch(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that it is put back after the test
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    list(run_jobs([], load_recipe("laptop"), workers=1))
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "0"


def test_who_sets_it_is_heard(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    list(run_jobs([], load_recipe("laptop"), workers=1))
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
