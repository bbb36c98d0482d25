"""What the converter accepts, reports and refuses; its numbers are checked in test_definition and test_parity."""

import json
import pickle
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint, main


FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def state():
    return load_file(FIXTURES / "tiny_released.safetensors")


@pytest.fixture
def architecture():
    return json.loads((FIXTURES / "tiny_architecture.json").read_text())


@pytest.fixture
def convert(tmp_path):
    def run(state, architecture, **options):
        save_file(state, tmp_path / "weights.safetensors")
        return convert_checkpoint(tmp_path / "weights.safetensors", architecture, tmp_path / "model", **options)

    return run


def tensors(folder):
    return load_file(folder / "model.safetensors")


def test_names_may_be_doubled_and_prefixed(convert, state, architecture, tmp_path):
    convert(state, architecture)
    expect = tensors(tmp_path / "model")
    doubled = {f"module.{name}": value for name, value in state.items()}
    for name, value in state.items():
        other = name.replace("lang_model.old_decoder_blocks.1.", "lang_model.model.decoder.layers.1.decoder_layer.")
        doubled[f"module.{other}"] = value.clone()
    convert(doubled, architecture)
    again = tensors(tmp_path / "model")
    assert again.keys() == expect.keys()
    assert all(torch.equal(again[name], value) for name, value in expect.items())


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
def test_torch_files_are_read(state, architecture, tmp_path, wrapper):
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "weights.pt")
    done = convert_checkpoint(tmp_path / "weights.pt", architecture, tmp_path / "model")
    assert done.num_tensors > 100
    assert CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").config.unimodal_depth == 3


def test_folders_of_shards_are_read(state, architecture, tmp_path):
    names = sorted(state)
    (tmp_path / "shards").mkdir()
    for index in range(2):
        save_file({name: state[name] for name in names[index::2]}, tmp_path / "shards" / f"{index}.safetensors")
    convert_checkpoint(tmp_path / "shards", architecture, tmp_path / "model")
    assert (tmp_path / "model" / "modeling_cosmo.py").is_file()


def test_code_in_a_file_is_not_run(architecture, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))  # as torch writes
    torch.save({"weight": Harmful()}, tmp_path / "zipped.pt")
    for name in ("weights.pt", "zipped.pt"):
        message = (
            rf"{name} cannot be read .* weights_only=True: \S+Unpickler error: Unsupported global: GLOBAL getattr"
        )
        with pytest.raises(ValueError, match=message) as raised:
            convert_checkpoint(tmp_path / name, architecture, tmp_path / "model")
        assert "safe_globals" not in str(raised.value), "no advice on how to run it"
    assert not (tmp_path / "harm").exists()


def test_depth_interval_and_ratio_are_read_off(convert, state, architecture, tmp_path):
    for name in ("unimodal_depth", "interval_layer", "cross_attention_compress_ratio", "qv_norm", "perceiver"):
        del architecture[name]
    convert(state, architecture)
    config = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").config
    assert (config.unimodal_depth, config.block_positions, config.compress_ratio) == (3, [3, 4], 4)
    assert config.resampler_depth == 1
    assert not config.qk_norm


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "unimodal_depth",
            2,
            r"tensor lang_model.*\.4\.gated.*to_q.* cross_attention_layers is \[3, 4\].* \[2, 3, 4\]",
        ),
        ("interval_layer", 2, r"cross_attention_layers is \[3, 4\], but the architecture says \[3\]"),
        ("cross_attention_compress_ratio", 2, r"tensor .*to_q.* compress_ratio is 4, but the architecture says 2"),
        ("qv_norm", True, r"tensor .*to_q.* qk_norm is False, but the architecture says True"),
        ("perceiver", {"depth": 6}, "tensor perceiver.* resampler_depth is 1, but the architecture says 6"),
        ("kind", "gpt_neox", "language_model"),
    ],
)
def test_contradictions_name_a_tensor(convert, state, architecture, name, value, message):
    with pytest.raises(ValueError, match=message):
        convert(state, architecture | {name: value})


