"""Embeddings of sampled frames, from a CLIP- or SigLIP-type tower or from files made elsewhere."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModel, __version__

from dataset_builder.errors import DamagedInput
from dataset_builder.models.devices import worker_device
from dataset_builder.models.model_folders import find_model, first_line, weights
from dataset_builder.video.frames import FrameFit


class TowerEmbedder:
    """The picture half of a contrastive model, in float32, on the worker's device (devices.py).

    Args:
        tower: folder (or id of a repository) with a CLIPModel, SiglipModel, CLIPVisionModel, ... and its
            preprocessor_config.json; `toy` is the shipped one.

    Raises:
        ValueError: if the folder holds no such model, or no picture processor.
    """

    def __init__(self, tower: str) -> None:
        self.place = find_model(tower)
        try:
            processor = AutoImageProcessor.from_pretrained(self.place.location, backend="pil", **self.place.options)
            model = AutoModel.from_pretrained(self.place.location, dtype=torch.float32, **self.place.options)
        except Exception as error:  # torn weights, unknown classes, ...: each library raises its own types
            raise ValueError(f"cannot load the tower {tower!r}: {first_line(error)}") from error
        self.fit = fit_of(processor)
        self.device = worker_device()
        self.model = model.to(self.device).eval()
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
        # (x * scale - mean) / std as one multiplication and one addition
        self._gain = (scale / torch.tensor(std, dtype=torch.float32)).reshape(3, 1, 1)
        self._offset = (-torch.tensor(mean) / torch.tensor(std)).float().reshape(3, 1, 1)

    def provenance(self) -> dict[str, Any]:
        """Tool, version and weights."""
        facts = {"tool": "transformers", "version": __version__, "tower": self.place.name}
        return facts | weights(self.place, self.model)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Embeddings of frames in the size of `fit`.

        Args:
            frames: uint8, shape `(N, H, W, 3)`.

        Returns:
            float32, shape `(N, D)`, any norm.
        """
        with torch.inference_mode():
            embeds = self._embed(self.pixel_values(frames).to(self.device))
        return embeds.float().cpu().numpy()

    def pixel_values(self, frames: np.ndarray) -> torch.Tensor:
        """Frames normalised as the tower's own processor does: float32, `(N, 3, H, W)`."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))  # (N, 3, H, W)
        return pixels.float().mul_(self._gain).add_(self._offset)

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """The shared-space embedding if the model has one, else the vision model's pooled output."""
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=pixels).pooler_output
        return self.model(pixel_values=pixels).pooler_output


@lru_cache(maxsize=2)
def load_tower(tower: str) -> TowerEmbedder:
    """Load a tower, once per process for all stages that use it."""
    return TowerEmbedder(tower)


def fit_of(processor: Any) -> FrameFit:
    """The frame size that a transformers picture processor produces.

    Raises:
        ValueError: for a processor that neither resizes nor crops to a fixed size.
    """
    size, crop = _plain(processor.size), _plain(getattr(processor, "crop_size", None))
    if getattr(processor, "do_center_crop", False) and crop:
        edge = size.get("shortest_edge")
        if edge or crop == size:
            return FrameFit(height_px=crop["height"], width_px=crop["width"], shortest_edge_px=edge)
    if "height" in size and "width" in size:
        return FrameFit(height_px=size["height"], width_px=size["width"])
    raise ValueError(f"the tower's picture processor has size {size} and crop {crop}; expected one fixed frame size")


def load_embeddings(folder: str, video_id: str, num_frames: int) -> np.ndarray:
    """Embeddings made elsewhere, `FOLDER/VIDEO_ID.npy` of shape `(num_frames, D)`.

    Raises:
        DamagedInput: if the file is missing, has another shape, or holds anything but finite numbers.
    """
    path = Path(folder, f"{video_id}.npy")
    if not path.is_file():
        raise DamagedInput(f"no embeddings {video_id}.npy in the folder that the recipe names")
    try:
        embeddings = np.array(np.lib.format.open_memmap(path, mode="r"))  # refuses headers that promise too much
    except ValueError as error:
        raise DamagedInput(f"embeddings {video_id}.npy are not a plain array ({error})") from error
    if embeddings.ndim != 2 or len(embeddings) != num_frames:
        raise DamagedInput(f"embeddings {video_id}.npy have shape {embeddings.shape}; expected ({num_frames}, D)")
    if embeddings.dtype.kind not in "fiu" or not np.isfinite(embeddings).all():
        raise DamagedInput(f"embeddings {video_id}.npy are not finite numbers")
    return embeddings


def _plain(size: Any) -> dict[str, int]:
    """A processor's size as a plain mapping without unset entries."""
    sides = {side: getattr(size, side, None) for side in ("height", "width", "shortest_edge")}
    return {side: length for side, length in sides.items() if length}
