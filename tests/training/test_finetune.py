"""`cosmo finetune`: transformers' `Trainer` on a corpus, with adapters and without."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import cosmo_cli
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from training.data.clips import load_clips
from training.finetune import Adapter, Clips, FinetuneSettings, finetune, last_checkpoint, read_options, to_dict


SMALL = {
    "unimodal_depth": 2, "resampler_depth": 1, "resampler_heads": 2, "resampler_head_dim": 8, "num_visual_tokens": 3,
    "cross_attention_heads": 2, "cross_attention_head_dim": 8, "shared_dim": 11,
}  # fmt: skip
STEPS = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.01, "save_steps": 2, "logging_steps": 1,
         "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module")
def from_towers(corpus, vision_folder, text_folder, tmp_path_factory):
    """A run with LoRA on the language model that starts from two towers."""
    output = tmp_path_factory.mktemp("finetune") / "run"
    settings = FinetuneSettings(
        corpus=str(corpus), output=output, vision=str(vision_folder), text=str(text_folder), num_frames=3, rank=2,
        options=STEPS | SMALL,
    )  # fmt: skip
    assert finetune(settings) == output / "model"
    return settings


def states(folder):
    return load_file(folder / "model.safetensors")


def test_clips_become_samples(corpus, from_towers):
    processor = CosmoProcessor.from_pretrained(from_towers.output / "model")
    table = load_clips(corpus, "train")
    clips = Clips(table, processor, 3)
    assert len(clips) == table.num_clips
    sample = clips[5]
    assert sample["text"] == f"<visual>{table.captions[5]}<|endofchunk|>"
    assert sample["videos"][0].shape[:2] == (3, 3)
    assert sample["videos"][0].dtype == torch.uint8


def test_what_a_run_leaves(from_towers):
    output = from_towers.output
    assert {path.name for path in output.iterdir()} == {
        "adapter", "model", "environment.json", "checkpoint-2", "checkpoint-3", "eval_results.json", "all_results.json"
    }  # fmt: skip
    found = json.loads((output / "environment.json").read_text())
    assert found["settings"]["adapter"] == "language_model"
    assert found["settings"]["options"]["max_steps"] == 3
    assert json.loads((output / "eval_results.json").read_text())["eval_loss"] > 0
    adapter = load_file(output / "adapter" / "adapter_model.safetensors")
    assert any("lora_A" in name for name in adapter)
    assert not any("vision_tower" in name for name in adapter)
    assert {part for part in ("resampler", "cross_attention", "new_tokens") if any(part in name for name in adapter)}
    model = CosmoForConditionalGeneration.from_pretrained(output / "model")
    CosmoProcessor.from_pretrained(output / "model").check_config(model.config)
    assert not any("lora" in name or "original_module" in name for name, _ in model.named_parameters())
    assert model.config.max_frames == 3


@pytest.mark.parametrize("adapter", [Adapter.none, Adapter.both])
def test_a_saved_model_goes_on(corpus, from_towers, tmp_path, adapter):
    """Only the parts that should train have changed; with `adapter_only`, these are the matrices with LoRA."""
    begun = from_towers.output / "model"
    settings = FinetuneSettings(
        corpus=str(corpus), output=tmp_path / "run", model=str(begun), num_frames=3, adapter=adapter,
        adapter_only=adapter is Adapter.both, options=STEPS,
    )  # fmt: skip
    before, after = states(begun), states(finetune(settings))
    assert before.keys() == after.keys()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    if adapter is Adapter.both:
        assert moved
        assert all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)
        assert not any("vision_tower" in name or "resampler" in name for name in moved)
        assert {"cross_attention" in name for name in moved} == {True, False}
    else:
        table = "model.language_model.decoder.embed_tokens.weight"
        assert not any("vision_tower" in name or "decoder_layer" in name for name in moved)
        assert table in moved
        rows = (after[table] != before[table]).any(dim=-1).nonzero().flatten().tolist()
        config = CosmoForConditionalGeneration.from_pretrained(begun).config
        assert rows == sorted(config.new_token_ids)


def test_the_same_command_goes_on(from_towers, tmp_path, capsys):
    """Two steps, then a third, equal three at once, with new parts drawn by the seed; a torn checkpoint is redone."""
    first = {**vars(from_towers), "output": tmp_path / "run"}
    options = {**from_towers.options, "lr_scheduler_type": "constant", "warmup_steps": 0}
    finetune(FinetuneSettings(**first | {"options": options | {"max_steps": 2}}))
    trained = (tmp_path / "run" / "checkpoint-2").stat().st_mtime_ns
    other = shutil.copytree(from_towers.corpus, tmp_path / "corpus")
    shutil.copy(other / "data/validation-00000-of-00001.parquet", other / "data/train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="run was started on another state of the corpus"):
        finetune(FinetuneSettings(**first | {"corpus": str(other), "options": options}))
    torn = shutil.copytree(tmp_path / "run" / "checkpoint-2", tmp_path / "run" / "checkpoint-3")
    (torn / "trainer_state.json").write_text('{"best_glo')
    finetune(FinetuneSettings(**first | {"options": options}))
    assert (tmp_path / "run" / "checkpoint-2").stat().st_mtime_ns == trained
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]
    at_once = states(finetune(FinetuneSettings(**first | {"output": tmp_path / "at-once", "options": options})))
    gone_on = states(tmp_path / "run" / "model")
    assert {name for name, value in at_once.items() if not torch.equal(value, gone_on[name])} == set()


def test_settings_are_kept_as_json(from_towers):
    """Including a date: YAML turns such a name into one."""
    settings = FinetuneSettings(
        **vars(from_towers) | {"options": read_options(["run_name=2026-11-22", "max_steps=3"])}
    )
    found = to_dict(settings)
    assert found["options"] == {"run_name": "2026-11-22", "max_steps": 3}
    assert found["output"] == str(from_towers.output)
    assert found["adapter"] == "language_model"


@pytest.mark.parametrize(("name", "value"), [("rank", 3), ("adapter", Adapter.none), ("shared_dim", 13)])
def test_another_model_cannot_go_on_from_the_checkpoints_of_a_run(from_towers, name, value):
    options = {**from_towers.options, name: value} if name == "shared_dim" else from_towers.options
    other = vars(from_towers) | ({"options": options} if name == "shared_dim" else {name: value})
    before = (from_towers.output / "environment.json").read_bytes()
    with pytest.raises(ValueError, match=rf"run was started with {name}=\w+, not {value}: choose another --output"):
        finetune(FinetuneSettings(**other))
    assert (from_towers.output / "environment.json").read_bytes() == before


def test_checkpoints_cut_off_by_a_kill_are_passed_over(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for name, state in (("9", "{}"), ("10", "{}"), ("11", '{"best'), ("12", None), ("old", "{}"), ("13.tmp", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_options_are_read_as_values():
    words = ["max_steps=5", "learning_rate=1e-3", "bf16=true", "unimodal_depth=2", "run_name=a", "report_to=[a, b]"]
    assert read_options(words) == {
        "max_steps": 5, "learning_rate": 0.001, "bf16": True, "unimodal_depth": 2, "run_name": "a",
        "report_to": ["a", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "MODEL", "max_step=3"], "unknown key max_step"),
        (["--model", "MODEL", "max_steps"], "expected key=value, found 'max_steps'"),
        (["--model", "MODEL", "max_steps=many"], "max_steps='many': expected int"),
        (["--model", "MODEL", "learning_rate=fast"], "learning_rate='fast': expected float"),
        (["--model", "MODEL", "bf16=perhaps"], "bf16='perhaps': expected bool"),
        (["--model", "MODEL", "output_dir=there"], "output_dir=there is not possible here: --output names the folder"),
        (["--model", "MODEL", "label_smoothing_factor=0.1"], "label_smoothing_factor=0.1 is not possible here"),
        (["--model", "MODEL", "--corpus", "nowhere"], "corpus=nowhere: no corpus there"),
        (["--model", "MODEL", "--rank", "0"], "rank=0"),
        (["--model", "MODEL", "--adapter", "none", "--adapter-only"], "leaves nothing to train"),
        (["--model", "MODEL", "--num-frames", "4"], "num_frames=4 is more than the model's max_frames=3"),
        (["--model", "MODEL", "unimodal_depth=1"], "already fixes unimodal_depth"),
        (["--model", "MODEL", "eval_strategy=sometimes"], "TrainingArguments refused the options"),
        (["--vision", "toy"], "give either model, or both vision and text"),
        (["--vision", "toy", "--text", "toy", "--adapter", "both"], "adapter=both needs model"),
        (["--vision", "toy", "--text", "toy", "--adapter-only"], "adapter_only needs model"),
    ],
)
def test_bad_input_is_named(corpus, from_towers, tmp_path, words, message, monkeypatch, capsys):
    words = [str(from_towers.output / "model") if word == "MODEL" else word for word in words]
    given = ["cosmo", "finetune", "--corpus", str(corpus), "--output", str(tmp_path / "run"), *words]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as stop:
        cosmo_cli.main()
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cosmo: error")]
    assert message in line
    assert not (tmp_path / "run" / "model").exists()


def test_help_names_what_it_takes():
    text = CliRunner().invoke(cosmo_cli.app, ["finetune", "--help"]).output
    for word in ("--corpus", "--model", "--adapter", "cross_attention", "TrainingArguments", "--adapter-only"):
        assert word in text
