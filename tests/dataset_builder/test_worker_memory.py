"""A worker's memory stays constant: benchmarks/data_scaling.py measures it over thousands of videos; this is why."""

import os

import pytest

from dataset_builder.engines.workers import forget_batch_shapes, run_jobs
from dataset_builder.recipe import load_recipe


CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.fixture(autouse=True)
def _put_back(monkeypatch):
    monkeypatch.setenv(CAPACITY, "")
    monkeypatch.delenv(CAPACITY)


def test_a_worker_keeps_few_shapes_of_a_batch():
    forget_batch_shapes()
    assert os.environ[CAPACITY] == "16"


def test_who_sets_it_is_heard(monkeypatch):
    monkeypatch.setenv(CAPACITY, "7")
    forget_batch_shapes()
    assert os.environ[CAPACITY] == "7"


def test_a_build_in_the_callers_process_leaves_environment_alone():
    list(run_jobs([], load_recipe("laptop"), workers=1))
    assert CAPACITY not in os.environ
