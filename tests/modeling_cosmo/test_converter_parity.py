"""The released code's outputs without an architecture file: towers from folders, and a stripped checkpoint.

Tolerances as in test_parity.
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint


NUM_WORDS = 96  # of both fixtures' language models before tokens were added


def write_text(folder, weights, values):
    """The language model before it got new tokens and blocks, with a tokenizer whose pad id is 1."""
    language_model = OPTForCausalLM(OPTConfig(**values | {"vocab_size": NUM_WORDS}))
    plain = {
        re.sub(r"^lang_\w+?\.|decoder_layer\.", "", name): tensor
        for name, tensor in weights.items()
        if re.match(r"lang_\w+\.model\.decoder\.", name) and "gated" not in name
    }
    plain["model.decoder.embed_tokens.weight"] = plain["model.decoder.embed_tokens.weight"][:NUM_WORDS]
    missing = language_model.load_state_dict(plain, strict=False)
    assert missing.missing_keys == ["lm_head.weight"]  # tied
    assert missing.unexpected_keys == []
    language_model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(NUM_WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokens = {"bos_token": "w2", "eos_token": "w2", "pad_token": "w1", "unk_token": "w3"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)


def write_vision(folder, weights, values):
    """open_clip's vision tower as a tower of transformers, assembled here by hand."""
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=values["width"], intermediate_size=4 * values["width"], num_hidden_layers=values["layers"],
            num_attention_heads=values["heads"], image_size=values["image_size"], patch_size=values["patch_size"],
            hidden_act=values["act"],
        )
    )  # fmt: skip
    weights = {
        re.sub(r"^vision_encoder\.(visual\.)?", "", name): tensor
        for name, tensor in weights.items()
        if name.startswith("vision_encoder.") and "text" not in name
    }
    with torch.no_grad():
        tower.embeddings.class_embedding.copy_(weights["class_embedding"])
        tower.embeddings.patch_embedding.weight.copy_(weights["conv1.weight"])
        tower.embeddings.position_embedding.weight.copy_(weights["positional_embedding"])
        pairs = [(tower.pre_layrnorm, "ln_pre"), (tower.post_layernorm, "ln_post")]
        for index, layer in enumerate(tower.encoder.layers):
            name = f"transformer.resblocks.{index}"
            pairs += [(layer.layer_norm1, f"{name}.ln_1"), (layer.layer_norm2, f"{name}.ln_2")]
            pairs += [(layer.mlp.fc1, f"{name}.mlp.c_fc"), (layer.mlp.fc2, f"{name}.mlp.c_proj")]
            pairs += [(layer.self_attn.out_proj, f"{name}.attn.out_proj")]
            parts = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
            for place, part in enumerate(parts):
                rows = slice(place * values["width"], (place + 1) * values["width"])
                part.weight.copy_(weights[f"{name}.attn.in_proj_weight"][rows])
                part.bias.copy_(weights[f"{name}.attn.in_proj_bias"][rows])
        for module, name in pairs:
            module.weight.copy_(weights[f"{name}.weight"])
            module.bias.copy_(weights[f"{name}.bias"])
    tower.save_pretrained(folder)


@pytest.mark.parametrize(("name", "strip"), [("opt", False), ("of_opt", False), ("of_opt", True)])
def test_towers_from_folders(name, strip, parity_dir, tmp_path):
    """With `strip`, the checkpoint holds what OpenFlamingo's training saves, under data parallelism's names."""
    folder = parity_dir / name
    if not folder.is_dir():
        pytest.skip(f"the parity folder holds no fixture {name}")
    io, known = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "weights.safetensors")
    write_text(tmp_path / "text", weights, known["language_model"])
    write_vision(tmp_path / "vision", weights, known["vision"])
    checkpoint = tmp_path / "checkpoint.pt"
    if strip:
        kept = {f"module.{name}": weights[known["aliases"].get(name, name)] for name in known["checkpoint_keys"]}
        torch.save({"epoch": 1, "model_state_dict": kept}, checkpoint)
    else:
        checkpoint = tmp_path / "weights.safetensors"
        save_file(weights, checkpoint)
    done = convert_checkpoint(checkpoint, None, tmp_path / "model", text=tmp_path / "text", vision=tmp_path / "vision")
    assert done.unused == []
    assert bool(done.missing) == strip
    model = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    processor = CosmoProcessor.from_pretrained(tmp_path / "model")
    ids = {
        "visual_token_id": "media_token_id",
        "end_of_chunk_token_id": "eoc_token_id",
        "pad_token_id": "pad_token_id",
    }
    assert processor.token_ids() == {own: known[released] for own, released in ids.items()}
    mask = io["attention_mask"].bool()
    with torch.no_grad():
        out = model(
            input_ids=io["input_ids"], attention_mask=io["attention_mask"], pixel_values=io["pixel_values"],
            labels=io["labels"],
        )  # fmt: skip
    torch.testing.assert_close(out.logits[mask], io["out.logits"][mask], atol=3e-5, rtol=0)
    assert out.lm_loss.item() == pytest.approx(io["out.lm_loss"].item(), abs=2e-6)
    if "out.contrastive_loss" in io:
        assert out.contrastive_loss.item() == pytest.approx(io["out.contrastive_loss"].item(), abs=2e-6)
    prompt = {"input_ids": io["gen.prompt_ids"], "attention_mask": io["gen.prompt_mask"], "max_new_tokens": 8}
    greedy = model.generate(**prompt, pixel_values=io["gen.pixel_values"])
    assert torch.equal(greedy, io["gen.greedy_ids"])
