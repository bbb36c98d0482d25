"""What differs on a GPU: maps of devices, autocast, NCCL, few-bit kernels. Without a GPU the same on the CPU.

`make test` hides every GPU from the tests; `python -m benchmarks.gpu --sections right` runs these with one.
"""

from importlib.util import find_spec

import pytest
import torch
from torch import distributed
from transformers import BitsAndBytesConfig

from modeling_cosmo import CosmoForConditionalGeneration
from modeling_cosmo.contrastive_cosmo import _GatherRows, contrastive_loss
from tests.modeling_cosmo.tiny import build, open_gates
from tests.modeling_cosmo.trainer_step import TEXTS, samples, tiny_processor


pytestmark = pytest.mark.gpu
HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32; other kernels sum in another order


@pytest.fixture(autouse=True)
def exact_products():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture
def inputs(processor):
    pictures = [sample["images"] for sample in samples()]
    return processor(text=TEXTS, images=pictures, return_tensors="pt")


@pytest.fixture
def model(processor):
    torch.manual_seed(5)
    return open_gates(build("opt", processor))


def on_device(inputs):
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def spread():
    """Vision tower on the CPU, the rest on the device, as a map by hand would have it."""
    where = 0 if HAS_GPU else "cpu"
    names = ("model.language_model", "model.resampler", "model.text_pool", "model.text_projection",
             "model.vision_projection", "model.logit_scale", "lm_head")  # fmt: skip
    return {"model.vision_tower": "cpu"} | dict.fromkeys(names, where)


@pytest.mark.parametrize("device_map", ["auto", "spread"])
def test_a_map_of_devices_gives_the_cpu_s_numbers(model, inputs, device_map, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = CosmoForConditionalGeneration.from_pretrained(
        tmp_path, device_map=spread() if device_map == "spread" else device_map
    )
    assert loaded.lm_head.weight.device.type == DEVICE.type
    with torch.no_grad():
        expect = model(**inputs)
        found = loaded(**on_device(inputs))
    real = inputs["attention_mask"].bool()
    for name in ("text_embeds", "vision_embeds"):
        torch.testing.assert_close(found[name].cpu(), expect[name], **CLOSE)
    torch.testing.assert_close(found.logits.cpu()[real], expect.logits[real], **CLOSE)
    ids = model.generate(**inputs, max_new_tokens=8, eos_token_id=None)
    assert torch.equal(loaded.generate(**on_device(inputs), max_new_tokens=8, eos_token_id=None).cpu(), ids)


def test_frozen_bfloat16_trains_beside_float32_under_autocast(model, inputs):
    """Frozen weights take two bytes, the stream stays bfloat16, gradients are float32 and point the same way."""
    inputs = on_device(inputs)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model.freeze_towers()
    model.to(DEVICE).train()
    model(**inputs, labels=labels).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    expect = {name: parameter.grad.clone() for name, parameter in trained.items()}
    model.zero_grad()

    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    kinds = set()
    for layer in model.model.language_model.decoder.layers:
        layer.register_forward_hook(lambda _, args, output: kinds.add(output.dtype))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = model(**inputs, labels=labels)
    out.loss.backward()
    assert kinds == {torch.bfloat16}
    assert out.loss.dtype == torch.float32
    for parameter in trained.values():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
    found, wanted = (
        torch.cat([of_name[name].flatten() for name in trained])
        for of_name in ({name: parameter.grad for name, parameter in trained.items()}, expect)
    )
    # bfloat16 rounds to 2**-8; some 60 roundings forward and back at random: 2**-8 * sqrt(120 / 3) = 2.5 %
    assert torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_tower_in_half_precision_stays_in_it_under_autocast(model, inputs, dtype):
    """On a GPU autocast makes every norm float32; a tower in float32 still gets its help."""
    model.to(DEVICE).model.vision_tower.to(dtype)
    seen = []
    for layer in model.model.vision_tower.encoder.layers:
        layer.register_forward_hook(
            lambda _, args, output: seen.append((torch.is_autocast_enabled(DEVICE.type), args[0].dtype))
        )
    with torch.autocast(DEVICE.type, torch.bfloat16):
        model.encode_frames(inputs["pixel_values"].to(DEVICE))
    assert len(seen) == 2
    assert set(seen) == {(dtype == torch.float32, dtype)}


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group(
        "nccl" if HAS_GPU else "gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:::torch")  # NCCL asks for a device to be named where there is only one
def test_gathering_rows_over_one_process_changes_nothing():
    """The function itself, which a single process otherwise passes by: forward and gradient on this backend."""
    vision, text = (torch.randn(5, 7, device=DEVICE, requires_grad=True) for _ in range(2))
    scale = torch.tensor([3.0], device=DEVICE)
    contrastive_loss(vision, text, scale).backward()
    expect = vision.grad.clone()
    vision.grad = text.grad = None
    loss = contrastive_loss(_GatherRows.apply(vision), _GatherRows.apply(text), scale)
    loss.backward()
    torch.testing.assert_close(loss, contrastive_loss(vision, text, scale))
    torch.testing.assert_close(vision.grad, expect)


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.skipif(not HAS_GPU, reason="no GPU: test_loading.py runs bitsandbytes on the CPU")
@pytest.mark.filterwarnings("ignore:::bitsandbytes")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_towers_generate_and_train(model, inputs, bits, tmp_path):
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    loaded = CosmoForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=config, device_map={"": 0}, dtype=torch.bfloat16
    )
    inputs = on_device(inputs)
    ids = loaded.generate(**inputs, max_new_tokens=4, eos_token_id=None)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 4
    loaded.freeze_towers()
    loaded.train()
    with torch.autocast("cuda", torch.bfloat16):
        loaded(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(p.grad is not None for p in loaded.parameters() if p.requires_grad and p.is_floating_point())
