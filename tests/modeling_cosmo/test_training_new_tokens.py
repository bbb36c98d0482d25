"""The embeddings of new tokens train; the table around them does not change by one bit."""

import pytest
import torch
from transformers import Trainer

from modeling_cosmo import CosmoConfig, CosmoDataCollator, CosmoForConditionalGeneration
from tests.modeling_cosmo.tiny import build, open_gates
from tests.modeling_cosmo.trainer_step import KeepGradients, arguments, samples, tiny_processor


KINDS = {"opt": True, "gpt_neox": False}  # language model -> whether its head is tied


def tables_of(model):
    return {"table": model.get_input_embeddings().weight, "head": model.lm_head.weight}


def train(model, processor, folder, **options):
    settings = {"max_steps": 3, "learning_rate": 0.05, "weight_decay": 0.3, "per_device_train_batch_size": 2}
    keep = KeepGradients()
    trainer = Trainer(
        model,
        arguments(folder, **settings | options),
        data_collator=CosmoDataCollator(processor),
        train_dataset=samples(),
        callbacks=[keep],
    )
    trainer.train()
    return trainer, keep.gradients


@pytest.fixture
def processor():
    return tiny_processor()


def test_untrained_it_changes_nothing(processor):
    inputs = processor(text=[row["text"] for row in samples()], images=[row["images"] for row in samples()])
    for kind in KINDS:
        plain, trainable = (build(kind, processor, train_new_tokens=switch) for switch in (False, True))
        trainable.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert torch.equal(trainable(**inputs).logits, plain(**inputs).logits)
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            features = [model.get_text_features(ids, mask).pooler_output for model in (plain, trainable)]
        assert torch.equal(*features)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_table_gradient_of_the_new_rows(processor, kind):
    """Compared with a model whose whole table trains: the new tokens' rows of its gradient."""
    batch = CosmoDataCollator(processor)(samples())
    model = open_gates(build(kind, processor, freeze_towers=True, train_new_tokens=True))
    model(**batch).loss.backward()
    new = model.model.new_tokens
    whole = build(kind, processor).eval()
    whole.load_state_dict({name: value for name, value in model.state_dict().items() if "new_tokens" not in name})
    whole(**batch).loss.backward()
    rows = model.config.new_token_ids
    gradients = {name: table.grad[rows] for name, table in tables_of(whole).items()}
    close = {"rtol": 1e-4, "atol": 1e-6}  # float32, another order of sums
    torch.testing.assert_close(new.input_change.grad, gradients["table"], **close)
    if not KINDS[kind]:
        torch.testing.assert_close(new.output_change.grad, gradients["head"], **close)
    assert gradients["table"].abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_new_rows_and_no_other_bit(processor, kind, tmp_path):
    """With `Trainer` and weight decay, and after saving, which gives a plain folder."""
    torch.manual_seed(5)
    model = open_gates(build(kind, processor, freeze_towers=True, train_new_tokens=True))
    before = {name: table.detach().clone() for name, table in tables_of(model).items()}
    train(model, processor, tmp_path)
    assert all(torch.equal(table, before[name]) for name, table in tables_of(model).items())
    assert all(table.grad is None for table in tables_of(model).values()), "no gradient of the whole table"
    model.eval().save_pretrained(tmp_path / "model")
    plain = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model", train_new_tokens=False)
    assert plain.state_dict().keys() == {name for name in model.state_dict() if "new_tokens" not in name}
    new = torch.zeros(len(before["table"]), dtype=torch.bool)
    new[model.config.new_token_ids] = True
    for name, table in tables_of(plain).items():
        assert torch.equal(table[~new], before[name][~new])
        assert (table[new] - before[name][new]).abs().min(dim=-1).values.gt(0).all()
    again = CosmoForConditionalGeneration.from_pretrained(tmp_path / "model")
    inputs = processor(text=[row["text"] for row in samples()], images=[row["images"] for row in samples()])
    with torch.no_grad():
        expected = model(**inputs).logits
        for loaded in (plain, again):
            # float32: a change added to a row before the product or after it
            torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.generate(**inputs, max_new_tokens=5), plain.generate(**inputs, max_new_tokens=5))
    assert trained_names(again) == trained_names(model)


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_saving_does_not_disturb_training(processor, tmp_path):
    model = open_gates(build("opt", processor, freeze_towers=True, train_new_tokens=True))
    train(model, processor, tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "model")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_that_was_freed_from_the_table_is_saved(processor, tmp_path):
    """PEFT unties them when it merges a head or a table that it trained in a copy."""
    model = build("opt", processor, train_new_tokens=True)
    inputs = processor(text=[row["text"] for row in samples()], images=[row["images"] for row in samples()])
    with torch.no_grad():
        model.model.new_tokens.input_change.normal_()
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + torch.randn_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
        model.save_pretrained(tmp_path)
        found = CosmoForConditionalGeneration.from_pretrained(tmp_path)(**inputs).logits
        # float32: a change is added to its row instead of to the row's output
        torch.testing.assert_close(found, model(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_trainer_goes_on_from_its_checkpoint(processor, tmp_path):
    """Without weight decay, a resumed run ends like one that never stopped."""
    ends = []
    for resume in (False, True):
        torch.manual_seed(5)
        model = open_gates(build("opt", processor, freeze_towers=True, train_new_tokens=True))
        options = {"weight_decay": 0.0, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
        folder = tmp_path / str(resume)
        if resume:
            train(model, processor, folder, max_steps=2, lr_scheduler_type="constant", **options)
            torch.manual_seed(5)
            model = open_gates(build("opt", processor, freeze_towers=True, train_new_tokens=True))
        trainer = Trainer(
            model, arguments(folder, max_steps=3, learning_rate=0.05, per_device_train_batch_size=2,
                             lr_scheduler_type="constant", **options),
            data_collator=CosmoDataCollator(processor), train_dataset=samples(),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        model.save_pretrained(folder / "model")
        ends.append(CosmoForConditionalGeneration.from_pretrained(folder / "model", train_new_tokens=False))
    for (name, never), (_, resumed) in zip(ends[0].named_parameters(), ends[1].named_parameters(), strict=True):
        # a change is rounded when it is added to its row, and AdamW enlarges that if a gradient is near zero; a lost
        # row or moment would show as a whole step, 0.05
        torch.testing.assert_close(resumed, never, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_resizing_the_vocabulary_keeps_them(processor, kind):
    model = open_gates(build(kind, processor, freeze_towers=True, train_new_tokens=True))
    inputs = processor(text=[samples()[1]["text"]], images=[samples()[1]["images"]])
    with torch.no_grad():
        model.model.new_tokens.input_change.normal_()
        expected = model(**inputs).logits
        size = expected.shape[-1]
        model.resize_token_embeddings(size + 5)
        found = model(**inputs).logits
    assert found.shape[-1] == size + 5
    torch.testing.assert_close(found[..., :size], expected, rtol=1e-5, atol=1e-6)


def test_other_precisions(processor):
    model = open_gates(build("opt", processor, freeze_towers=True, train_new_tokens=True)).to(torch.bfloat16)
    batch = CosmoDataCollator(processor)(samples()[:2])
    model.train()(**batch).loss.backward()
    assert model.model.new_tokens.input_change.grad.abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        build("opt", processor, freeze_towers=True, train_new_tokens=True).train()(**batch).loss.backward()


def test_without_a_placeholder_there_are_no_new_tokens(processor):
    config = build("opt", processor).config
    with pytest.raises(ValueError, match="train_new_tokens needs visual_token_id"):
        CosmoConfig(vision_config=config.vision_config, text_config=config.text_config, train_new_tokens=True)


@pytest.mark.parametrize("kind", ["gemma", "gemma3_text"])
def test_a_table_that_scales_its_rows_is_refused(processor, kind):
    """Its rows are scaled by sqrt(width) when read: saving a change into a row would scale the change too."""
    with pytest.raises(ValueError, match=r"^train_new_tokens is not possible with Gemma.* train_new_tokens=False$"):
        build(kind, processor, freeze_towers=True, train_new_tokens=True)
    assert build(kind, processor, freeze_towers=True).model.new_tokens is None
