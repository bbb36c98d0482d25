"""CosMo inside transformers' own tools."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from tests.modeling_cosmo.tiny import build, tiny_language_model, tiny_tokenizer, tiny_vision


def test_pipeline_generates(model, processor, pictures, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("image-text-to-text", model=str(tmp_path))
    chat = [{"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "a red"}]}]
    answer = pipe(text=chat, max_new_tokens=4)[0]["generated_text"][-1]
    assert answer["role"] == "assistant"
    inputs = processor(text="<visual>a red", images=pictures[:1])
    expect = processor.decode(model.generate(**inputs, max_new_tokens=4)[0, -4:], skip_special_tokens=True)
    assert answer["content"] == expect


def test_trainer_averages_over_accumulation(processor, pictures, tmp_path):
    """Two steps of accumulation over the same batch give the gradient of one: each loss is a mean."""
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    labels = processor.build_labels(inputs["input_ids"], inputs["attention_mask"])
    rows = [{name: value[row] for name, value in (inputs | {"labels": labels}).items()} for row in range(2)]
    norms = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = build("opt", processor)
        model.freeze_towers()
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=accumulation,
            report_to=[], use_cpu=True, logging_steps=1, save_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows * accumulation)
        trainer.get_train_dataloader = lambda rows=rows, n=accumulation: [
            {name: torch.stack([row[name] for row in rows]) for name in rows[0]} for _ in range(n)
        ]
        trainer.train()
        norms.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_a_whole_clip_serves_as_vision_tower(processor, tmp_path):
    """From a folder with both towers of CLIP in half precision, the vision tower is taken, in full precision."""
    vision = tiny_vision().config.to_dict()
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
            "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).half()
    clip.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    own = CosmoProcessor.from_towers(tmp_path, tiny_tokenizer())
    model = CosmoForConditionalGeneration.from_towers(tmp_path, tiny_language_model("opt"), own)
    assert model.dtype == torch.float32
    expect = clip.vision_model.float().state_dict()
    assert all(torch.equal(value, expect[name]) for name, value in model.model.vision_tower.state_dict().items())
    assert own(images=[[torch.zeros(3, 9, 9, dtype=torch.uint8)]])["pixel_values"].shape[-1] == 8


def test_siglip_serves_as_vision_tower(processor):
    """SigLIP has no class token and normalises its patch tokens itself."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=10, intermediate_size=14, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    tower = SiglipVisionModel(config).eval()
    with pytest.raises(ValueError, match="set patch_tokens='after_ln_post'"):
        build("opt", processor, vision=tower)
    model = build("opt", processor, vision=tower, patch_tokens="after_ln_post")
    frames = torch.randn(1, 2, 1, 3, 8, 8)
    with torch.no_grad():
        expect = tower(frames[0, :, 0]).last_hidden_state
        torch.testing.assert_close(model.encode_frames(frames)[0, :, 0], expect)


@pytest.mark.parametrize("missing", ["layers", "head"])
def test_a_tower_that_cannot_serve_says_what_is_missing(processor, missing):
    language_model = tiny_language_model("opt")
    if missing == "layers":
        del language_model.model.decoder.layers[3]
        message = "OPTModel has no ModuleList of 4 decoder layers"
    else:
        language_model = language_model.model
        message = "OPTModel is not a causal language model"
    with pytest.raises(ValueError, match=message):
        CosmoForConditionalGeneration.from_towers(tiny_vision(), language_model, processor)


def test_bfloat16(model, processor, pictures):
    inputs = processor(text=["<visual>a red star", "<visual>a"], images=[pictures[:1], pictures[1:2]])
    with torch.no_grad():
        full = model(**inputs, labels=inputs["input_ids"])
        half = model.to(torch.bfloat16)(**inputs, labels=inputs["input_ids"])
    assert half.logits.dtype == torch.bfloat16
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.02)  # 8 bits of mantissa: 0.4 % a rounding
