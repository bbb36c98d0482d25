"""The loop as a user runs it: run folders, stops, resumption, several processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import set_seed

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from tests.pause_point import PausePoint
from training.config import config_from_dict
from training.interruption import Interrupted
from training.loop import train
from training.optimization import build_optimizer, learning_rate_at, set_learning_rate
from training.setup import build_model
from training.train import run


ROOT = Path(__file__).parents[2]


def metrics_of(run):
    """Return the lines of metrics.jsonl without timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(set(line.pop("time")) >= {"seconds", "clips_per_s", "peak_memory_gb"} for line in lines)
    return lines


def weights_of(run):
    return load_file(run / "model" / "model.safetensors")


def assert_same_run(run, reference):
    """Check bit for bit that the same numbers were logged and the same weights were saved."""
    assert metrics_of(run) == metrics_of(reference)
    weights, expected = weights_of(run), weights_of(reference)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def command(settings, output, *launcher):
    """Write a config file next to the run folder, and return the command that trains with it."""
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    program = launcher or (sys.executable, "-m")
    return [*program, "training.train", "--config", str(path), "--output", str(output)]


def start(words, python_path=str(ROOT)):
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": python_path}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def settings(settings, cache):
    return settings | {"cache_dir": str(cache), "eval_steps": 4, "eval_samples": 6, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def reference(settings, tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    train(config_from_dict(settings), folder)
    return folder


def test_a_run_leaves_what_it_promises(settings, reference, capfd):
    names = {path.name for path in reference.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model"}
    assert config_from_dict(yaml.safe_load((reference / "config.yaml").read_text())) == config_from_dict(settings)
    environment = json.loads((reference / "environment.json").read_text())
    assert environment["seed"] == 42
    assert environment["versions"]["torch"]
    lines = metrics_of(reference)
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        batches = line["sources"].values()
        assert all(source["contrastive_loss"] for name, source in line["sources"].items() if name != "interleaved")
        assert line["sources"].get("interleaved", {}).get("contrastive_loss") is None
        assert {"loss", "lm_loss", "contrastive_loss", "learning_rate", "grad_norm"} <= line.keys()
        assert min(source["lm_loss"] for source in batches) <= line["lm_loss"]
        assert ("eval_lm_loss" in line) == (line["step"] in (4, 5))
    assert [path.name for path in sorted((reference / "checkpoints").iterdir())] == ["step-4", "step-5"]
    assert not list(reference.rglob("*.bin")) + list(reference.rglob("*.pt")) + list(reference.rglob("*.pkl"))
    model = CosmoForConditionalGeneration.from_pretrained(reference / "model")
    CosmoProcessor.from_pretrained(reference / "model").check_config(model.config)
    assert (reference / "model" / "modeling_cosmo.py").is_file(), "the folder carries its code"
    train(config_from_dict(settings), reference)
    assert "is finished: 5 steps" in capfd.readouterr().out


def test_runs_of_one_process_may_differ_in_precision(settings, tmp_path):
    """Accelerate keeps its settings for the whole process, and refuses others, unless a run clears them."""
    few = settings | {"max_steps": 1, "warmup_steps": 0, "eval_steps": 0, "save_steps": 1}
    for precision in (False, True, False):
        train(config_from_dict(few | {"bf16": precision}), tmp_path / f"{precision}")


def test_settings_of_a_caller_stay(settings, tmp_path):
    try:
        mine = Accelerator(cpu=True)
        few = settings | {"max_steps": 1, "warmup_steps": 0, "eval_steps": 0, "save_steps": 1}
        train(config_from_dict(few), tmp_path)
        assert mine.num_processes == 1
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_only_new_parts_train_and_only_they_are_checkpointed(settings, reference):
    set_seed(42)
    model, _ = build_model(config_from_dict(settings))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    saved = load_file(reference / "checkpoints" / "step-5" / "model.safetensors")
    assert saved.keys() == trained
    before, after = model.state_dict(), weights_of(reference)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in trained)
    moved = {name for name in trained if not torch.equal(after[name], before[name])}
    assert moved == trained, f"did not move: {sorted(trained - moved)}"
    assert not any("vision_tower" in name for name in trained)


def test_sigterm_saves_and_the_same_command_goes_on(settings, reference, tmp_path, monkeypatch):
    output = tmp_path / "stopped"
    steps = []

    def terminate_at_third(step, config):
        steps.append(step)
        if step == 2 and len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return learning_rate_at(step, config)

    monkeypatch.setattr("training.loop.learning_rate_at", terminate_at_third)
    with pytest.raises(Interrupted, match="stopped after step 3; the same command"):
        train(config_from_dict(settings), output)
    assert (output / "checkpoints" / "step-3").is_dir()
    assert not (output / "model").exists()
    train(config_from_dict(settings), output)
    assert steps == [0, 1, 2, 3, 4]
    assert_same_run(output, reference)


def test_killed_run_goes_on_as_if_never_stopped(settings, reference, tmp_path):
    output, pause = tmp_path / "killed", PausePoint(tmp_path / "pause")
    pause.arm(r"checkpoints/step-4$")
    process = start(command(settings, output), pause.python_path)
    assert pause.wait(process) == process.pid
    process.send_signal(signal.SIGKILL)
    process.communicate()
    aside, half, whole = sorted((output / "checkpoints").iterdir(), key=lambda path: path.suffix != ".old")
    assert re.fullmatch(r"\.step-4\.[0-9a-f]{16}\.tmp", half.name)
    assert (aside.suffix, [*aside.iterdir()], whole.name) == (".old", [], "step-2")
    # As if the kill had come a moment earlier: half a checkpoint, half a line.
    (half / "optimizer.safetensors").unlink()
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    train(config_from_dict(settings), output)
    assert_same_run(output, reference)
    assert {path.name for path in (output / "checkpoints").iterdir()} == {"step-4", "step-5"}


@pytest.mark.parametrize("moment", ["model has been moved aside", "model is in place, the old one is not deleted"])
def test_a_model_killed_in_its_replacement_is_there_after_the_same_command(settings, reference, tmp_path, moment):
    """A finished run whose `model/` is written again, as when a command continues from the last checkpoint."""
    output = shutil.copytree(reference, tmp_path / "run")
    aside = output / ".model.0123456789abcdef.old"
    shutil.copytree(output / "model", aside / "model")
    if moment.startswith("model has been moved"):
        (output / "model").rename(output / ".model.fedcba9876543210.tmp")
    train(config_from_dict(settings), output)
    assert_same_run(output, reference)
    assert {path.name for path in output.iterdir()} == {path.name for path in reference.iterdir()}


def test_another_config_does_not_continue_a_run(settings, reference):
    with pytest.raises(ValueError, match=r"was started with learning_rate=0\.01, not 0\.02: choose another --output"):
        train(config_from_dict(settings | {"learning_rate": 0.02}), reference)


def test_another_state_of_the_corpus_does_not_continue_a_run(settings, corpus, tmp_path):
    """The same folder, rebuilt from other videos."""
    mine, output = shutil.copytree(corpus, tmp_path / "corpus"), tmp_path / "run"
    changes = {"corpus": str(mine), "max_steps": 1, "warmup_steps": 0, "eval_steps": 0}
    train(config_from_dict(settings | changes), output)
    shutil.rmtree(output / "model")  # as if killed before it was written
    begun = (output / "environment.json").read_bytes()
    shutil.copy(mine / "data/validation-00000-of-00001.parquet", mine / "data/train-00000-of-00001.parquet")
    with pytest.raises(
        ValueError, match=r"run was started on another state of the corpus \(train split \w{12}, now \w{12}"
    ):
        train(config_from_dict(settings | changes), output)
    assert (output / "environment.json").read_bytes() == begun
    shutil.copy(corpus / "data/train-00000-of-00001.parquet", mine / "data")
    assert train(config_from_dict(settings | changes), output).is_dir()


def test_two_processes_equal_one_with_the_same_global_batch(settings, reference, tmp_path):
    """Losses and gradients of all sources with both losses, on a model whose gates are open.

    One step only, compared by AdamW's first moment, a tenth of the gradient: from the second step on AdamW turns the
    rounding of gradients that should be 0 into updates of full size.
    """
    own = ("corpus", "cache_dir", "num_frames", "preprocessing_num_workers", "learning_rate")
    one = {key: settings[key] for key in own} | {"model": str(reference / "model"), "max_steps": 1, "warmup_steps": 0}
    one |= {"gradient_accumulation_steps": 5, "eval_steps": 1, "eval_samples": 12}
    train(config_from_dict(one | {"per_device_train_batch_size": 6, "interleaved_batch_size": 4}), tmp_path / "one")
    two = one | {"per_device_train_batch_size": 3, "interleaved_batch_size": 2}
    # `--cpu` always starts one process; this starts two, and ACCELERATE_USE_CPU puts them on gloo.
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    launcher += (
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    )
    process = start(command(two, tmp_path / "two", *launcher, "-m"))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["num_processes"] == 2
    moments = [load_file(tmp_path / run / "checkpoints/step-1/optimizer.safetensors") for run in ("one", "two")]
    assert moments[0].keys() == moments[1].keys()
    assert all(expected.abs().max() > 0 for name, expected in moments[0].items()), "every parameter has a gradient"
    for name in (name for name in moments[0] if name.endswith("exp_avg")):
        expected, found = moments[0][name], moments[1][name]
        # The halves are summed in another order, and norms after latents near zero enlarge float32's rounding to about
        # 1e-5 of the largest entry; a missing term would show as 1e-2.
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()) + 1e-10), name
    (expected,), (found,) = (metrics_of(tmp_path / run) for run in ("one", "two"))
    assert expected["sources"].keys() == {"frame_text", "clip_text", "interleaved"}
    for name in ("loss", "lm_loss", "contrastive_loss", "grad_norm", "eval_lm_loss", "eval_contrastive_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_a_tiny_run_learns(settings, tmp_path):
    """Learn captions of 38 clips by heart through gates that start closed; the language model is random and frozen."""
    changes = {"max_steps": 100, "logging_steps": 10, "eval_steps": 0, "save_steps": 100, "frame_text_weight": 0}
    train(config_from_dict(settings | changes | {"per_device_train_batch_size": 19}), tmp_path / "run")
    first, *_, last = metrics_of(tmp_path / "run")
    assert last["lm_loss"] < 0.85 * first["lm_loss"]
    assert last["contrastive_loss"] < 0.7 * first["contrastive_loss"]


def test_bfloat16_stays_close_to_float32(settings, reference, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate refuses a second precision in one process
    try:
        train(config_from_dict(settings | {"bf16": True}), tmp_path / "run")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    for found, expected in zip(metrics_of(tmp_path / "run"), metrics_of(reference), strict=True):
        # bfloat16 has 8 bits: 4e-3 relative per number, a little more after some steps; wrong scaling shows as 2x.
        assert found["lm_loss"] == pytest.approx(expected["lm_loss"], rel=2e-2)
        assert found["lm_loss"] != expected["lm_loss"]


def test_learning_rate_rises_and_falls(settings):
    config = config_from_dict(settings | {"max_steps": 12, "warmup_steps": 4, "learning_rate": 1.0})
    rates = [learning_rate_at(step, config) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0, abs=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_vectors_and_scalars_do_not_decay(settings):
    model, _ = build_model(config_from_dict(settings))
    decayed, free, gates = build_optimizer(model, config_from_dict(settings)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == gates["weight_decay"] == 0
    free_names = [names[id(parameter)] for parameter in free["params"]]
    assert {name.rpartition(".")[2] for name in (names[id(p)] for p in gates["params"])} == {
        "attention_gate",
        "feed_forward_gate",
    }
    assert any("logit_scale" in name for name in free_names)
    assert any("norm" in name for name in free_names)
    assert not any(
        "bias" in names[id(p)] or "gate" in names[id(p)] or "norm" in names[id(p)] for p in decayed["params"]
    )


def test_gates_may_learn_at_a_rate_of_their_own(settings):
    model, _ = build_model(config_from_dict(settings))
    for gate_rate, factor in ((0.0, 1.0), (0.02, 20.0)):
        config = config_from_dict({**settings, "learning_rate": 0.001, "gate_learning_rate": gate_rate})
        optimizer = build_optimizer(model, config)
        set_learning_rate(optimizer, 0.0005)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0005, 0.0005, 0.0005 * factor])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unimodal_depth=9"], "unimodal_depth is 9"),
        (["num_visual_tokens=few"], "num_visual_tokens"),
        (["corpus=nowhere"], "corpus=nowhere: no corpus there"),
        (["eval_steps=2", "validation_split=test"], "holds no shards of the split 'test'"),
    ],
)
def test_bad_input_gets_one_line_and_a_failing_exit(settings, tmp_path, words, message, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(typer.Exit) as stop:
        run(str(tmp_path / "run.yaml"), words, tmp_path / "run")
    assert stop.value.exit_code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cosmo train" in line]
    assert line.startswith("cosmo train: ")
    assert message in line


def test_the_module_is_the_program(settings, tmp_path):
    process = start([*command(settings, tmp_path / "run"), "max_step=3"])
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "cosmo train: unknown config key max_step;" in output
    assert "Traceback" not in output
