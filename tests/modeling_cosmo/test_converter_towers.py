"""Checkpoints of only the trained part, with towers from their own folders; presets; bad input to both."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint, main
from modeling_cosmo.presets_cosmo import PRESETS
from tests.modeling_cosmo.openflamingo import PLACES, trained_state, with_old_buffers, write_tokenizer, write_towers
from tests.modeling_cosmo.released import Sizes, language_model, released_state
from tests.modeling_cosmo.test_backbones import mpt_by_definition
from tests.modeling_cosmo.tiny import tiny_tokenizer, tiny_vision


NUM_TOKENS = len(tiny_tokenizer())


def convert(folder, state, **options):
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "weights.safetensors")
    towers = {"text": folder / "text", "vision": folder / "vision"}
    return convert_checkpoint(folder / "weights.safetensors", None, folder / "model", **towers | options)


@pytest.mark.parametrize("kind", PLACES)
def test_towers_come_from_their_folders(kind, tmp_path):
    text, vision = write_towers(tmp_path, kind)
    state = trained_state(kind)
    done = convert(tmp_path, state)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert (model.config.block_positions, model.config.contrastive, model.config.num_visual_tokens) == (
        [1, 3],
        False,
        5,
    )
    assert (done.format, done.unused, done.ignored) == ("openflamingo", [], [])
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], tensor) for name, tensor in vision.state_dict().items())
    assert {name for name in done.missing if "vision_tower" in name} == {
        f"model.vision_tower.{name}" for name in tower
    }
    own = {
        name.replace("decoder_layer.", ""): tensor for name, tensor in model.model.language_model.state_dict().items()
    }
    table = model.model.get_input_embeddings().weight
    expect = {name: tensor for name, tensor in text.base_model.state_dict().items() if len(tensor) != NUM_TOKENS}
    assert expect
    assert all(torch.equal(own[name], tensor) for name, tensor in expect.items())
    released_table = next(iter(PLACES[kind][2].values()))
    assert torch.equal(table, state[released_table])
    block = own[f"{PLACES[kind][1]}.3.cross_attention.attention.k_proj.weight"]
    assert torch.equal(
        block,
        state[next(name for name in state if name.endswith(".3.gated_cross_attn_layer.attn.to_kv.weight"))][:512],
    )


@pytest.mark.parametrize("kind", PLACES)
def test_closed_gates_give_the_plain_language_model(kind, tmp_path):
    """Names, head and embeddings fit together: the logits are those of the stock model with the new table."""
    text, _ = write_towers(tmp_path, kind)
    state = trained_state(kind, gate=0.0)
    convert(tmp_path, state)
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    ids = torch.randint(3, NUM_TOKENS, (2, 7))
    text.resize_token_embeddings(NUM_TOKENS + 3)
    with torch.no_grad():
        text.get_input_embeddings().weight.copy_(
            state[PLACES[kind][2].get("wte") or next(iter(PLACES[kind][2].values()))]
        )
        if "head" in PLACES[kind][2]:
            text.get_output_embeddings().weight.copy_(state[PLACES[kind][2]["head"]])
        expect = text(ids).logits[..., :NUM_TOKENS]
        assert torch.equal(model(ids).logits[..., :NUM_TOKENS], expect)


def test_a_head_without_embed_in_its_name_is_resized(tmp_path):
    text, _ = write_towers(tmp_path, "llama")
    text.lm_head.weight.data += 1
    text.config.tie_word_embeddings = False
    text.save_pretrained(tmp_path / "text")
    done = convert(tmp_path, trained_state("llama"))
    head = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    assert done.resized == ["lm_head.weight"]
    assert torch.equal(head[:NUM_TOKENS], text.lm_head.weight)
    torch.testing.assert_close(head[NUM_TOKENS:], text.lm_head.weight.mean(0).expand(3, -1))


def test_a_checkpoint_without_embeddings_gets_the_towers(tmp_path):
    """MPT's table has no "embed" in its name, so training with frozen embeddings leaves it out."""
    text, _ = write_towers(tmp_path, "mpt")
    done = convert(tmp_path, trained_state("mpt", embeddings=False))
    assert done.resized == ["model.language_model.wte.weight"]
    table = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").get_input_embeddings().weight
    assert torch.equal(table[:NUM_TOKENS], text.transformer.wte.weight)
    assert len(table) == NUM_TOKENS + 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_forms_of_training_checkpoints(wrapped, tmp_path):
    """Flat, or next to an epoch and an optimizer with the names of data parallelism; with old buffers."""
    write_towers(tmp_path, "opt", whole_clip=True)
    state, buffers = with_old_buffers(trained_state("opt"), "opt")
    expect = {name: tensor.clone() for name, tensor in state.items()}
    if wrapped:
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        state = {
            "epoch": 2,
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: {"step": torch.ones(1)}}},
        }
    torch.save(state, tmp_path / "checkpoint.pt")
    done = convert_checkpoint(
        tmp_path / "checkpoint.pt", None, tmp_path / "model", text=tmp_path / "text", vision=tmp_path / "vision"
    )
    assert done.ignored == buffers
    assert all(f"ignored: {name}" in done.describe("x") for name in buffers)
    assert f"missing: {done.missing[0]}" in done.describe("x")
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert torch.equal(model.model.resampler.latents, expect["perceiver.latents"])
    vision = tiny_vision().state_dict()
    assert all(torch.equal(vision[name], tensor) for name, tensor in model.model.vision_tower.state_dict().items())


