"""Features of media alone and of texts alone: visual tokens, and embeddings in a space that both share.

Shape letters: B samples, L text length, M media, F frames, P patches, V visual tokens, D_v and D_t widths of vision
tower and language model, E shared embedding.
"""

from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .backbone_cosmo import run_language_model
from .cross_attention_cosmo import LayerTap
from .vision_cosmo import check_axes, encode_patches


_Base: Any = nn.Module  # the towers and heads that the methods use are those of `CosmoModel`


class CosmoFeatures(_Base):
    """The half of `CosmoModel` that retrieval needs; the other half writes text."""

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Embed texts with the unimodal half alone; neither the upper layers nor the vision tower run.

        Args:
            input_ids: shape `(B, L)`.
            attention_mask: shape `(B, L)`, zero at padding.
            kwargs: passed on to the language model.

        Returns:
            `pooler_output` of shape `(B, E)`, unit length, and `last_hidden_state` `(B, L, D_t)` of the unimodal half;
            on request its `hidden_states` and `attentions`.
        """
        self._require_contrastive()
        tap = LayerTap(text_depth=self.config.text_embedding_depth, stop=True)
        kwargs.setdefault("position_ids", self._positions(attention_mask))
        texts = {**self._embed_new_tokens(input_ids), "attention_mask": attention_mask, "use_cache": False}
        outputs = run_language_model(self.language_model, {"tap": tap}, **texts, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=tap.text_states,
            pooler_output=self._embed_text(tap.text_states, attention_mask),
            hidden_states=_unimodal_states(outputs.hidden_states, tap),
            attentions=outputs.attentions and outputs.attentions[: self.config.text_embedding_depth],
        )

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        media_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Embed the media of each sample; arguments as in `forward`, any others go to the vision tower.

        Returns:
            `pooler_output` `(B, E)`, unit length, and `last_hidden_state` `(B, M, V, D_v)`, the visual tokens; on
            request `hidden_states` and `attentions` of the vision tower, with a first axis of B * M * F pictures.
        """
        self._require_contrastive()
        outputs = None
        if vision_features is None:
            if pixel_values is None:
                raise ValueError("give pixel_values or vision_features")
            check_axes(pixel_values)
            outputs = encode_patches(self.vision_tower, pixel_values.flatten(0, 2), self.config.patch_tokens, **kwargs)
            vision_features = outputs.last_hidden_state.unflatten(0, pixel_values.shape[:3])
        latents = self.resample(vision_features, media_mask)  # (B, M, 1 + V, D_v)
        return BaseModelOutputWithPooling(
            last_hidden_state=latents[:, :, 1:],
            pooler_output=self._embed_vision(latents, media_mask),
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )

    def get_video_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Same as `get_image_features`: a picture is a medium of one frame."""
        return self.get_image_features(*args, **kwargs)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute the patch tokens of every frame with the vision tower alone; they can then replace the pixels.

        Args:
            pixel_values: shape `(B, M, F, 3, height, width)`.

        Returns:
            Shape `(B, M, F, P, D_v)`.

        Raises:
            ValueError: if the pixels have other axes.
        """
        check_axes(pixel_values)
        outputs = encode_patches(self.vision_tower, pixel_values.flatten(0, 2), self.config.patch_tokens)
        return outputs.last_hidden_state.unflatten(0, pixel_values.shape[:3])

    def resample(self, vision_features: torch.Tensor, media_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Latents of every medium, `(B, M, F, P, D_v)` -> `(B, M, 1 + V, D_v)`; the class latent is the first."""
        mask = None if media_mask is None else media_mask.flatten(0, 1)
        latents = self.resampler(vision_features.flatten(0, 1).to(self.resampler.latents.dtype), mask)
        return latents.unflatten(0, vision_features.shape[:2])

    def _encode_media(
        self, pixel_values: torch.Tensor | None, vision_features: torch.Tensor | None, media_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        if vision_features is None and pixel_values is not None:
            vision_features = self.encode_frames(pixel_values)
        return None if vision_features is None else self.resample(vision_features, media_mask)

    def _embed_text(self, hidden_states: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """States after the unimodal layers, `(B, L, D_t)` -> `(B, E)`, unit length."""
        assert hidden_states is not None
        if attention_mask is not None and attention_mask.shape != hidden_states.shape[:2]:
            attention_mask = None  # from a cached pass, or 4D: this piece of text has no padding of its own
        return F.normalize(self.text_projection(self.text_pool(hidden_states, attention_mask)), dim=-1)

    def _embed_vision(self, latents: torch.Tensor, media_mask: torch.Tensor | None) -> torch.Tensor:
        """Class latents, `(B, M, 1 + V, D_v)` -> mean over a sample's media -> `(B, E)`, unit length."""
        class_latents = latents[:, :, 0]  # (B, M, D_v)
        if media_mask is None or self.config.vision_mean_includes_padding:
            mean = class_latents.mean(dim=1)
        else:
            weights = media_mask.any(dim=-1, keepdim=True).to(class_latents)  # (B, M, 1)
            mean = (class_latents * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return F.normalize(self.vision_projection(mean), dim=-1)

    def _require_contrastive(self) -> None:
        if not self.config.contrastive:
            raise ValueError("this model has no contrastive head (contrastive is False in its config)")


def _unimodal_states(hidden_states: tuple[torch.Tensor, ...] | None, tap: LayerTap) -> Any:
    """Input and outputs of the unimodal layers, `text_depth + 1` states, the last without the final LayerNorm."""
    if hidden_states is None or not tap.text_depth:
        return hidden_states and (tap.text_states,)
    return (tap.first_input, *hidden_states[1 : tap.text_depth], tap.text_states)
