"""The example of `Trainer` with LoRA runs unchanged and learns to see."""

import importlib.util
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, set_seed


FILE = Path(__file__).parents[2] / "examples" / "finetune_trainer.py"


@pytest.mark.slow  # 75 s on one core: two hundred steps, of which the first hundred learn only words
@pytest.mark.timeout(900)
def test_it_learns_to_name_what_it_never_saw(tmp_path, capsys):
    """Pairs of colour and shape that training never showed are named from the picture, not from habit."""
    spec = importlib.util.spec_from_file_location("finetune_trainer", FILE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert not set(example.SEEN) & set(example.UNSEEN)
    scores = example.main(tmp_path, max_steps=200)
    assert scores["loss_after"] < 0.3 * scores["loss_before"]
    assert scores["right"] > 0.8
    assert scores["right_with_another_picture"] < 0.1, "the caption follows the picture"
    printed = capsys.readouterr().out
    losses = [float(line.split("'loss': '")[1].split("'")[0]) for line in printed.splitlines() if "'loss': " in line]
    assert losses[-1] < 0.5 * losses[0]
    assert "before: " in printed
    assert "after: " in printed

    test = example.draw_pictures(example.UNSEEN, 14, seed=2)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    captions = example.caption(merged, processor, test)
    assert example.share_right(captions, test) > 0.8
    set_seed(0)  # as in the example: new tokens' rows are drawn, and the adapter holds only what training changed
    base, _ = example.join_towers()
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    inputs = processor(text=[sample["text"] for sample in test], images=[sample["images"] for sample in test])
    with torch.no_grad():
        logits = [model.eval()(**inputs).logits[inputs["attention_mask"].bool()] for model in (merged, adapted)]
    # float32: merged weights are rounded once more; a greedy caption may flip at a near tie, so logits compare
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