def test_the_widest_precision_of_a_checkpoint_is_kept(tmp_path):
    """Towers in half precision, trained part in full except one tensor: the model has a single precision."""
    write_towers(tmp_path, "opt", dtype=torch.float16)
    state = trained_state("opt")
    state["perceiver.norm.weight"] = state["perceiver.norm.weight"].half()
    convert(tmp_path, state)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}


def test_a_tower_that_is_not_there_is_named(tmp_path):
    write_towers(tmp_path, "opt")
    known = {"kind": "opt", "language_model": json.loads((tmp_path / "text" / "config.json").read_text()),
             "vision": {}, "media_token_id": 72, "eoc_token_id": 71}  # fmt: skip
    save_file(trained_state("opt"), tmp_path / "weights.safetensors")

    def run(**towers):
        convert_checkpoint(tmp_path / "weights.safetensors", known, tmp_path / "model", **towers)

    with pytest.raises(ValueError, match="holds no layer of the language model: give its folder as text"):
        run(vision=tmp_path / "vision")
    known["vision"] = {"width": 10, "layers": 2, "heads": 2, "image_size": 8, "patch_size": 4, "output_dim": 5}
    with pytest.raises(ValueError, match="holds no vision tower: give its folder as vision"):
        run(text=tmp_path / "text")
    del known["vision"], known["eoc_token_id"]
    with pytest.raises(ValueError, match="the architecture lacks eoc_token_id, vision"):
        run(text=tmp_path / "text")
    with pytest.raises(ValueError, match="give an architecture, or text and vision"):
        convert_checkpoint(tmp_path / "weights.safetensors", None, tmp_path / "model", text=tmp_path / "text")


@pytest.mark.parametrize(("tower", "called"), [("text", "the language model"), ("vision", "the vision tower")])
def test_a_tower_that_cannot_be_found_is_named(tower, called, tmp_path):
    write_towers(tmp_path, "opt")
    with pytest.raises(ValueError, match=f"{called} {tmp_path}/gone cannot be used: "):
        convert(tmp_path, trained_state("opt"), **{tower: tmp_path / "gone"})


def test_towers_that_were_mixed_up_are_refused(tmp_path):
    write_towers(tmp_path, "opt")
    for towers, message in (
        ({"vision": tmp_path / "text"}, "text holds a model of kind opt, not a CLIP or SigLIP vision tower"),
        ({"text": tmp_path / "vision"}, "transformers has no causal language model of kind clip_vision_model"),
    ):
        with pytest.raises(ValueError, match=f"{message}$"):
            convert(tmp_path, trained_state("opt"), **towers)


