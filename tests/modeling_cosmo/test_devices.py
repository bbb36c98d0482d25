"""A model spread over several devices, as by `device_map`: no operation gets tensors from two of them.

Fake tensors have a shape and a device but no numbers, and an operation across two devices fails as it would for real
ones. They are on meta, which has any number of devices even if torch was built for a CPU. Like accelerate's, the hooks
move the inputs of a part to the device of that part.
"""

import pytest
import torch
from accelerate.utils import send_to_device
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.modeling_cosmo.tiny import build
from tests.modeling_cosmo.trainer_step import tiny_processor


PARTS = {
    "opt": ["decoder.embed_tokens", "decoder.embed_positions", "decoder.final_layer_norm", "decoder.layers"],
    "gpt_neox": ["embed_in", "rotary_emb", "final_layer_norm", "layers"],
}


def spread(model, kind):
    """Put every part and every layer on its own device, including the temperature, a bare parameter."""
    names = [f"model.language_model.{name}" for name in PARTS[kind]]
    layers = names.pop()
    names += [f"{layers}.{index}" for index in range(len(model.get_submodule(layers)))]
    names += [f"model.{name}" for name, _ in model.model.named_children() if name != "language_model"]
    names += [] if model.config.tie_word_embeddings else ["lm_head"]
    places = {name: f"meta:{index}" for index, name in enumerate(names, start=1)}
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        place = next((place for part, place in places.items() if name.startswith(f"{part}.")), "meta:0")
        owner, _, own_name = name.rpartition(".")
        fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=place)
        is_parameter = isinstance(parameter, torch.nn.Parameter)
        setattr(model.get_submodule(owner), own_name, torch.nn.Parameter(fake) if is_parameter else fake)
    model.tie_weights()
    for name, place in [*places.items(), ("lm_head", model.lm_head.weight.device), ("", "meta:0")]:
        bring_inputs(model.get_submodule(name), place)


def bring_inputs(module, device):
    skipped = ["past_key_values", "cross_attention_cache"]
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (send_to_device(args, device), send_to_device(kwargs, device, skip_keys=skipped)),
        with_kwargs=True,
    )


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("kind", "train_new_tokens"), [("opt", False), ("gpt_neox", True)])
def test_each_part_on_a_device_of_its_own(kind, train_new_tokens, masked):
    """Both losses with their gradients, then a step on the cache, embeddings as input, and both kinds of features."""
    model = build(kind, tiny_processor(), train_new_tokens=train_new_tokens)
    with FakeTensorMode():
        spread(model, kind)
        ids, pixels = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 2, 1, 3, 8, 8)
        masks = {"attention_mask": torch.ones_like(ids), "media_mask": torch.ones(3, 2, 1).bool()} if masked else {}
        out = model(ids, pixel_values=pixels, **masks, labels=ids, num_items_in_batch=torch.tensor(40))
        out.loss.backward()
        first = model(ids, pixel_values=pixels, **masks, use_cache=True)
        assert model(ids[:, :1], past_key_values=first.past_key_values).logits.shape[:2] == (3, 1)
        assert model(inputs_embeds=torch.zeros(3, 11, 12), pixel_values=pixels).logits.shape[:2] == (3, 11)
        model.get_text_features(ids.to("meta:0"), masks.get("attention_mask"))
        model.get_image_features(pixels.to("meta:0"), masks.get("media_mask"))
        assert len({parameter.device for parameter in model.parameters()}) > 10
