"""PEFT's adapters on the language model, on the gated blocks, and on both."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import Trainer

from modeling_cosmo import CosmoDataCollator, CosmoForConditionalGeneration
from tests.modeling_cosmo.tiny import build, open_gates
from tests.modeling_cosmo.trainer_step import KeepGradients, arguments, samples, tiny_processor


TARGETS = {  # what a user would write; a bare ["q_proj", "v_proj"] would also mean the vision tower
    "language_model": r".*language_model.*self_attn\.(q_proj|v_proj)",
    "cross_attention": r".*cross_attention\.attention\.(q_proj|v_proj)",
    "both": r".*language_model.*\.(self_attn|attention)\.(q_proj|v_proj)",
}
WHERE = {"language_model": ("self_attn",), "cross_attention": ("cross_attention",),
         "both": ("self_attn", "cross_attention")}  # fmt: skip
NUM_LAYERS, NUM_BLOCKS = 4, 2
SAME = {"rtol": 1e-5, "atol": 2e-6}  # float32; equal weights elsewhere in memory, where products round differently


@pytest.fixture
def processor():
    return tiny_processor()


@pytest.fixture
def batch(processor):
    return CosmoDataCollator(processor)(samples())


def lora(target, **options):
    return LoraConfig(**{"r": 3, "lora_alpha": 6, "lora_dropout": 0.1, "target_modules": target} | options)


def base_model(processor, **options):
    torch.manual_seed(5)
    return open_gates(build("opt", processor, freeze_towers=True, **options))


def randomise(model):
    """Make adapters look trained: they start as zeros."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def scores(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("place", TARGETS)
def test_an_adapter_trains_saves_loads_and_merges(processor, batch, place, tmp_path):
    expected = scores(base_model(processor), batch)
    model = get_peft_model(base_model(processor), lora(TARGETS[place]))
    assert torch.equal(scores(model, batch), expected), "an untrained adapter changes nothing"
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name and any(part in name for part in WHERE[place]) for name in trained)
    layers = {"language_model": NUM_LAYERS, "cross_attention": NUM_BLOCKS, "both": NUM_LAYERS + NUM_BLOCKS}[place]
    assert len(trained) == layers * 2 * 2, "two projections a layer, two matrices each"
    assert model.trainable_parts()["adapters"][0] == sum(model.get_parameter(name).numel() for name in trained)

    randomise(model).train()(**batch).loss.backward()
    for name in trained:
        assert model.get_parameter(name).grad.abs().max() > 0, name
    with_adapter = scores(model, batch)
    assert (with_adapter - expected).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(processor), tmp_path)
    torch.testing.assert_close(scores(again, batch), with_adapter, **SAME)
    generated = again.generate(**media(batch), max_new_tokens=4)
    with again.disable_adapter():
        torch.testing.assert_close(scores(again, batch), expected, **SAME)
    merged = again.merge_and_unload()
    assert type(merged) is CosmoForConditionalGeneration
    # float32: one product with the sum of two matrices, or the sum of two products
    torch.testing.assert_close(scores(merged, batch), with_adapter, rtol=1e-4, atol=2e-5)
    assert torch.equal(merged.generate(**media(batch), max_new_tokens=4), generated)
    merged.save_pretrained(tmp_path / "merged")
    loaded = CosmoForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(scores(loaded, batch), scores(merged, batch), **SAME)