def test_a_tower_that_lacks_weights_is_refused(tmp_path):
    """Otherwise transformers would draw them at random."""
    write_towers(tmp_path, "opt")
    weights = load_file(tmp_path / "text" / "model.safetensors")
    weights.pop("model.decoder.layers.2.fc1.weight")
    save_file(weights, tmp_path / "text" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"text lacks 1 weights of OPTForCausalLM, .* model.decoder.layers.2.fc1.weight"
    ):
        convert(tmp_path, trained_state("opt"))


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_a_tower_whose_weights_are_damaged_is_named(tower, tmp_path):
    write_towers(tmp_path, "opt")
    weights = tmp_path / tower / "model.safetensors"
    whole = weights.read_bytes()
    for data in (whole[:-3], b""):
        weights.write_bytes(data)
        with pytest.raises(ValueError, match=f"the weights of .*{tower} cannot be loaded: "):
            convert(tmp_path, trained_state("opt"))
    weights.write_bytes(whole)
    config = json.loads((tmp_path / tower / "config.json").read_text())
    name = "ffn_dim" if tower == "text" else "intermediate_size"
    (tmp_path / tower / "config.json").write_text(json.dumps(config | {name: 24}))
    with pytest.raises(ValueError, match=f"the weights of .*{tower} cannot be loaded: "):
        convert(tmp_path, trained_state("opt"))


@pytest.mark.parametrize("kind", ["opt", "gpt_neox", "mistral"])
def test_folders_of_towers_replace_the_architecture_of_a_whole_checkpoint(kind, tmp_path):
    """A CosMo checkpoint that holds both towers; the sizes come from the folders' configs."""
    sizes = Sizes(kind=kind, interval=2, ratio=2)
    stock = language_model(sizes, seed=3)
    state = {name: tensor.float() for name, tensor in released_state(sizes, stock, seed=3).items()}
    save_file(state, tmp_path / "weights.safetensors")
    convert_checkpoint(tmp_path / "weights.safetensors", sizes.architecture(), tmp_path / "expect")
    expect = CosmoForConditionalGeneration.from_pretrained(tmp_path / "expect")
    stock.config.vocab_size = 35  # the folder as it was before the release added tokens
    stock.config.save_pretrained(tmp_path / "text")
    expect.config.vision_config.save_pretrained(tmp_path / "vision")
    write_words(tmp_path / "tokenizer", 35)
    done = convert(tmp_path, state, tokenizer=tmp_path / "tokenizer")
    assert (done.format, done.missing, done.unused) == ("cosmo", [], [])
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert (model.config.visual_token_id, model.config.end_of_chunk_token_id, model.config.pad_token_id) == (
        36,
        35,
        40,
    )
    tensors = model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expect.state_dict().items())
    names = ("unimodal_depth", "cross_attention_interval", "compress_ratio", "num_visual_tokens", "qk_norm")
    assert all(getattr(model.config, name) == getattr(expect.config, name) for name in names)
    assert model.config.text_config.vocab_size == 41


def write_words(folder, number):
    """Write a tokenizer of this many words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(number)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0"))).save_pretrained(
        folder
    )


@pytest.fixture
def mosaic_gpt(tmp_path):
    """A folder like MPT-1B's: its own model type, its own names, norms on queries and keys."""
    generator = torch.Generator().manual_seed(4)

    def random(*shape):
        return 0.4 * torch.randn(*shape, generator=generator)

    width, state = 12, {}
    state["transformer.wte.weight"] = random(NUM_TOKENS, width)
    state["transformer.ln_f.weight"] = 1 + random(width)
    for index in range(3):
        name = f"transformer.blocks.{index}"
        for part in ("ln_1", "ln_2", "attn.q_ln", "attn.k_ln"):
            state[f"{name}.{part}.weight"] = 1 + random(width)
        state[f"{name}.attn.Wqkv.weight"] = random(3 * width, width)
        state[f"{name}.attn.out_proj.weight"] = random(width, width)
        state[f"{name}.mlp.mlp_up.weight"] = random(4 * width, width)
        state[f"{name}.mlp.mlp_down.weight"] = random(width, 4 * width)
    config = {"model_type": "mosaic_gpt", "d_model": width, "n_heads": 2, "n_layers": 3, "max_seq_len": 32,
              "vocab_size": NUM_TOKENS, "attn_qk_ln": True, "attn_clip_qkv": None, "softmax_scale": None,
              "alibi": True, "alibi_bias_max": 8, "no_bias": True, "mlp_ratio": 4, "logit_scale": None,
              "auto_map": {"AutoConfig": "configuration_mosaic_gpt.MosaicGPTConfig"}}  # fmt: skip
    (tmp_path / "text").mkdir()
    write_tokenizer(tmp_path / "text")
    torch.save(state, tmp_path / "text" / "pytorch_model.bin")
    (tmp_path / "text" / "config.json").write_text(json.dumps(config))
    tiny_vision().save_pretrained(tmp_path / "vision")
    return state, config


