"""CosMo: a frozen vision tower, a resampler, a language model with gated blocks, and a contrastive head.

The paper is arXiv:2401.00849. Shape letters: B samples, R text rows (B, or B x beams), L text length, M media,
F frames, P patches, V visual tokens, D_v and D_t widths of vision tower and language model, E shared embedding.
"""

from dataclasses import fields
from typing import Any, Self, Unpack, cast

import torch
from torch import nn
from transformers import AutoModel, Cache, DynamicCache
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .backbone_cosmo import complete_backbone, run_language_model
from .cache_cosmo import CosmoCache, follow_media
from .configuration_cosmo import CosmoConfig
from .contrastive_cosmo import contrastive_loss, gather_rows
from .cross_attention_cosmo import LayerTap, wrap_decoder_layers
from .features_cosmo import CosmoFeatures
from .freezing_cosmo import CosmoFreezing
from .generation_cosmo import CosmoGenerationMixin, default_generation_tokens
from .loss_cosmo import next_token_loss
from .media_attention_cosmo import media_visibility
from .new_tokens_cosmo import CosmoNewTokens, check_plain_table
from .outputs_cosmo import CosmoCausalLMOutput, CosmoModelOutput
from .parallel_cosmo import fully_sharded_plan, tensor_parallel_plan
from .pretrained_cosmo import CosmoPreTrainedModel
from .resampler_cosmo import CosmoResampler
from .text_pool_cosmo import CosmoTextPool
from .tokens_cosmo import IGNORED_LABEL
from .towers_cosmo import PreTrainedTowers, load_towers
from .vision_cosmo import check_patch_tokens


