"""The next-token loss against torch's own cross-entropy."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from modeling_cosmo.loss_cosmo import CHUNK, next_token_loss


ROWS, LENGTH, VOCABULARY = 3, 2 * CHUNK // 3 + 5, 11  # two whole chunks and a remainder


@pytest.fixture
def labels():
    torch.manual_seed(0)
    labels = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    labels[:, ::7] = -100
    return labels


def expected(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_value_and_gradient_in_double_precision(labels):
    logits = torch.randn(ROWS, LENGTH, VOCABULARY, dtype=torch.float64, requires_grad=True)
    own, reference = next_token_loss(logits, labels, VOCABULARY), expected(logits, labels)
    torch.testing.assert_close(own, reference)
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (own, reference))
    torch.testing.assert_close(*gradients)


def test_half_precision_is_as_if_in_single(labels):
    """Sums are in float32; only the gradient is rounded to the 8 bits of bfloat16 (one part in 256)."""
    logits = torch.randn(ROWS, LENGTH, VOCABULARY).bfloat16().requires_grad_()
    own, reference = next_token_loss(logits, labels, VOCABULARY), expected(logits.float(), labels)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own, reference, rtol=1e-6, atol=0)
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (own, reference))
    torch.testing.assert_close(*gradients, rtol=2**-7, atol=1e-9)


def test_only_the_logits_are_kept(labels):
    kept = []
    logits = torch.randn(ROWS, LENGTH, VOCABULARY, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        next_token_loss(logits, labels, VOCABULARY)
    of_their_size = {tensor.data_ptr() for tensor in kept if tensor.numel() >= logits.numel()}
    assert of_their_size == {logits.data_ptr()}


def test_the_sum_is_divided_by_the_number_given(labels):
    logits = torch.randn(ROWS, LENGTH, VOCABULARY)
    count = (labels[:, 1:] != -100).sum()
    whole = next_token_loss(logits, labels, VOCABULARY)
    torch.testing.assert_close(next_token_loss(logits, labels, VOCABULARY, num_items_in_batch=2 * count), whole / 2)
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    assert next_token_loss(logits, labels[:, :0], VOCABULARY, shift_labels=shifted) == whole


def test_no_label_at_all_gives_zero_and_no_gradient():
    logits = torch.randn(2, 3, VOCABULARY, requires_grad=True)
    loss = next_token_loss(logits, torch.full((2, 3), -100), VOCABULARY)
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_second_derivatives(labels):
    labels = labels[:2, : CHUNK // 2 + 3]
    logits = torch.randn(*labels.shape, VOCABULARY, dtype=torch.float64, requires_grad=True)
    seconds = []
    for loss in (next_token_loss(logits, labels, VOCABULARY), expected(logits, labels)):
        [first] = torch.autograd.grad(loss, logits, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum() + loss, logits)[0])
    torch.testing.assert_close(*seconds)


def test_under_autocast_as_outside_it(labels):
    """Sums stay in float32, even in a backward pass that runs under autocast."""
    logits = torch.randn(ROWS, LENGTH, VOCABULARY, requires_grad=True)
    outside = next_token_loss(logits, labels, VOCABULARY)
    [gradient] = torch.autograd.grad(outside, logits)
    with torch.autocast("cpu", torch.bfloat16):
        inside = next_token_loss(logits, labels, VOCABULARY)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, outside)
        assert torch.equal(torch.autograd.grad(inside, logits)[0], gradient)


def test_logits_in_any_layout(labels):
    """A transposed view and rows that share their memory."""
    logits = torch.randn(VOCABULARY, LENGTH, ROWS, dtype=torch.float64, requires_grad=True)
    shared = torch.randn(1, LENGTH, VOCABULARY, dtype=torch.float64, requires_grad=True)
    for leaf, view in ((logits, logits.permute(2, 1, 0)), (shared, shared.expand(ROWS, -1, -1))):
        own, reference = next_token_loss(view, labels, VOCABULARY), expected(view, labels)
        torch.testing.assert_close(own, reference)
        torch.testing.assert_close(torch.autograd.grad(own, leaf)[0], torch.autograd.grad(reference, leaf)[0])


@pytest.mark.parametrize("shape", [(0, 5), (3, 1)])
def test_nothing_to_predict_gives_zero_and_no_gradient(shape):
    logits = torch.randn(*shape, VOCABULARY, requires_grad=True)
    loss = next_token_loss(logits, torch.ones(shape, dtype=torch.long), VOCABULARY)
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("surplus", [1, 2 * CHUNK])
def test_more_labels_than_tokens_are_refused(surplus):
    logits, labels = torch.randn(1, CHUNK, VOCABULARY), torch.zeros(1, CHUNK + surplus, dtype=torch.long)
    with pytest.raises(ValueError, match=f"^{CHUNK + surplus} labels for the logits of {CHUNK} tokens$"):
        next_token_loss(logits, labels, VOCABULARY)