def test_mpt_1b_comes_in_its_own_words(mosaic_gpt, tmp_path):
    """The language model of OpenFlamingo-3B, which transformers does not have, against its definition in float64."""
    state, _ = mosaic_gpt
    trained = trained_state("mpt", layers=(0, 1, 2), gate=0.0)
    done = convert(tmp_path, trained)
    assert (done.unused, done.resized) == ([], [])
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    names = {"ln_1": "norm_1", "ln_2": "norm_2", "ln_f": "norm_f", "mlp.mlp_up": "ffn.up_proj",
             "mlp.mlp_down": "ffn.down_proj", "q_ln": "Wqkv.q_norm", "k_ln": "Wqkv.k_norm"}  # fmt: skip
    plain = {}
    for name, tensor in state.items():
        name = name.removeprefix("transformer.")
        for old, new in names.items():
            name = name.replace(old, new)
        plain[name] = tensor
    plain["wte.weight"] = trained["lang_encoder.transformer.wte.weight"]
    ids = torch.randint(0, NUM_TOKENS, (7,), generator=torch.Generator().manual_seed(0))
    expect = mpt_by_definition(plain, model.config.text_config, ids)
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    layer = model.model.language_model.blocks[1].decoder_layer.attn.Wqkv  # swapped norms would give the same logits
    assert torch.equal(layer.q_norm.weight, state["transformer.blocks.1.attn.q_ln.weight"])
    assert torch.equal(layer.k_norm.weight, state["transformer.blocks.1.attn.k_ln.weight"])
    torch.testing.assert_close(logits.double(), expect @ plain["wte.weight"].double().T, atol=1e-4, rtol=1e-4)


def test_an_mpt_1b_of_another_build_is_refused(mosaic_gpt, tmp_path):
    (tmp_path / "text" / "config.json").write_text(json.dumps(mosaic_gpt[1] | {"alibi": False}))
    with pytest.raises(ValueError, match="mosaic_gpt with alibi False is not supported: it must be True"):
        convert(tmp_path, trained_state("mpt", layers=(0, 1, 2)))


