"""Speeds of the parts on this machine, each measured for a few seconds at the quickstart's sizes: `make bench`.

Weights are random, since speed does not depend on them. Towers and model have the sizes of the toy world.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, OPTConfig, OPTForCausalLM

from dataset_builder.toy.videos import write_toy_videos
from dataset_builder.video.decode import frames_at, middle_times
from modeling_cosmo import CosmoForConditionalGeneration


SECONDS_EACH = 4.0
NUM_FRAMES, SIDE_PX, NUM_TOKENS, VOCABULARY = 6, 64, 24, 600
VISUAL_TOKEN = 5


def measure(name: str, unit: str, num_per_call: int, call: Callable[[], object]) -> None:
    """Call once to warm up, then repeatedly for some seconds, and print the rate."""
    call()
    started, num_calls = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - started) < SECONDS_EACH:
        call()
        num_calls += 1
    rate = num_calls * num_per_call / elapsed_s
    print(f"{name:<44} {rate:>9.1f} {unit}", flush=True)


def toy_model() -> CosmoForConditionalGeneration:
    """Build a model of the quickstart's size, with random weights and frozen towers."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE_PX,
        patch_size=8,
    )
    text = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    model = CosmoForConditionalGeneration.from_towers(
        CLIPVisionModel(vision),
        OPTForCausalLM(text),
        visual_token_id=VISUAL_TOKEN,
        unimodal_depth=3,
        resampler_depth=2,
        resampler_heads=4,
        resampler_head_dim=32,
        num_visual_tokens=16,
        cross_attention_heads=4,
        cross_attention_head_dim=32,
        shared_dim=128,
        max_frames=NUM_FRAMES,
    )
    model.freeze_towers()
    return model


def bench_videos(folder: Path) -> None:
    """Measure rendering and decoding, each in one process."""
    calls = iter(range(1000))

    def render() -> None:
        write_toy_videos(folder / str(next(calls)), 6, seed=0, workers=1, progress=False)

    measure("render toy videos", "videos/s per core", 6, render)
    video = next(folder.rglob("*.mp4"))
    measure(
        f"decode {NUM_FRAMES} frames of 3 s", "clips/s", 1, lambda: frames_at(video, middle_times(0, 3, NUM_FRAMES))
    )


def bench_model() -> None:
    """Measure the tower, a training step on its cached output, and captions."""
    model: Any = toy_model()
    pixels = torch.randn(16, 1, NUM_FRAMES, 3, SIDE_PX, SIDE_PX)
    with torch.no_grad():
        features = model.encode_frames(pixels).repeat(6, 1, 1, 1, 1)  # 96 clips
    ids = torch.randint(6, VOCABULARY, (96, NUM_TOKENS))
    ids[:, 1] = VISUAL_TOKEN
    prompt = torch.tensor([[2, VISUAL_TOKEN]] * 16)

    def encode() -> None:
        with torch.inference_mode():
            model.encode_frames(pixels)

    def step() -> None:
        model.train()
        model(input_ids=ids, vision_features=features, labels=ids).loss.backward()
        model.zero_grad()

    def caption() -> None:
        model.eval()
        model.generate(prompt, vision_features=features[:16], min_new_tokens=16, max_new_tokens=16, do_sample=False)

    measure("vision tower", "frames/s", 16 * NUM_FRAMES, encode)
    measure("training step on cached features", "clips/s", 96, step)
    measure("greedy captions of 16 tokens, batch 16", "captions/s", 16, caption)


def main() -> None:
    """Run all benchmarks and print a line for each."""
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        bench_videos(Path(folder))
    bench_model()


if __name__ == "__main__":
    main()
