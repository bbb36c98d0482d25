"""Which parts of a CosMo model train, and how frozen ones behave."""

from typing import Any, Self

from torch import nn


PARTS = ("vision_tower", "resampler", "language_model", "gated_blocks", "new_tokens", "contrastive_head", "lm_head")
"""Names of the parts in the order of the data flow; PEFT's adapters count as a separate part."""
CONTRASTIVE = ("text_pool", "text_projection", "vision_projection", "logit_scale")


class TrainableParts(dict[str, tuple[int, int]]):
    """Part -> (parameters that train, all its parameters); prints as a table."""

    def __str__(self) -> str:
        totals = [sum(counts) for counts in zip(*self.values(), strict=True)]
        rows = [*self.items(), ("all", totals)]
        lines = [f"{name:<18}{trained:>16,} of {count:>16,} train" for name, (trained, count) in rows]
        return "\n".join(lines)


def count_trainable(model: nn.Module) -> TrainableParts:
    """Count every parameter once, by the part that holds it; a tied head counts with the language model.

    For parts that PEFT trains in a copy, only the copy counts.
    """
    counts: dict[str, tuple[int, int]] = dict.fromkeys((*PARTS, "adapters"), (0, 0))
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        part = _part_of(name)
        trained, count = counts[part]
        counts[part] = (trained + parameter.numel() * parameter.requires_grad, count + parameter.numel())
    return TrainableParts({part: pair for part, pair in counts.items() if pair[1]})


def _part_of(name: str) -> str:
    words = name.split(".")
    if any(word.startswith(("lora_", "trainable_tokens")) for word in words):
        return "adapters"
    if "cross_attention" in words:
        return "gated_blocks"
    if any(word in CONTRASTIVE for word in words):
        return "contrastive_head"
    return next(part for part in PARTS if part in words)


def set_eval_but_adapters(tower: nn.Module) -> None:
    """Put a frozen tower into eval mode; modules that PEFT added to it keep their dropout."""
    tower.eval()
    for module in tower.modules():
        if "base_layer" in module._modules:
            for name, child in module._modules.items():
                if name != "base_layer" and child is not None:
                    child.train()


def gated_block(module: nn.Module) -> nn.Module | None:
    """The gated block of a `CosmoDecoderLayer`, if any; found by name, since the class may have been loaded twice."""
    return module._modules.get("cross_attention") if "decoder_layer" in module._modules else None


_Base: Any = nn.Module  # the towers are those of `CosmoModel`


class CosmoFreezing(_Base):
    """Training of the parts between two frozen towers."""

    def freeze_towers(self) -> None:
        """Freeze the vision tower and the language model except its gated blocks, and record that in the config.

        Frozen parts stay in eval mode (no dropout) when the model is put into training mode. A saved model is frozen
        again when it is loaded, unless that call passes `freeze_towers=False`.
        """
        self.config.freeze_towers = True
        self.vision_tower.requires_grad_(False)
        self.language_model.requires_grad_(False)
        for block in self._gated_blocks():
            block.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as usual, except that frozen towers stay in eval mode."""
        super().train(mode)
        if mode and self.config.freeze_towers:
            set_eval_but_adapters(self.vision_tower)
            set_eval_but_adapters(self.language_model)
            for module in self.language_model.modules():
                if "decoder_layer" in module._modules:
                    module.training = True  # the wrapper has no dropout, and checkpoints only in training mode
            for block in self._gated_blocks():
                block.train()
        return self

    def _gated_blocks(self) -> list[nn.Module]:
        return [block for module in self.modules() if (block := gated_block(module)) is not None]