def test_presets_refuse_what_is_not_theirs(tmp_path, capsys):
    write_towers(tmp_path, "opt")
    state = trained_state("opt")
    with pytest.raises(ValueError, match=r"no preset 'cosmo-3b'; the presets are cosmo-2.1b, .*, openflamingo-9b"):
        convert(tmp_path, state, preset="cosmo-3b")
    with pytest.raises(ValueError, match=r"tensor .* format is openflamingo, but the preset cosmo-2.1b says cosmo"):
        convert(tmp_path, state, preset="cosmo-2.1b")
    with pytest.raises(ValueError, match=r"tensor .* format is openflamingo, but the option format says cosmo"):
        convert(tmp_path, state, format="cosmo")
    message = r"tensor lang_encoder\S+to_q.weight means that the language model's width is 12, .* preset says 2560"
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, state, preset="openflamingo-4b")
    with pytest.raises(ValueError, match="give an architecture or a preset, not both"):
        convert_checkpoint("x", {"kind": "opt"}, "y", preset="cosmo-2.1b")
    with pytest.raises(ValueError, match=r"is of kind mpt .* is of kind opt"):
        convert_with_the_widths_of(tmp_path, state)
    command = ["--checkpoint", str(tmp_path / "weights.safetensors"), "--output", str(tmp_path / "model"),
               "--text", "t", "--vision", "v"]  # fmt: skip
    capsys.readouterr()
    assert main([*command, "--preset", "cosmo-3b"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no preset 'cosmo-3b'; the presets are cosmo-2.1b")


def convert_with_the_widths_of(folder, state):
    """A checkpoint as wide as OpenFlamingo-3B, with another language model; three of its tensors are enough."""
    block = "lang_encoder.model.decoder.layers.{}.gated_cross_attn_layer.attn.to_q.weight"
    wide = {name: tensor for name, tensor in state.items() if "gated" not in name}
    wide |= {block.format(index): torch.zeros(512, 2048) for index in range(24)}
    convert(folder, wide | {"perceiver.latents": torch.zeros(64, 1024)}, preset="openflamingo-3b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 24, "word_embed_proj_dim": 24}, r"width is 12, but the language model's config says 24"),
        ({"num_hidden_layers": 3}, r"tensor \S+ is at a layer that the language model lacks: it has 3"),
        ({"activation_function": "x"}, r"the language model \S+text cannot be used: KeyError: 'x'"),
    ],
)
def test_a_checkpoint_of_another_architecture_names_a_tensor(change, message, tmp_path):
    write_towers(tmp_path, "opt")
    config = json.loads((tmp_path / "text" / "config.json").read_text()) | change
    (tmp_path / "text" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        convert(tmp_path, trained_state("opt"))


def test_another_vision_tower_names_a_tensor(tmp_path):
    write_towers(tmp_path, "opt")
    config = json.loads((tmp_path / "vision" / "config.json").read_text()) | {"hidden_size": 20}
    (tmp_path / "vision" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"perceiver.latents means that the vision tower's width is 10, .* says 20"):
        convert(tmp_path, trained_state("opt"))


def test_every_preset_names_a_kind_that_transformers_has():
    from transformers import AutoConfig

    assert all(AutoConfig.for_model(preset.kind).model_type == preset.kind for preset in PRESETS.values())


def test_the_processor_reads_openflamingos_texts(tmp_path, pictures):
    """`<image>` and `<visual>` are one token with the released id, also after saving and loading and in `generate`."""
    write_towers(tmp_path, "mpt")
    convert(tmp_path, trained_state("mpt"))
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    processor = CosmoProcessor.from_pretrained(tmp_path / "model")
    processor.check_config(model.config)
    assert processor.token_ids() == {
        "end_of_chunk_token_id": NUM_TOKENS, "visual_token_id": NUM_TOKENS + 1, "pad_token_id": NUM_TOKENS + 2
    }  # fmt: skip
    texts = ["<image>a red star<|endofchunk|><image>Output:", "<visual>a red star<|endofchunk|><visual>Output:"]
    ids = [processor(text=text, images=[pictures[:2]])["input_ids"] for text in texts]
    assert torch.equal(ids[0], ids[1])
    assert ids[0][0].tolist().count(NUM_TOKENS + 1) == 2
    with pytest.raises(ValueError, match="sample 0 has 1 <visual> placeholders but 2 media"):
        processor(text="<image>a", images=[pictures[:2]])
    batch = processor(text=["<image>a red star rolls", "<image>a"], images=[pictures[:1], pictures[1:2]])
    assert batch["attention_mask"][1].tolist()[0] == 0
    out = model.generate(**batch, max_new_tokens=4)
    alone = model.generate(**processor(text="<image>a", images=[pictures[1:2]]), max_new_tokens=4)
    start = batch["input_ids"].shape[1]
    length = min(out.shape[1] - start, alone.shape[1] - 2)
    assert torch.equal(out[1, start : start + length], alone[0, 2 : 2 + length])
    assert "<visual>" not in processor.decode(batch["input_ids"][0], skip_special_tokens=True)
    assert processor.num_frames == 1


def test_a_padding_token_of_the_language_model_is_kept(tmp_path):
    write_towers(tmp_path, "opt")
    tiny_tokenizer().save_pretrained(tmp_path / "text")  # with <pad>, id 0
    convert(tmp_path, trained_state("opt"))
    assert CosmoProcessor.from_pretrained(tmp_path / "model").token_ids() == {
        "end_of_chunk_token_id": NUM_TOKENS, "visual_token_id": NUM_TOKENS + 1, "pad_token_id": 0
    }  # fmt: skip


def test_a_tokenizer_of_another_language_model_is_refused(tmp_path):
    write_towers(tmp_path, "opt")
    write_words(tmp_path / "words", 80)
    with pytest.raises(ValueError, match=r"has 83 tokens .* \(model.decoder.embed_tokens.weight\) have 73 rows"):
        convert(tmp_path, trained_state("opt"), tokenizer=tmp_path / "words")


def test_ids_come_from_a_tokenizer(tmp_path):
    write_towers(tmp_path, "opt")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "text" / name).unlink()
    with pytest.raises(ValueError, match="ids of the special tokens come from a tokenizer"):
        convert(tmp_path, trained_state("opt"))