def test_wrong_shapes_and_missing_tensors_are_named(convert, state, architecture):
    wrong = state | {"text_latent": torch.zeros(1, 13)}
    with pytest.raises(ValueError, match=r"text_latent .* has shape \(1, 13\); .* expects \(1, 12\)"):
        convert(wrong, architecture)
    short = {name: value for name, value in state.items() if name != "perceiver.norm.bias"}
    with pytest.raises(ValueError, match=r"lacks 1 tensors .* model.resampler.norm.bias"):
        convert(short, architecture)
    for name, wrong, message in (
        (
            "img_to_latents.to_latents.weight",
            torch.zeros(()),
            r"to_latents.weight has shape \(\); it must be a matrix",
        ),
        ("lang_model.model.decoder.embed_tokens.weight", torch.zeros(0), r"embed_tokens.weight .*has shape \(0,\)"),
        ("perceiver.latents", torch.zeros(7), r"perceiver.latents has shape \(7,\); it must be a matrix"),
        (
            "perceiver.layers.0.0.to_kv.weight",
            torch.zeros(7, 10),
            r"to_kv.weight has shape \(7, 10\); .* 2 projections",
        ),
    ):
        assert name in state
        with pytest.raises(ValueError, match=message):
            convert(state | {name: wrong}, architecture)
    differing = state | {"module.temperature": state["temperature"] + 1}
    with pytest.raises(ValueError, match="temperature differs from another"):
        convert(differing, architecture)
    with pytest.raises(ValueError, match="not CosMo or OpenFlamingo"):
        convert({"weight": torch.ones(2)}, architecture)


def test_what_is_left_over_is_reported(convert, state, architecture):
    more = state | {"knn_memory.keys": torch.ones(2), "vision_encoder.token_embedding.weight": torch.ones(2)}
    assert convert(more, architecture).unused == ["knn_memory.keys"]  # CLIP's text tower is known to be unused


def test_command_line(state, architecture, tmp_path, capsys):
    (tmp_path / "architecture.json").write_text(json.dumps(architecture))
    save_file(state, tmp_path / "weights.safetensors")
    command = ["--checkpoint", str(tmp_path / "weights.safetensors"), "--architecture",
               str(tmp_path / "architecture.json"), "--output", str(tmp_path / "model")]  # fmt: skip
    assert main([*command, "--patch-tokens", "after_ln_post"]) == 0
    assert "tensors written" in capsys.readouterr().out
    assert CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").config.patch_tokens == "after_ln_post"
    (tmp_path / "architecture.json").write_text(json.dumps(architecture | {"unimodal_depth": 1}))
    assert main(command) == 1
    assert "error: tensor " in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--patch-tokens" in capsys.readouterr().out


def test_a_tokenizer_adds_the_processor(convert, state, architecture, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(36)}
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))
    plain.save_pretrained(tmp_path / "tokenizer")
    ids = {"eoc_token_id": 36, "media_token_id": 37, "pad_token_id": 41}
    grown = dict(state)
    for name in ("lang_model.model.decoder.embed_tokens.weight", "lang_model.lm_head.weight"):
        if name in grown:
            grown[name] = torch.cat([grown[name], grown[name][:1]])
    convert(grown, architecture | ids, tokenizer=str(tmp_path / "tokenizer"))
    processor = CosmoProcessor.from_pretrained(tmp_path / "model")
    assert processor.token_ids() == {"visual_token_id": 37, "end_of_chunk_token_id": 36, "pad_token_id": 41}
    with pytest.raises(ValueError, match="visual_token_id is 35 in the config but 37 in the tokenizer"):
        convert(grown, architecture | ids | {"media_token_id": 35}, tokenizer=str(tmp_path / "tokenizer"))


