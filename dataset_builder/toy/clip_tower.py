"""Train the toy CLIP tower: contrastively on single frames, with attribute heads as helpers.

Axes: N frames, C captions, S side in pixels, P patches, D width.
"""

import io
from dataclasses import dataclass

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from dataset_builder.toy.render import draw_look, draw_pose, render_step
from dataset_builder.toy.texts import describe_frame
from dataset_builder.toy.videos import encode_mp4
from dataset_builder.toy.world import BACKGROUNDS, COLOURS, HELD_OUT, SEEN, SHAPES, Combination, Scene


SIZE_PX = 64
FRAMES_PER_SCENE = 6
"""Frames of one scene in the pool; more scenes teach more than more frames per scene."""
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
"""Normalisation of pixels in [0, 1], the same for the three channels; also written into the image processor."""
HEADS = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "background": tuple(BACKGROUNDS)}


@dataclass(frozen=True)
class FramePool:
    """Frames that were encoded in H.264 and decoded, uint8 (N, S, S, 3), and the scene that each shows."""

    frames: NDArray[np.uint8]
    scenes: list[Scene]


def draw_pool(num_scenes: int, combinations: list[Combination], rng: np.random.Generator) -> FramePool:
    """Draw frames of random scenes in which the object is visible, encoded and decoded as in a video."""
    frames: list[NDArray[np.uint8]] = []
    scenes: list[Scene] = []
    while len(scenes) < num_scenes * FRAMES_PER_SCENE:
        drawn = [_draw_moments(combinations, rng) for _ in range(32)]
        frames.append(_through_h264(np.concatenate([moments for _, moments in drawn])))
        scenes += [scene for scene, moments in drawn for _ in moments]
    return FramePool(frames=np.concatenate(frames), scenes=scenes)


def _draw_moments(combinations: list[Combination], rng: np.random.Generator) -> tuple[Scene, NDArray[np.uint8]]:
    shape, colour, action = combinations[rng.integers(len(combinations))]
    scene = Scene(shape=shape, colour=colour, action=action, background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))])
    appearance = draw_look(rng)
    pose = draw_pose(action, appearance, 32, rng)
    visible = np.flatnonzero(pose.opacity > 0.99)
    chosen = rng.choice(visible, size=FRAMES_PER_SCENE, replace=False)
    pose = type(pose)(**{name: value[chosen] for name, value in vars(pose).items()})
    return scene, render_step(scene, appearance, pose, SIZE_PX)


def _through_h264(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    encode_mp4(frames, buffer)
    buffer.seek(0)
    with av.open(buffer, mode="r") as container:
        return np.stack([np.asarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)])


def build_clip(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """The untrained toy CLIP: 64 px, patches of 8 px, width 128, four layers; one text layer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE_PX,
        "patch_size": 8,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    config._attn_implementation = "eager"  # its backward pass is twice as fast as sdpa's in bf16 on a CPU
    return CLIPModel(config)


class _Helpers(nn.Module):
    """Attribute heads on the mean patch token: they make the patch tokens, not only the class token, encode shapes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in HEADS.items()})

    def forward(self, patches: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        pooled = self.norm(patches.mean(dim=1))  # (N, D)
        losses = [F.cross_entropy(head(pooled).float(), labels[name]) for name, head in self.heads.items()]
        return torch.stack(losses).sum()


def train_clip(
    tokenizer: PreTrainedTokenizerFast, *, seed: int, steps: int, batch_size: int, num_scenes: int, device: str
) -> CLIPModel:
    """Train the toy CLIP on frames of the seen combinations.

    The loss is CLIP's, in which every caption that is true of a frame counts as its partner, plus a cross-entropy for
    each attribute from the mean patch token.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    pool = draw_pool(num_scenes, list(SEEN), rng)
    model, helpers = build_clip(tokenizer), _Helpers(128).to(device)
    nn.Module.to(model, device)
    parameters = [*model.parameters(), *helpers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.5e-3, total_steps=steps, pct_start=max(0.05, 2 / steps)
    )
    bar = tqdm(range(steps), desc="toy CLIP", unit="step")
    for step in bar:
        chosen = np.sort(rng.choice(len(pool.scenes), size=batch_size, replace=False))
        scenes = [pool.scenes[index] for index in chosen]
        pixels = to_pixels(pool.frames[chosen]).to(device)  # (N, 3, S, S)
        with torch.autocast(device, torch.bfloat16):
            vision = model.vision_model(pixel_values=pixels)
            images = F.normalize(model.visual_projection(vision.pooler_output).float(), dim=-1)
            captions, partners = _caption_batch(scenes, rng)
            texts = embed_texts(model, tokenizer, captions, device)
            helper_loss = helpers(vision.last_hidden_state[:, 1:], _labels(scenes, device))
        logits = model.logit_scale.clamp(max=4.6).exp() * images @ texts.T  # (N, C)
        loss = _soft_contrastive(logits, partners.to(device)) + helper_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", helper=f"{helper_loss.item():.3f}")
    return model.eval()


def to_pixels(frames: NDArray[np.uint8]) -> torch.Tensor:
    """Normalised float32 pixels (N, 3, S, S) of uint8 frames (N, S, S, 3)."""
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def embed_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], device: str) -> torch.Tensor:
    """Unit-length text embeddings, (C, E)."""
    batch = tokenizer(
        [f"{text}{tokenizer.eos_token}" for text in texts], padding=True, return_tensors="pt", add_special_tokens=False
    )
    pooled = model.text_model(
        input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
    ).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


def _caption_batch(scenes: list[Scene], rng: np.random.Generator) -> tuple[list[str], torch.Tensor]:
    """One caption per frame, and the (N, C) table of which caption is true of which frame."""
    described = [describe_frame(scene, rng) for scene in scenes]
    objects = np.asarray([scene.object_phrase for scene in scenes])
    places = np.asarray([scene.background for scene in scenes])
    names_place = np.asarray([named for _, named in described])
    partners = (objects[:, None] == objects) & ((places[:, None] == places) | ~names_place)
    return [text for text, _ in described], torch.from_numpy(partners)


def _soft_contrastive(logits: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    rows = partners / partners.sum(dim=1, keepdim=True)
    columns = partners.T / partners.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2


def _labels(scenes: list[Scene], device: str) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes], device=device)
        for name, values in HEADS.items()
    }


@torch.no_grad()
def zero_shot_scores(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, *, seed: int, num_scenes: int, device: str
) -> dict[str, float]:
    """Shares of frames of held-out combinations for which the nearest of 56 texts such as "a red star" is right."""
    model = model.eval()
    pool = draw_pool(num_scenes, sorted(HELD_OUT), np.random.default_rng([seed, 5]))
    names = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    texts = [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}" for shape, colour in names]
    embedded = embed_texts(model, tokenizer, texts, device)  # (56, E)
    predicted = []
    for batch in np.array_split(pool.frames, max(1, len(pool.frames) // 256)):
        pooled = model.vision_model(pixel_values=to_pixels(batch).to(device)).pooler_output
        predicted += (F.normalize(model.visual_projection(pooled), dim=-1) @ embedded.T).argmax(dim=-1).tolist()
    shapes = [names[index][0] == scene.shape for index, scene in zip(predicted, pool.scenes, strict=True)]
    colours = [names[index][1] == scene.colour for index, scene in zip(predicted, pool.scenes, strict=True)]
    both = [shape and colour for shape, colour in zip(shapes, colours, strict=True)]
    return {
        "shape": float(np.mean(shapes)),
        "colour": float(np.mean(colours)),
        "shape_and_colour": float(np.mean(both)),
        "num_frames": len(both),
    }
