"""Configuration of CosMo: two towers, the parts between them, and which released behaviours to reproduce."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


AUTO_MAP = {
    "AutoConfig": "configuration_cosmo.CosmoConfig",
    "AutoModel": "modeling_cosmo.CosmoModel",
    "AutoModelForImageTextToText": "modeling_cosmo.CosmoForConditionalGeneration",
}
"""Where a saved folder has its own code; part of every config, whichever class was saved."""


@strict
class CosmoConfig(PreTrainedConfig):
    """Sizes and rules of a CosMo model; the defaults are the released sizes and the right behaviour.

    `unimodal_depth`, `cross_attention_interval` and `cross_attention_layers` place the gated blocks: before each layer
    of the list if there is one, else before layer `unimodal_depth` and every `cross_attention_interval`-th layer after
    it. Contradictions raise a `ValueError` that names the field.
    """

    model_type = "cosmo"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="opt"),
    }
    attribute_map: ClassVar[dict[str, str]] = {
        "image_token_id": "visual_token_id",
        "video_token_id": "visual_token_id",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = [  # so that logits come first in predictions, as usual
        "lm_loss", "contrastive_loss", "past_key_values", "visual_tokens", "cross_attentions"
    ]  # fmt: skip

    vision_config: Any = None
    """Config of the vision tower."""
    text_config: Any = None
    """Config of the causal language model."""

    unimodal_depth: int | None = None
    """Lower layers of the language model, which see text only; blocks go above them. Default: half of the layers."""
    cross_attention_interval: int = 1
    """There is a gated block before every n-th layer of the upper part, starting with its first."""
    cross_attention_layers: list[int] | None = None
    """Layers with a gated block before them, ascending; if given, used instead of depth and interval."""
    cross_attention_heads: int = 8
    """Heads of the gated cross-attention and of the text pool."""
    cross_attention_head_dim: int = 64
    """Channels of each such head before compression."""
    compress_ratio: int = 1
    """Divides the inner widths of attention and feed-forward in the gated blocks, but not the number of heads."""
    feed_forward_factor: int = 4
    """Inner width of every feed-forward layer outside the towers, as a multiple of its width (before compression)."""
    only_attend_immediate_media: bool = True
    """A token sees only the latest medium; otherwise all media up to and including it."""
    qk_norm: bool = False
    """LayerNorm on queries and keys, before the heads are split, in the gated blocks and the text pool."""

    resampler_depth: int = 6
    """Layers of the resampler."""
    resampler_heads: int = 8
    """Attention heads of the resampler."""
    resampler_head_dim: int = 64
    """Channels of each such head."""
    num_visual_tokens: int = 64
    """Visual tokens per medium that the language model can attend to."""
    max_frames: int = 0
    """Longest video, in frames, with a learned position embedding per frame; 0: none, so frames are a set."""
    patch_tokens: Literal["before_ln_post", "after_ln_post"] = "before_ln_post"
    """Whether the resampler reads the vision tower's patch tokens before or after its final LayerNorm."""

    contrastive: bool = True
    """Whether to build the parts of the contrastive loss: class latent, text pool, two projections, temperature."""
    shared_dim: int = 512
    """Dimension in which texts and media are compared."""
    logit_scale_init: float = 2.6592600369327783
    """Start of the logarithm of the inverse temperature: ln(1 / 0.07) as in CLIP; the released configs say 0.2."""
    contrastive_weight: float = 1.0
    """Weight of the contrastive loss relative to the language-model loss."""
    contrastive_gather: bool = True
    """Whether the contrastive loss compares the samples of all processes, not only those of this one."""

    text_embedding_depth: int | None = None
    """Layers after which the text pool reads the states. Default: `unimodal_depth`; released: one less."""
    text_pool_attends_padding: bool = False
    """The text pool also sees padding, as released, so padding changes text embeddings."""
    vision_mean_includes_padding: bool = False
    """The vision embedding is the mean over all slots of a sample, padding media included, as released."""
    uniform_before_first_medium: bool = False
    """Text before the first medium attends to all media equally, as released without `only_attend_immediate_media`."""
    scale_by_uncompressed_head: bool = False
    """Attention of the gated blocks is scaled by the head width before compression, as released."""

    freeze_towers: bool = False
    """Freeze the vision tower and the language model except its blocks; `from_pretrained` also freezes them."""
    train_new_tokens: bool = False
    """Train the embeddings of `<visual>` and `<|endofchunk|>` even if the language model is frozen (OpenFlamingo)."""

    visual_token_id: int | None = None
    """Id of `<visual>`."""
    end_of_chunk_token_id: int | None = None
    """Id of `<|endofchunk|>`."""
    bos_token_id: int | None = None
    """Id that starts a text. Default: the language model's."""
    eos_token_id: int | list[int] | None = None
    """Id or ids that end a text. Default: the language model's."""
    pad_token_id: int | None = None
    """Id of padding. Default: the language model's."""
    tie_word_embeddings: bool | None = None
    """Whether the head shares the input embeddings. Default: as the language model says."""

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # the value of the folder that was read; the running code sets its own
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))
        num_layers = self.text_config.num_hidden_layers
        if self.unimodal_depth is None:
            self.unimodal_depth = self.cross_attention_layers[0] if self.cross_attention_layers else num_layers // 2
        if self.text_embedding_depth is None:
            self.text_embedding_depth = self.unimodal_depth
        self._check_blocks(num_layers, self.unimodal_depth)
        self._check_sizes()
        if self.contrastive:
            self._check_text_embedding()
        if self.train_new_tokens and not self.new_token_ids:
            raise ValueError("train_new_tokens needs visual_token_id; build the model with a processor, or set it")

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a config as usual, but refuse other kinds of model.

        transformers would fill those up with defaults and random weights.

        Raises:
            ValueError: naming the folder or repository, and its kind.
        """
        found, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        kind = found.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(f"{pretrained_model_name_or_path} holds a model of type {kind}, not {cls.model_type}")
        return found, unused

    @property
    def block_positions(self) -> list[int]:
        """Layers of the language model that have a gated block before them, ascending."""
        if self.cross_attention_layers is not None:
            return list(self.cross_attention_layers)
        return list(range(self.unimodal_depth or 0, self.text_config.num_hidden_layers, self.cross_attention_interval))

    @property
    def new_token_ids(self) -> list[int]:
        """Ids of the tokens that CosMo writes into texts and that are new to the language model."""
        return [token for token in (self.visual_token_id, self.end_of_chunk_token_id) if token is not None]

    @property
    def num_latents(self) -> int:
        """Latents of the resampler: the visual tokens and, for the contrastive loss, the class latent before them."""
        return self.num_visual_tokens + self.contrastive

    def _check_blocks(self, num_layers: int, unimodal_depth: int) -> None:
        if not 0 <= unimodal_depth < num_layers:
            raise ValueError(
                f"unimodal_depth is {unimodal_depth}; the language model has {num_layers} layers, so it must be "
                f"from 0 to {num_layers - 1}"
            )
        if self.cross_attention_interval < 1:
            raise ValueError(f"cross_attention_interval is {self.cross_attention_interval}; it must be at least 1")
        positions = self.block_positions
        if positions != sorted(set(positions)) or not positions or positions[-1] >= num_layers:
            raise ValueError(
                f"cross_attention_layers is {positions}; it must hold ascending layers from 0 to {num_layers - 1}"
            )
        if positions[0] < unimodal_depth:
            raise ValueError(f"cross_attention_layers begins at {positions[0]}, below unimodal_depth {unimodal_depth}")

    def _check_sizes(self) -> None:
        for name in (
            "cross_attention_heads", "cross_attention_head_dim", "compress_ratio", "feed_forward_factor",
            "resampler_depth", "resampler_heads", "resampler_head_dim", "num_visual_tokens", "shared_dim",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_frames < 0:
            raise ValueError(f"max_frames is {self.max_frames}; it must be 0 (no frame positions) or more")
        inner_width = self.feed_forward_factor * self.text_config.hidden_size
        for name, width in (
            ("cross_attention_head_dim", self.cross_attention_head_dim),
            ("the feed-forward's inner width", inner_width),
        ):
            if width % self.compress_ratio:
                raise ValueError(f"compress_ratio {self.compress_ratio} does not divide {name} {width}")

    def _check_text_embedding(self) -> None:
        first_block = self.block_positions[0]
        if self.text_embedding_depth is None or not 0 <= self.text_embedding_depth <= first_block:
            raise ValueError(
                f"text_embedding_depth is {self.text_embedding_depth}; the text embedding must be taken before the "
                f"first gated block, which comes before layer {first_block}"
            )


CosmoConfig.register_for_auto_class()