def test_an_architecture_that_says_too_little(convert, state, architecture, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken.json is not JSON"):
        convert(state, tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"list.json holds a list, not a JSON object"):
        convert(state, tmp_path / "list.json")
    with pytest.raises(ValueError, match="vision in the architecture is None; it must be an object"):
        convert(state, architecture | {"vision": None})
    for name, value in (("unimodal_depth", "3"), ("interval_layer", 0), ("vision", {"patch_size": 0, "width": 10})):
        culprit = "patch_size of vision" if name == "vision" else name
        value = architecture["vision"] | value if name == "vision" else value
        with pytest.raises(ValueError, match=f"{culprit} in the architecture is .*; it must be a whole number from"):
            convert(state, architecture | {name: value})
    text = architecture["language_model"] | {"hidden_size": 0}
    with pytest.raises(ValueError, match="hidden_size of language_model in the architecture is 0; it must be"):
        convert(state, architecture | {"language_model": text})
    text = architecture["language_model"] | {"ffn_dim": "28"}
    with pytest.raises(ValueError, match=r"the architecture cannot be used: .*'ffn_dim'"):
        convert(state, architecture | {"language_model": text})
    with pytest.raises(ValueError, match="visual_token_id is 41, but the checkpoint has embeddings of 41 tokens"):
        convert(state, architecture | {"media_token_id": 41})
    del architecture["media_token_id"], architecture["vision"]["width"]
    with pytest.raises(ValueError, match="the architecture lacks media_token_id, width of vision"):
        convert(state, architecture)
    with pytest.raises(ValueError, match="the architecture lacks media_token_id, vision"):
        convert(state, {name: value for name, value in architecture.items() if name != "vision"})


@pytest.mark.parametrize(
    ("part", "name", "values", "expected"),
    [
        ("", "kind", [["opt"], "no such kind", None], "a kind of language model of transformers, such as 'opt'"),
        ("", "media_token_id", ["37", -1, None, 37.0], "a whole number from 0"),
        ("", "pad_token_id", ["40", True], "an id or null"),
        ("", "only_attend_immediate_media", [1, "true"], "true or false"),
        ("", "contrastive_temperature_init", ["0.2", None, [0.2]], "a number"),
        ("vision", "mlp_ratio", [None, [2], "2", -1], "a number above 0"),
        ("vision", "act", ["swiglu", ["gelu"], None], "an activation of transformers"),
        ("language_model", "activation_function", ["swiglu", 3], "an activation of transformers"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(convert, state, architecture, part, name, values, expected):
    for value in values:
        changed = {part: architecture[part] | {name: value}} if part else {name: value}
        key = re.escape(f"{name} of {part}" if part else name)
        message = rf"^{key} in the architecture is {re.escape(repr(value))}; it must be {expected}"
        with pytest.raises(ValueError, match=message):
            convert(state, architecture | changed)


def test_what_no_model_can_be_built_of_is_told(convert, state, architecture):
    text = architecture["language_model"] | {"ffn_dim": -1}
    with pytest.raises(ValueError, match=r"the architecture cannot be used: RuntimeError: .*negative dimension"):
        convert(state, architecture | {"language_model": text})


def test_a_temperature_may_be_a_whole_number(convert, state, architecture, tmp_path):
    convert(state, architecture | {"contrastive_temperature_init": 1})
    assert CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").config.logit_scale_init == 1.0


@pytest.mark.parametrize("inner_width", [300, 1024])
def test_heads_of_another_width_name_a_tensor(convert, state, architecture, inner_width):
    """Heads wider than the released 8 x 64 must not give a compress_ratio of 0."""
    del architecture["cross_attention_compress_ratio"]
    queries = {name for name in state if "gated" in name and name.endswith("to_q.weight")}
    wide = {name: torch.zeros(inner_width, 12) if name in queries else tensor for name, tensor in state.items()}
    with pytest.raises(ValueError, match=rf"tensor \S+to_q.weight has shape \({inner_width}, 12\); .* 512 channels"):
        convert(wide, architecture)


def test_a_head_that_should_be_the_embeddings_is_refused(convert, state, architecture):
    other = state | {"lang_model.lm_head.weight": state["lang_model.model.decoder.embed_tokens.weight"] + 1}
    with pytest.raises(
        ValueError, match=r"tensor lang_model.lm_head.weight .* differs from .* \(tie_word_embeddings\)"
    ):
        convert(other, architecture)


def test_a_checkpoint_is_not_written_over(state, architecture, tmp_path):
    """The same goes for its shards, which saving would delete, and for the folder of a tower."""
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    for checkpoint in (tmp_path, tmp_path / "model.safetensors", tmp_path / "model.safetensors.index.json"):
        with pytest.raises(ValueError, match="holds the checkpoint, which would be overwritten"):
            convert_checkpoint(checkpoint, architecture, tmp_path)
    (tmp_path / "text").mkdir()
    for tower, name in (("text", "the language model"), ("vision", "the vision tower")):
        with pytest.raises(ValueError, match=f"holds {name}, which would be overwritten"):
            convert_checkpoint(
                tmp_path / "model.safetensors", architecture, tmp_path / "text", **{tower: tmp_path / "text"}
            )
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file: name a folder"):
        convert_checkpoint(tmp_path / "model.safetensors", architecture, tmp_path / "file")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unfinished_conversion_leaves_the_model_of_before(convert, state, architecture, tmp_path, monkeypatch):
    """Stopped by hand after the weights, or by a full disk in the middle of them."""
    convert(state, architecture)
    before = contents(tmp_path / "model")
    other = state | {"temperature": state["temperature"] + 1}

    def saves_and_stops(self, folder, real=CosmoForConditionalGeneration.save_pretrained):
        real(self, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CosmoForConditionalGeneration, "save_pretrained", saves_and_stops)
        with pytest.raises(KeyboardInterrupt):
            convert(other, architecture)
    assert contents(tmp_path / "model") == before
    save_file(other, tmp_path / "weights.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes of a file; the weights have more
    try:
        with pytest.raises(OSError, match="model cannot be written: "):
            convert_checkpoint(tmp_path / "weights.safetensors", architecture, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path / "model") == before
    convert(other, architecture)
    assert contents(tmp_path / "model").keys() == before.keys()
    assert contents(tmp_path / "model") != before


def test_what_a_killed_conversion_and_an_older_model_leave_is_replaced(convert, state, architecture, tmp_path):
    convert(state, architecture)
    expect = contents(tmp_path / "model")
    whole = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    whole.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert (tmp_path / "model" / "model.safetensors.index.json").is_file()
    (tmp_path / "model" / ".unfinished-1").mkdir()
    (tmp_path / "model" / ".unfinished-1" / "model.safetensors").write_text("half")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    convert(state, architecture)
    assert contents(tmp_path / "model") == expect | {Path("notes.txt"): b"mine"}


def test_a_checkpoint_of_another_language_model_is_refused(convert, state, architecture):
    mistral = {"vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 5, "num_attention_heads": 6}
    with pytest.raises(
        ValueError, match=r"the checkpoint has lang_model\.model\.decoder\S+ \(here .*, which the arch"
    ):
        convert(state, architecture | {"kind": "mistral", "language_model": mistral})


def test_every_missing_tensor_is_named(convert, state, architecture):
    gone = {"perceiver.norm.bias", "text_latent"}
    with pytest.raises(ValueError, match=r"lacks 1 tensors of the architecture: model.resampler.norm.bias$"):
        convert({name: value for name, value in state.items() if name != "perceiver.norm.bias"}, architecture)
    with pytest.raises(ValueError, match=r"lacks 2 tensors .*: model.resampler.norm.bias, model.text_pool.query$"):
        convert({name: value for name, value in state.items() if name not in gone}, architecture)
