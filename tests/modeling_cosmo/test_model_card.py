"""The card says what the config says and what the caller measured, nothing else; its examples run."""

import contextlib
import io
import re

import pytest
import torch
import yaml

from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint
from modeling_cosmo.model_card_cosmo import RELEASED_BEHAVIOURS, make_model_card
from tests.modeling_cosmo.released import Sizes, language_model, released_state
from tests.modeling_cosmo.tiny import build


def header_of(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def section(card, heading):
    return re.search(rf"^## {heading}\n\n(.*?)(?=\n## |\Z)", card, re.DOTALL | re.MULTILINE)[1].strip()


def test_the_examples_run_as_they_stand(model, processor, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    card = make_model_card(model.config, repository=str(folder))
    pictures[0].resize((31, 17)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    printed, names = io.StringIO(), {}
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    caption, cosine = printed.getvalue().splitlines()
    inputs = processor(text="<visual>", images=names["picture"])
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=24)
        text = processor(text=[processor.interleave(["what the picture shows"])], images=[[names["picture"]]])
        out = model(**text)
    assert caption == processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert float(cosine) == pytest.approx((out.text_embeds @ out.vision_embeds.T).item(), abs=1e-5)


def test_counts_are_those_of_the_model(model):
    rows = re.findall(r"^\| ([a-z -]+) \| ([\d,]+) \|$", make_model_card(model.config), re.MULTILINE)
    counts = {name: int(count.replace(",", "")) for name, count in rows}
    assert counts.pop("all") == sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["resampler"] == sum(p.numel() for p in model.model.resampler.parameters())
    assert counts["vision tower"] == sum(p.numel() for p in model.model.vision_tower.parameters())


def test_every_number_comes_from_the_config_or_is_a_count(model):
    card = make_model_card(model.config, "A model")
    text = re.sub(r"```.*?```|\[arXiv.*?\)", "", card, flags=re.DOTALL)
    config = model.config
    known = {parameter.numel() for parameter in model.parameters()} | {
        config.vision_config.num_hidden_layers, config.vision_config.hidden_size, config.vision_config.image_size,
        config.text_config.num_hidden_layers, config.text_config.hidden_size, config.text_config.vocab_size,
        config.resampler_depth, config.num_visual_tokens, config.max_frames, config.shared_dim,
        config.text_embedding_depth, *config.block_positions,
    }  # fmt: skip
    table = {int(count.replace(",", "")) for count in re.findall(r"\| ([\d,]+) \|", text)}
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}
    assert numbers - table <= known
    assert section(card, "Results") == "Nothing was measured."


def test_only_what_is_known_is_in_the_header(model):
    header = header_of(make_model_card(model.config))
    assert header.keys() == {"library_name", "pipeline_tag", "tags"}
    assert (header["library_name"], header["pipeline_tag"]) == ("transformers", "image-text-to-text")
    known = {"license": "mit", "base_model": ["facebook/opt-125m", "openai/clip-vit-large-patch14"]}
    assert header_of(make_model_card(model.config, **known)) == header | known


def test_results_and_limits_stand_as_given(model):
    card = make_model_card(
        model.config, "Mine", about="Of pictures.", results="| a |\n| --- |\n| 1 |\n", limits="None."
    )
    assert "# Mine\n\nOf pictures.\n\n## Use" in card
    assert section(card, "Results") == "| a |\n| --- |\n| 1 |"
    assert section(card, "Limits") == "None."


def test_a_model_without_contrastive_head_or_processor(processor):
    config = build("opt", processor, contrastive=False, only_attend_immediate_media=False).config
    card = make_model_card(config)
    assert "get_text_features" not in card
    assert "no contrastive head" in card
    assert "to all media so far" in card
    bare = make_model_card(config, has_processor=False)
    assert "```" not in bare
    assert section(bare, "Use") == "The folder holds the model alone, without a processor."


def test_a_converted_model_names_what_it_does_as_released(model, tmp_path):
    sizes = Sizes(kind="mistral", interval=2)
    torch.save(released_state(sizes, language_model(sizes, 1), 1), tmp_path / "weights.pt")
    convert_checkpoint(tmp_path / "weights.pt", sizes.architecture(), tmp_path / "model")
    config = CosmoConfig.from_pretrained(tmp_path / "model")
    card = make_model_card(config)
    assert "language model: mistral, 5 layers, width 12, 41 tokens" in card
    assert "gated cross-attention before layers [2, 4], to the latest medium" in card
    assert "texts are embedded after 1 layers" in card
    for name, meaning in RELEASED_BEHAVIOURS.items():
        assert (f"as released: {meaning}" in card) is getattr(config, name)
        assert meaning not in make_model_card(model.config), "a new model does none of them"
    total = sum(p.numel() for p in CosmoForConditionalGeneration.from_pretrained(tmp_path / "model").parameters())
    assert f"| all | {total:,} |" in card
