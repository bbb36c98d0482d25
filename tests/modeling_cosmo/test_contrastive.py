import math

import pytest
import torch
from torch import distributed, multiprocessing

from modeling_cosmo.contrastive_cosmo import contrastive_loss, gather_rows


def loss_by_definition(vision, text, scale):
    """Scalar float64 arithmetic, no torch ops."""
    unit = lambda v: [x / math.sqrt(sum(y * y for y in v)) for x in v]
    vision, text = [unit(v) for v in vision.tolist()], [unit(t) for t in text.tolist()]
    dot = [[scale * sum(a * b for a, b in zip(v, t, strict=True)) for t in text] for v in vision]
    nll = lambda row, i: math.log(sum(math.exp(x) for x in row)) - row[i]
    rows = sum(nll(row, i) for i, row in enumerate(dot))
    columns = sum(nll([row[i] for row in dot], i) for i in range(len(dot)))
    return (rows + columns) / (2 * len(dot))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_loss_matches_the_definition(batch):
    generator = torch.Generator().manual_seed(batch)
    vision, text = torch.randn(2, batch, 13, generator=generator, dtype=torch.float64)
    # float32 inside: a few roundings of 1e-7
    assert contrastive_loss(vision, text, torch.tensor(4.0)).item() == pytest.approx(
        loss_by_definition(vision, text, 4.0), abs=1e-6
    )


def test_uninformative_embeddings_cost_log_batch():
    same = torch.ones(8, 13)
    assert contrastive_loss(same, same, torch.tensor(9.0)).item() == pytest.approx(math.log(8), abs=1e-6)


def test_rows_that_are_no_pair_are_left_out():
    generator = torch.Generator().manual_seed(3)
    vision, text = torch.randn(2, 5, 13, generator=generator).requires_grad_().unbind()
    is_pair = torch.tensor([True, False, True, True, False])
    loss = contrastive_loss(vision, text, torch.tensor(4.0), is_pair)
    # float32 inside: a few roundings of 1e-7
    assert loss.item() == pytest.approx(loss_by_definition(vision[is_pair], text[is_pair], 4.0), abs=1e-6)
    none = contrastive_loss(vision, text, torch.tensor(4.0), torch.zeros(5, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(none, vision)
    assert none.item() == 0.0
    assert not gradient.any()


def test_unpaired_embeddings_are_named():
    with pytest.raises(ValueError, match=r"\(2, 13\) and \(3, 13\)"):
        contrastive_loss(torch.ones(2, 13), torch.ones(3, 13), torch.tensor(1.0))


def whole_batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 6, 13, generator=generator)


def gradient_on(rank, path, folder):
    """One of two processes: the loss over all samples, and the gradients as data parallelism averages them."""
    distributed.init_process_group("gloo", store=distributed.FileStore(path, 2), rank=rank, world_size=2)
    vision, text = whole_batch()[:, 3 * rank : 3 * rank + 3].clone().requires_grad_().unbind()
    vision.retain_grad()
    text.retain_grad()
    scale = torch.tensor([0.5], requires_grad=True)
    loss = contrastive_loss(gather_rows(vision), gather_rows(text), scale.exp())
    loss.backward()
    torch.save({"loss": loss.detach(), "vision": vision.grad / 2, "text": text.grad / 2, "scale": scale.grad},
               f"{folder}/{rank}.pt")  # fmt: skip
    distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_are_as_one_with_the_whole_batch(tmp_path):
    """Each sample is on one process, so averaging over two halves the gradient that gathering doubles."""
    multiprocessing.start_processes(
        gradient_on, args=(str(tmp_path / "meet"), str(tmp_path)), nprocs=2, start_method="fork"
    )
    vision, text = (part.clone().requires_grad_() for part in whole_batch())
    scale = torch.tensor([0.5], requires_grad=True)
    loss = contrastive_loss(vision, text, scale.exp())
    loss.backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for part in parts:  # float32, sums in the same order
        torch.testing.assert_close(part["loss"], loss.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(part["scale"], scale.grad, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat([part["vision"] for part in parts]), vision.grad, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(torch.cat([part["text"] for part in parts]), text.grad, atol=1e-7, rtol=1e-5)
