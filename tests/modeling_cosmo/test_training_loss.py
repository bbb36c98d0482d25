"""`Trainer` weighs losses the same way however a batch is split into parts and over processes."""

import pytest
import torch
from transformers import Trainer

from modeling_cosmo import CosmoDataCollator
from tests.modeling_cosmo.trainer_step import (
    CASES,
    arguments,
    gradients_of_a_step,
    run_processes,
    samples,
    tiny_model,
    tiny_processor,
)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # float32, sums in another order: some 1e-6 of the largest entry. A wrongly weighted part would show as 0.1.
        scale = float(gradient.abs().max())
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-10), name


def test_the_collator_gives_inputs_and_labels():
    processor = tiny_processor()
    batch = CosmoDataCollator(processor)([*samples()[:2], {"text": "the sea"}])
    visual, end = (processor.tokenizer.convert_tokens_to_ids(token) for token in ("<visual>", "<|endofchunk|>"))
    assert batch["input_ids"][:, 0].tolist()[:2] == [visual, visual], "padding stands on the right"
    counted = batch["labels"] != -100
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    assert torch.equal(counted, (batch["attention_mask"] == 1) & (batch["input_ids"] != visual))
    assert (batch["labels"] == end).sum() == 1
    assert batch["media_mask"].tolist() == [[[True]], [[True]], [[False]]]


def test_words_alone_come_with_an_empty_slot_that_changes_nothing():
    """Not one bit of the logits; every part that trains gets a gradient, even if it is zero."""
    processor = tiny_processor()
    model, batch = tiny_model(processor).eval(), CosmoDataCollator(processor)(samples(words_alone=4))
    assert batch["media_mask"].tolist() == [[[False]]] * 4
    words = {name: value for name, value in batch.items() if name not in ("pixel_values", "media_mask")}
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**words).logits)
    out = model(**batch)
    assert out.contrastive_loss.item() == 0.0
    assert torch.equal(out.loss, out.lm_loss)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_samples_without_a_medium_have_no_part_in_the_contrastive_loss():
    processor = tiny_processor()
    model, collate = tiny_model(processor).eval(), CosmoDataCollator(processor)
    with torch.no_grad():
        mixed, pairs = (model(**collate(part)).contrastive_loss for part in (samples(2), samples()[:2]))
    # float32, after padding to another length: a few roundings of 1e-7
    assert mixed.item() == pytest.approx(pairs.item(), rel=1e-5)


def test_the_collator_names_a_sample_whose_media_are_no_list():
    """The error must not be that an array has no truth value."""
    sample = {"text": "<visual><visual>a", "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"sample 0: cannot read images given as Tensor of shape \(2, 3, 8, 8\)"):
        CosmoDataCollator(tiny_processor())([sample, sample])


def test_parts_of_a_batch_weigh_by_their_labels(tmp_path):
    """Two parts with unequal numbers of labels give the gradient of the whole batch's mean over labels."""
    assert_close(gradients_of_a_step(tmp_path, 2, 2, False), gradients_of_a_step(tmp_path, 4, 1, False))


def test_the_contrastive_loss_counts_once_under_accumulation(tmp_path):
    """Its gradient is a mean over the parts. Counted once per part it would double, and `Trainer` gives no hint."""
    parts = []
    both, lm_alone = gradients_of_a_step(tmp_path, 2, 2, True, seen=parts), gradients_of_a_step(tmp_path, 2, 2, False)
    model = tiny_model(tiny_processor())
    shares = torch.tensor([float((part["labels"][:, 1:] != -100).sum()) for part in parts])
    for part, share in zip(parts, shares / shares.sum(), strict=True):
        (share * model.train()(**part).contrastive_loss).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected, found = parameter.grad, both[name] - lm_alone.get(name, 0.0)
            # a difference of two gradients: float32 rounding of the larger
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(both[name].abs().max()) + 1e-9), name


def test_a_part_without_labels_adds_nothing():
    """Such as a long prompt that is masked: it gives neither a gradient nor a NaN."""
    processor = tiny_processor()
    batch = CosmoDataCollator(processor)(samples()[:2])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    model = tiny_model(processor)
    out = model(**batch, num_items_in_batch=torch.tensor(9))
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.timeout(300)
def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    """Two processes with two rows, or one row twice, for either loss, against one process with four rows.

    Also if the second process has text only: both take part in the contrastive loss, or one would wait forever.
    """
    run_processes("tests.modeling_cosmo.trainer_step", tmp_path, *CASES)
    kinds = {case[2:] for case in CASES.values()}
    whole = {kind: gradients_of_a_step(tmp_path, 4, 1, *kind) for kind in kinds}
    for name, case in CASES.items():
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert_close({key.removeprefix("module."): grad for key, grad in found.items()}, whole[case[2:]])


def test_evaluation_reports_the_mean_over_labels(tmp_path):
    processor = tiny_processor()
    model, collate = tiny_model(processor), CosmoDataCollator(processor)
    trainer = Trainer(model, arguments(tmp_path, per_device_eval_batch_size=4), data_collator=collate)
    with torch.no_grad():
        expected = model.eval()(**collate(samples())).loss.item()
    assert trainer.evaluate(samples())["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_find_the_logits_first_in_predictions(tmp_path):
    """As the examples of transformers do; one batch is text only and has no contrastive loss."""
    processor, compared = tiny_processor(), []
    model, collate = tiny_model(processor), CosmoDataCollator(processor)
    batch = [*samples()[:2], {"text": "a blue ring grows"}]

    def compute_metrics(prediction):
        compared.append((prediction.predictions, prediction.label_ids))
        return {}

    trainer = Trainer(
        model,
        arguments(tmp_path, per_device_eval_batch_size=2),
        data_collator=collate,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[0].argmax(dim=-1),
    )
    trainer.evaluate(batch)
    ((predictions, labels),) = compared
    assert predictions.shape == labels.shape
    with torch.no_grad():
        expected = model.eval()(**collate(batch[:2])).logits.argmax(dim=-1)
    assert predictions[:2].tolist() == expected.tolist()