def media(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def test_parts_of_the_model_train_beside_an_adapter(processor, batch, tmp_path):
    """Resampler, whole blocks with their gates, contrastive head and new tokens: `modules_to_save`."""
    also = ["resampler", "cross_attention", "text_pool", "text_projection", "vision_projection", "new_tokens"]
    options = {"train_new_tokens": True}
    config = lora(TARGETS["language_model"], modules_to_save=also)
    model = get_peft_model(base_model(processor, **options), config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    for part in (*also, "attention_gate"):
        assert any(part in name for name in trained), part
    randomise(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch).loss.backward()
    assert all(model.get_parameter(name).grad is not None for name in trained)
    optimizer.step()
    expected = scores(model, batch)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base_model(processor, **options), tmp_path)
    torch.testing.assert_close(scores(again, batch), expected, **SAME)
    merged = again.merge_and_unload()
    torch.testing.assert_close(scores(merged, batch), expected, rtol=1e-4, atol=2e-5)  # as above
    merged.save_pretrained(tmp_path / "merged")
    plain = CosmoForConditionalGeneration.from_pretrained(tmp_path / "merged", train_new_tokens=False)
    torch.testing.assert_close(scores(plain, batch), expected, rtol=1e-4, atol=2e-5)


def test_dropout_of_an_adapter_stays_on_in_a_frozen_tower(processor, batch):
    model = randomise(get_peft_model(base_model(processor), lora(TARGETS["language_model"], lora_dropout=0.5)))
    model.train()
    with torch.no_grad():
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
    stock = [module for name, module in model.named_modules() if name.endswith("decoder_layer")]
    assert len(stock) == NUM_LAYERS
    assert not any(module.training for module in stock)
    assert not any(module.training for name, module in model.named_modules() if "vision_tower" in name)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("place", TARGETS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # reentrant, below the first trained layer
def test_checkpointing_changes_no_gradient(processor, batch, place, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = randomise(get_peft_model(base_model(processor), lora(TARGETS[place], lora_dropout=0.0)))
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model.train()(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        # float32, the same sums
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
        assert gradient.abs().max() > 0


def test_an_adapter_inside_the_model(processor, batch, tmp_path):
    """transformers' own `add_adapter`, without a wrapper."""
    model = base_model(processor)
    expected = scores(model, batch)
    model.add_adapter(lora(TARGETS["both"]))
    with_adapter = scores(randomise(model), batch)
    assert (with_adapter - expected).abs().max() > 1e-2
    model.disable_adapters()
    assert torch.equal(scores(model, batch), expected)
    model.enable_adapters()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    again = base_model(processor)
    again.load_adapter(str(tmp_path))
    torch.testing.assert_close(scores(again, batch), with_adapter, **SAME)


def test_hooks_of_low_bit_training(processor, batch):
    """What QLoRA scripts call first: all frozen, norms in float32, inputs with gradient."""
    model = prepare_model_for_kbit_training(base_model(processor))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model = get_peft_model(model, lora(TARGETS["both"]))
    randomise(model).train()(**batch).loss.backward()
    adapters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    assert all(parameter.grad.abs().max() > 0 for parameter in adapters)


def test_peft_can_train_rows_of_the_table_itself(processor, batch):
    """PEFT's own way to train new tokens, for those who train adapters only."""
    model = base_model(processor)
    rows = model.config.new_token_ids
    before = model.get_input_embeddings().weight.detach().clone()
    config = lora(TARGETS["language_model"], trainable_token_indices={"embed_tokens": rows})
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    model.train()(**batch).loss.backward()
    optimizer.step()
    table = model.eval().merge_and_unload().get_input_embeddings().weight
    moved = (table != before).any(dim=-1).nonzero().flatten().tolist()
    assert moved == sorted(rows)


def test_trainer_weighs_labels_with_an_adapter(processor, tmp_path):
    """Two unequal parts of a batch equal the whole, as they do without an adapter."""
    gradients = []
    for rows, parts in ((4, 1), (2, 2)):
        model = randomise(get_peft_model(base_model(processor), lora(TARGETS["both"], lora_dropout=0.0)))
        keep, collate = KeepGradients(), CosmoDataCollator(processor)
        options = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": parts}
        Trainer(
            model, arguments(tmp_path, **options), train_dataset=samples(), callbacks=[keep],
            data_collator=lambda batch, collate=collate: collate(batch) | {"compute_contrastive": False},
        ).train()  # fmt: skip
        gradients.append(keep.gradients)
    assert gradients[0]
    for name, gradient in gradients[0].items():
        # float32, another order of sums
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
