"""Train the toy OPT language model on texts of the training split."""

import math

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import BatchEncoding, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from dataset_builder.toy.texts import draw_document
from dataset_builder.toy.world import BACKGROUNDS, HELD_OUT, SEEN, Combination, Scene


MAX_TOKENS = 96


def build_opt(tokenizer: PreTrainedTokenizerFast) -> OPTForCausalLM:
    """The untrained toy OPT: width 128, six layers, 256 positions."""
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=256,
        dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OPTForCausalLM(config)


def train_opt(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, batch_size: int, device: str
) -> OPTForCausalLM:
    """Train on next tokens of texts that are redrawn for each batch; each text begins and ends with `</s>`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 6])
    model = build_opt(tokenizer)
    nn.Module.to(model, device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=max(0.05, 2 / steps))
    bar = tqdm(range(steps), desc="toy OPT", unit="step")
    for step in bar:
        texts = [draw_document(rng) for _ in range(batch_size)]
        batch = encode(tokenizer, texts).to(device)
        loss = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> BatchEncoding:
    """Right-padded ids and mask of texts, `</s>` at both ends; cut at `MAX_TOKENS`."""
    framed = [f"{text}{tokenizer.eos_token}" for text in texts]  # the tokenizer adds another one in front
    return tokenizer(
        framed, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt", return_token_type_ids=False
    )


@torch.no_grad()
def caption_surprise(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, combinations: list[Combination], device: str
) -> float:
    """Mean negative log-likelihood, in nats per caption, over captions of the combinations with each background."""
    captions = [
        Scene(shape=shape, colour=colour, action=action, background=background).caption
        for shape, colour, action in combinations
        for background in BACKGROUNDS
    ]
    total = 0.0
    for start in range(0, len(captions), 256):
        batch = encode(tokenizer, captions[start : start + 256]).to(device)
        logits = model(**batch).logits[:, :-1].float()
        targets = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
        total += nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="sum").item()
    return total / len(captions)


def text_scores(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, device: str) -> dict[str, float]:
    """Surprise at seen and at held-out captions: a large gap would be a prior against the test split."""
    held_out = caption_surprise(model, tokenizer, sorted(HELD_OUT), device)
    seen = caption_surprise(model, tokenizer, list(SEEN), device)
    return {"nats_per_seen_caption": seen, "nats_per_held_out_caption": held_out, "ratio": math.exp(held_out - seen)}
