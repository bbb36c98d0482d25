"""Published facts about the released models, for the converter to check against. No saved folder's code imports this.

For CosMo's models, the converter reads the places of the gated blocks, their compression and their norms off the
checkpoint's tensors.
"""

from dataclasses import dataclass
from typing import Literal


Format = Literal["cosmo", "openflamingo"]
VISION_WIDTH = 1024
"""Width of CLIP ViT-L/14, the vision tower of all released models."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One released model."""

    format: Format
    """Which code base wrote its checkpoints."""
    language_model: str
    """Repository of its language model on the Hub."""
    kind: str
    """`model_type` of the language model."""
    num_layers: int
    """Decoder layers of the language model."""
    width: int
    """Width of the language model."""
    every: int | None = None
    """OpenFlamingo: there is a gated block before the last of each group of this many layers."""


PRESETS = {
    "cosmo-2.1b": Preset(
        format="cosmo", language_model="facebook/opt-iml-max-1.3b", kind="opt", num_layers=24, width=2048
    ),
    "cosmo-3.4b": Preset(
        format="cosmo", language_model="togethercomputer/RedPajama-INCITE-Base-3B-v1", kind="gpt_neox", num_layers=32,
        width=2560,
    ),
    "cosmo-8.1b": Preset(
        format="cosmo", language_model="mistralai/Mistral-7B-v0.1", kind="mistral", num_layers=32, width=4096
    ),
    "openflamingo-3b": Preset(
        format="openflamingo", language_model="mosaicml/mpt-1b-redpajama-200b", kind="mpt", num_layers=24, width=2048,
        every=1,
    ),
    "openflamingo-4b": Preset(
        format="openflamingo", language_model="togethercomputer/RedPajama-INCITE-Base-3B-v1", kind="gpt_neox",
        num_layers=32, width=2560, every=2,
    ),
    "openflamingo-9b": Preset(
        format="openflamingo", language_model="mosaicml/mpt-7b", kind="mpt", num_layers=32, width=4096, every=4
    ),
}  # fmt: skip


def find_preset(name: str) -> Preset:
    """Find a released model by its name on the command line.

    Raises:
        ValueError: if there is none of that name, listing the presets.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
