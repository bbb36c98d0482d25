"""Visual inputs of the model: features of the frozen tower from a file, or pixels decoded on the fly.

Axes: B batch, M media, F frames, P patches, N clips, K decoded frames per clip.
"""

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builder.atomic import recover, replacing
from training.config import TrainingConfig
from training.data.clips import ClipTable, corpus_digest, decode_in_order
from training.data.sampling import Indices


FRAMES_PER_PASS = {"cpu": 32}  # at once through the vision tower; 512 frames of 64 px exceed the caches: half as fast
FRAMES_PER_PASS_ELSEWHERE = 512
CACHE_FORMAT = "1"
UNRELATED = frozenset(  # keys of a tower's files that do not affect its features
    {"_name_or_path", "architectures", "auto_map", "dtype", "processor_class", "transformers_version"}
)


class VisualInputs(Protocol):
    """Visual inputs of the model, for chosen frames of chosen clips."""

    def read(self, clips: Indices, frames: Indices) -> dict[str, torch.Tensor]:
        """Return arguments of the model's forward.

        Args:
            clips: shape (B, M); -1 if there is no medium; its values in the result may be anything.
            frames: which of a clip's K decoded frames, shape (B, M, F).
        """


class CachedFeatures:
    """Patch features of the frozen tower, in a float16 array of shape (N, K, P, D_v) on disk."""

    def __init__(self, path: Path) -> None:
        self.features = np.load(path, mmap_mode="r")

    def read(self, clips: Indices, frames: Indices) -> dict[str, torch.Tensor]:
        """Return `vision_features`, float16 (B, M, F, P, D_v)."""
        num_choices = self.features.shape[1]
        rows = clips.clip(min=0)[:, :, None] * num_choices + frames  # (B, M, F)
        flat = self.features.reshape(-1, *self.features.shape[2:])
        return {"vision_features": torch.from_numpy(flat[rows.ravel()].reshape(*rows.shape, *flat.shape[1:]))}


class DecodedPixels:
    """Frames of clips, decoded on request and prepared for the vision tower."""

    def __init__(self, table: ClipTable, processor: Any, num_choices: int) -> None:
        self.table, self.processor, self.num_choices = table, processor, num_choices

    def read(self, clips: Indices, frames: Indices) -> dict[str, torch.Tensor]:
        """Return `pixel_values`, float32 (B, M, F, 3, H, W)."""
        chosen = [
            pixels_of(self.processor, self.table.decode([max(clip, 0)], self.num_choices)[0][picked])
            for clip, picked in zip(clips.ravel().tolist(), frames.reshape(-1, frames.shape[-1]), strict=True)
        ]
        stacked = torch.stack(chosen)  # (B * M, F, 3, H, W)
        return {"pixel_values": stacked.reshape(*clips.shape, *stacked.shape[1:])}


def pixels_of(processor: Any, frames: NDArray[np.uint8]) -> torch.Tensor:
    """Resize and normalise frames (F, 3, H, W) for the vision tower: float32 (F, 3, H', W')."""
    prepared = processor.image_processor(list(frames), input_data_format="channels_first", return_tensors="pt")
    return prepared["pixel_values"]


def features_path(table: ClipTable, model: Any, processor: Any, config: TrainingConfig, folder: Path) -> Path:
    """Return the file of a split's features; its name holds a hash of everything that they depend on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().float().numpy().tobytes())
    settings = {
        "format": CACHE_FORMAT,
        "corpus": corpus_digest(table.root, table.split),
        "frames": config.num_frames * config.frame_choices,
        "tower": _related(model.config.vision_config.to_dict()),
        "image_processor": _related(processor.image_processor.to_dict()),
        "patch_tokens": getattr(model.config, "patch_tokens", None),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return folder / f"features-{table.split}-{digest.hexdigest()[:16]}.npy"


def _related(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in UNRELATED}


def write_features(path: Path, table: ClipTable, model: Any, processor: Any, config: TrainingConfig) -> None:
    """Run the vision tower over every clip of the table; the file gets its name once it is whole.

    If another run is writing into the same folder, wait for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # released when the process ends, however it ends
        if not path.is_file():
            recover(path.parent, "features-*")  # may be as large as the file itself
            with replacing(path) as temporary:
                _write_features(temporary, table, model, processor, config)
    finally:
        os.close(folder)


def _write_features(path: Path, table: ClipTable, model: Any, processor: Any, config: TrainingConfig) -> None:
    num_frames = config.num_frames * config.frame_choices
    output, done = None, 0
    with tqdm(total=table.num_clips, desc=f"encoding {table.name}", unit="clip") as bar:
        for group in decode_in_order(table, num_frames, config.preprocessing_num_workers):
            pixels = torch.cat([pixels_of(processor, frames) for frames in group])
            encoded = encode(model, pixels)  # (clips of the group * K, P, D_v)
            if output is None:
                shape = (table.num_clips, num_frames, *encoded.shape[1:])
                output = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            output[done : done + len(group)] = encoded.numpy().reshape(len(group), *output.shape[1:])
            done += len(group)
            bar.update(len(group))
    assert output is not None
    output.flush()


def encode(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Encode frames (N, 3, H, W) with the frozen tower; returns float16 (N, P, D_v) on the CPU."""
    device = next(model.model.vision_tower.parameters()).device
    with torch.no_grad():
        parts = [
            model.encode_frames(part[:, None, None].to(device))[:, 0, 0].half().cpu()
            for part in pixels.split(FRAMES_PER_PASS.get(device.type, FRAMES_PER_PASS_ELSEWHERE))
        ]
    return torch.cat(parts)
