"""The perceiver resampler: any number of patches and frames becomes a fixed number of visual tokens.

Flamingo, arXiv:2204.14198, section 2.1, with one more latent (the first) whose output stands for the whole medium.
Shape letters: N media, F frames, P patches, D width of the vision tower, V visual tokens.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention_cosmo import FeedForward, LatentAttention
from .configuration_cosmo import CosmoConfig


LATENT_INIT_STD = 0.05


class CosmoResamplerLayer(GradientCheckpointingLayer):
    """Latents read the media, then pass a feed-forward layer; both residual."""

    def __init__(self, config: CosmoConfig) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.attention = LatentAttention(width, config.resampler_heads, config.resampler_head_dim)
        self.feed_forward = FeedForward(width, config.feed_forward_factor * width)

    def forward(
        self, latents: torch.Tensor, media: torch.Tensor, mask: torch.Tensor | None, implementation: str | None
    ) -> torch.Tensor:
        """`(N, 1 + V, D)` latents and `(N, F * P, D)` media -> new latents."""
        latents = latents + self.attention(media, latents, mask, implementation)
        return latents + self.feed_forward(latents)


class CosmoResampler(nn.Module):
    """Learned latents that read the patch tokens of one medium, all its frames together."""

    def __init__(self, config: CosmoConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision_config.hidden_size
        self.latents = nn.Parameter(torch.empty(config.num_latents, width))
        self.frame_embeds = nn.Parameter(torch.empty(config.max_frames, width)) if config.max_frames else None
        self.layers = nn.ModuleList(CosmoResamplerLayer(config) for _ in range(config.resampler_depth))
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Draw latents near zero, so that what they read outweighs them from the first step (docs/decisions/0001).

        The released model draws them from the unit normal distribution, as frame embeddings are drawn here.
        """
        init.normal_(self.latents, std=LATENT_INIT_STD)
        if self.frame_embeds is not None:
            init.normal_(self.frame_embeds)

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Resample each medium.

        Args:
            features: patch tokens, shape `(N, F, P, D)`.
            frame_mask: boolean, shape `(N, F)`, `True` where a frame is real; all real if absent.

        Returns:
            Shape `(N, 1 + V, D)` (`(N, V, D)` without class latent): the class latent first, then the visual tokens.

        Raises:
            ValueError: if a medium has more frames than there are frame position embeddings.
        """
        num_media, num_frames, num_patches, _ = features.shape
        if self.frame_embeds is not None:
            if num_frames > len(self.frame_embeds):
                raise ValueError(
                    f"a medium has {num_frames} frames; max_frames of the config is {len(self.frame_embeds)}"
                )
            features = features + self.frame_embeds[:num_frames, None]  # (N, F, P, D)
        mask = None if frame_mask is None else frame_mask.repeat_interleave(num_patches, dim=1)  # (N, F * P)
        media = features.flatten(1, 2)  # (N, F * P, D)
        latents = self.latents.expand(num_media, -1, -1)  # (N, 1 + V, D)
        for layer in self.layers:
            latents = layer(latents, media, mask, self.config._attn_implementation)
        return self.norm(latents)