class CosmoModel(CosmoFeatures, CosmoFreezing, CosmoPreTrainedModel):
    """Both towers, the resampler, the gated blocks and the contrastive head; no language-model head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012

    def __init__(self, config: CosmoConfig, towers: PreTrainedTowers | None = None) -> None:
        super().__init__(config)
        self.vision_tower = towers.vision if towers else AutoModel.from_config(config.vision_config)
        self.language_model = towers.language_model if towers else AutoModel.from_config(config.text_config)
        check_patch_tokens(self.vision_tower, config.patch_tokens)
        complete_backbone(self.language_model, is_pretrained=towers is not None)
        wrap_decoder_layers(self.language_model, config)
        self.resampler = CosmoResampler(config)
        if config.contrastive:
            self.text_pool = CosmoTextPool(config)
            self.text_projection = nn.Linear(config.text_config.hidden_size, config.shared_dim, bias=False)
            self.vision_projection = nn.Linear(config.vision_config.hidden_size, config.shared_dim, bias=False)
            self.logit_scale = nn.Parameter(torch.empty(1))
        self.new_tokens = self._build_new_tokens() if config.train_new_tokens else None
        self.post_init()
        self.freeze_as_configured()

    @torch.no_grad()
    def initialise_own_parameters(self) -> None:
        """Set the temperature that training starts from."""
        if self.config.contrastive:
            init.constant_(self.logit_scale, self.config.logit_scale_init)

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def init_parallel_plans(self) -> None:
        """Collect the parts' plans under the names that layers have here, and add plans for CosMo's own layers."""
        super().init_parallel_plans()
        self._tp_plan = tensor_parallel_plan(self, cast(CosmoConfig, self.config), self._tp_plan or {})
        self._fsdp_plan = fully_sharded_plan(self, self._fsdp_plan or {})

    def _build_new_tokens(self) -> CosmoNewTokens:
        table = cast(nn.Embedding, self.get_input_embeddings())
        check_plain_table(table)
        tied = bool(self.config.tie_word_embeddings)
        return CosmoNewTokens(self.config.new_token_ids, table.embedding_dim, tied)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs names position_ids too
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        media_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        use_cache: bool | None = None,
        compute_embeds: bool = True,
        output_visual_tokens: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CosmoModelOutput:
        """Read texts and their media.

        Args:
            input_ids: shape `(R, L)`; the k-th `<visual>` of a row stands for its k-th medium.
            attention_mask: shape `(R, L)` (with a cache: all tokens so far), zero at padding.
            position_ids: shape `(R, L)`; default: the language model's own.
            past_key_values: text and media of earlier passes; media given now are added to them.
            inputs_embeds: used instead of `input_ids`, shape `(R, L, D_t)`.
            pixel_values: frames of the media that are new in this pass, shape `(B, M, F, 3, height, width)`.
            media_mask: boolean, shape `(B, M, F)`, `True` where a frame is real; all real if absent.
            vision_features: used instead of `pixel_values`: output of `encode_frames`, shape `(B, M, F, P, D_v)`.
            use_cache: whether to return a cache. Default: as the language model's config says.
            compute_embeds: whether to compute text and vision embeddings; only for texts that begin in this pass.
            output_visual_tokens: whether to return the visual tokens.
            kwargs: passed on to the language model, for example `output_hidden_states` and `output_attentions`.
        """
        cache = self._open_cache(past_key_values, use_cache)
        latents = self._encode_media(pixel_values, vision_features, media_mask)  # (B, M, 1 + V, D_v)
        visual_tokens = None if latents is None else latents[:, :, -self.config.num_visual_tokens :]  # (B, M, V, D_v)
        is_placeholder = self._find_placeholders(input_ids, inputs_embeds)  # (R, L)
        is_real = None if latents is None else _real_media(latents, media_mask).to(is_placeholder.device)  # (B, M)
        places, media_index = follow_media(is_placeholder, is_real, cache)  # (B, M), (R, L)
        visibility = None if places is None else media_visibility(media_index, places, *self._attention_rule)
        wants_embeds = compute_embeds and self.config.contrastive and past_key_values is None
        tap = LayerTap(text_depth=self.config.text_embedding_depth if wants_embeds else None)

        if position_ids is None and past_key_values is None:
            position_ids = self._positions(attention_mask)
        for_layers = {
            "visual_tokens": None if visual_tokens is None else visual_tokens.flatten(1, 2),  # (B, M * V, D_v)
            "visibility": visibility,
            "cross_attention_cache": None if cache is None else cache.cross_attention_cache,
            "tap": tap,
        }
        outputs = run_language_model(
            self.language_model,
            for_layers,
            **self._embed_new_tokens(input_ids, inputs_embeds),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=None if cache is None else cache.self_attention_cache,
            use_cache=cache is not None,
            **kwargs,
        )
        return CosmoModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=cache,
            hidden_states=_with_first_input(outputs.hidden_states, tap.first_input),
            attentions=outputs.attentions,
            cross_attentions=None if outputs.attentions is None else tuple(tap.cross_attentions),
            text_embeds=self._embed_text(tap.text_states, attention_mask) if wants_embeds else None,
            vision_embeds=self._embed_vision(latents, media_mask) if wants_embeds and latents is not None else None,
            visual_tokens=visual_tokens if output_visual_tokens else None,
            logit_scale=self.logit_scale.exp() if wants_embeds else None,
        )

    def _open_cache(self, past_key_values: Cache | None, use_cache: bool | None) -> CosmoCache | None:
        """The cache that this pass reads and fills; a cache of text alone gets room for media."""
        if past_key_values is not None:
            return (
                cast(CosmoCache, past_key_values)
                if hasattr(past_key_values, "places")
                else CosmoCache(past_key_values)
            )
        if use_cache is None:
            use_cache = getattr(self.config.text_config, "use_cache", True)
        if not use_cache or (self.training and self.is_activation_checkpointing):
            return None
        return CosmoCache(DynamicCache(config=self.config.text_config))

    @property
    def _attention_rule(self) -> tuple[int, bool]:
        return self.config.num_visual_tokens, self.config.only_attend_immediate_media

    def _find_placeholders(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Boolean `(R, L)`, `True` at `<visual>`; in embeddings, at every row equal to that of `<visual>`."""
        if self.config.visual_token_id is None:
            raise ValueError("the config has no visual_token_id; build the model with a processor, or set it")
        if input_ids is not None:
            return input_ids == self.config.visual_token_id
        if inputs_embeds is None:
            raise ValueError("give input_ids or inputs_embeds")
        token = torch.full((), self.config.visual_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token).to(inputs_embeds.device)).all(dim=-1)

    def _positions(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Positions, `(R, L)`, for GPT-2 and models like it, which would count left padding; `None` for others."""
        if attention_mask is None or attention_mask.ndim != 2 or not hasattr(self.language_model, "wpe"):
            return None
        return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)

    def _embed_new_tokens(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Inputs of the language model: ids or embeddings as given, or always embeddings if new tokens train."""
        if self.new_tokens is None or input_ids is None:
            return {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        return {"inputs_embeds": self.new_tokens.embed(input_ids, self.get_input_embeddings()(input_ids))}


def _real_media(latents: torch.Tensor, media_mask: torch.Tensor | None) -> torch.Tensor:
    """Which media slots hold a medium, boolean `(B, M)`."""
    if media_mask is None:
        return torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
    return media_mask.any(dim=-1)


def _with_first_input(
    hidden_states: tuple[torch.Tensor | None, ...] | None, first_input: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...] | None:
    """Start the states with the input of the first block; transformers records that of the stock layer after it."""
    if hidden_states is None or hidden_states[0] is None:
        return hidden_states
    return (first_input, *hidden_states[1:])


class CosmoForConditionalGeneration(CosmoPreTrainedModel, CosmoGenerationMixin):
    """CosMo with its language-model head: writes text about media, and computes both losses."""

    def __init__(self, config: CosmoConfig, towers: PreTrainedTowers | None = None) -> None:
        super().__init__(config)
        self.model = CosmoModel(config, towers)
        embeddings = self.model.get_input_embeddings()
        num_tokens, width = embeddings.weight.shape
        self.lm_head = towers.head if towers else nn.Linear(width, num_tokens, bias=False)
        self.loss_function = next_token_loss
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        for key, value in default_generation_tokens(config).items():
            setattr(self.generation_config, key, value)
        self.post_init()
        self.freeze_as_configured()

    def init_parallel_plans(self) -> None:
        """Collect the parts' plans; the head is split by tokens, unless it shares a table that is not split."""
        super().init_parallel_plans()
        table = self._tied_weights_keys["lm_head.weight"].removesuffix(".weight")
        if self._tp_plan is not None and (table in self._tp_plan or not self.config.tie_word_embeddings):
            self._tp_plan["lm_head"] = "colwise_gather_output"

    @classmethod
    def from_towers(
        cls,
        vision: Any,
        text: Any,
        processor: Any = None,
        dtype: torch.dtype | str = torch.float32,
        **cosmo_options: Any,
    ) -> Self:
        """Join two pretrained towers; the new parts start untrained and with closed gates.

        Args:
            vision: path, id or instance of a CLIP or SigLIP model, or of its vision tower.
            text: path, id or instance of a causal language model. Instances are used directly, not copied.
            processor: a `CosmoProcessor` of these towers: its special tokens get embeddings and their ids go into
                the config. Without it `visual_token_id` must be among the options.
            dtype: torch dtype of all weights, or its name.
            cosmo_options: fields of `CosmoConfig`, and `attn_implementation`.

        Raises:
            ValueError: if a tower is of an unsupported kind, or an option is unknown or contradicts the towers.
        """
        known = {field.name for field in fields(CosmoConfig)} | {"attn_implementation"}
        if unknown := sorted(cosmo_options.keys() - known):
            raise ValueError(f"CosmoConfig has no field {', '.join(unknown)}")
        dtype = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype is {dtype!r:.80}; it must be a torch dtype or its name, such as 'bfloat16'")
        towers, token_ids = load_towers(vision, text, processor, dtype)
        configs = {"vision_config": towers.vision.config, "text_config": towers.language_model.config}
        attention = {name: config._attn_implementation for name, config in configs.items()}
        config = CosmoConfig(**configs | {"attn_implementation": attention} | token_ids | cosmo_options)
        return nn.Module.to(cls(config, towers), dtype)

    def get_input_embeddings(self) -> nn.Module:
        """Token embeddings of the language model."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings of the language model."""
        self.model.set_input_embeddings(value)

    def freeze_towers(self) -> None:
        """Train only the resampler, the gated blocks and the contrastive head; see `CosmoModel.freeze_towers`."""
        self.model.freeze_towers()
        self.lm_head.requires_grad_(False)

    def gather_sharded_state_dict_for_save(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Gather what `save_pretrained` writes; trained embeddings of new tokens are added into the table."""
        state_dict = super().gather_sharded_state_dict_for_save(*args, **kwargs)
        table = self._tied_weights_keys["lm_head.weight"]
        if self.model.new_tokens is None or table not in state_dict:  # no table: an adapter alone, or another rank
            return state_dict
        tied = bool(self.config.tie_word_embeddings)
        return self.model.new_tokens.add_into(state_dict, "model.new_tokens.", table, "lm_head.weight", tied=tied)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See `CosmoModel.encode_frames`."""
        return self.model.encode_frames(pixel_values)

    def get_text_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `CosmoModel.get_text_features`."""
        return self.model.get_text_features(*args, **kwargs)

    def get_image_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `CosmoModel.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    def get_video_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See `CosmoModel.get_image_features`."""
        return self.model.get_image_features(*args, **kwargs)

    @can_return_tuple
    def forward(  # type: ignore[misc]  # TransformersKwargs names position_ids too
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        media_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        compute_contrastive: bool | None = True,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CosmoCausalLMOutput:
        """Score texts about media, and with `labels` compute both losses; other arguments as in `CosmoModel.forward`.

        Args:
            input_ids: see `CosmoModel.forward`.
            attention_mask: see `CosmoModel.forward`.
            position_ids: see `CosmoModel.forward`.
            past_key_values: see `CosmoModel.forward`.
            inputs_embeds: see `CosmoModel.forward`.
            pixel_values: see `CosmoModel.forward`.
            media_mask: see `CosmoModel.forward`.
            vision_features: see `CosmoModel.forward`.
            labels: token ids, shape `(B, L)`, not shifted; -100 does not count.
            use_cache: see `CosmoModel.forward`; off by default if labels are given.
            compute_contrastive: whether to compute the embeddings and, with labels, the contrastive loss.
            logits_to_keep: compute logits of only this many last tokens (0: all), or at these positions.
            num_items_in_batch: number of labels that count in the whole batch, of which this call gets a part;
                `Trainer` passes it under gradient accumulation and with several processes. `loss` is then this part's
                share of the batch's loss: both terms times the share of labels in this part, so that the parts add up
                to the mean over all labels and to a mean of the parts' contrastive losses. The other losses stay
                means.
            kwargs: see `CosmoModel.forward`; also `shift_labels`, which the loss uses instead of `labels`: already
                shifted, as sequence parallelism splits them. (If it were a parameter, `Trainer` would expect it in
                every batch.)
        """
        shift_labels = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            media_mask=media_mask,
            vision_features=vision_features,
            use_cache=False if labels is not None and use_cache is None else use_cache,
            compute_embeds=bool(compute_contrastive),
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        last_states = outputs.last_hidden_state[:, kept]  # (R, L, D_t)
        logits = self.lm_head(last_states)  # (R, L, vocabulary)
        if self.model.new_tokens is not None:
            logits = self.model.new_tokens.score(last_states, logits)
        lm_loss = contrastive = loss = None
        if labels is not None:
            targets = labels[..., 1:] if shift_labels is None else shift_labels
            num_labels = (targets != IGNORED_LABEL).sum()
            loss = lm_loss = self.loss_function(
                logits, labels, vocab_size=logits.shape[-1], shift_labels=shift_labels,
                num_items_in_batch=num_labels.clamp(min=1).to(logits.device),
            )  # fmt: skip
            if outputs.text_embeds is not None and outputs.vision_embeds is not None:
                contrastive = self._contrastive_loss(
                    outputs.vision_embeds, outputs.text_embeds, outputs.logit_scale, media_mask
                )
                loss = lm_loss + self.config.contrastive_weight * contrastive.to(lm_loss.device)
            if num_items_in_batch is not None:
                loss = loss * (num_labels / num_items_in_batch).to(loss.device)
        return CosmoCausalLMOutput(
            loss=loss,
            lm_loss=lm_loss,
            contrastive_loss=contrastive,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            text_embeds=outputs.text_embeds,
            vision_embeds=outputs.vision_embeds,
            visual_tokens=outputs.visual_tokens,
        )

    def _contrastive_loss(
        self,
        vision_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        media_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compare the samples of all processes, unless the config says otherwise or tensor parallelism shares them."""
        vision_embeds = vision_embeds.to(text_embeds.device)
        is_pair = torch.ones_like(text_embeds[:, :1])  # (B, 1), above 0 where a sample has a medium
        if media_mask is not None:
            is_pair = media_mask.flatten(1).any(dim=-1, keepdim=True).to(is_pair)
        if self.config.contrastive_gather and (self._tp_size or 1) == 1:
            vision_embeds, text_embeds, is_pair = map(gather_rows, (vision_embeds, text_embeds, is_pair))
        return contrastive_loss(vision_embeds, text_embeds, logit_scale.to(text_embeds.device), is_pair[:, 0] > 0)


CosmoModel.register_for_auto_class("AutoModel")
CosmoForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
