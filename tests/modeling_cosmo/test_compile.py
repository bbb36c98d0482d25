"""Compiled, exported, and with flex attention: one graph, and the same numbers."""

import copy
import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from tests.modeling_cosmo.tiny import build, open_gates


pytestmark = pytest.mark.filterwarnings("ignore:::torch")  # torch's compilers warn about parts of torch
needs_compiler = pytest.mark.skipif(
    not (shutil.which(os.environ.get("CXX", "g++")) and Path(sysconfig.get_path("include"), "Python.h").is_file()),
    reason="inductor writes C++: it needs a compiler and Python's headers",
)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}  # float32; other kernels sum in another order
TEXTS = ["<visual>a red star<|endofchunk|><visual>a", "<visual>blue", "the sea"]
OPTIONS = {"max_new_tokens": 8, "eos_token_id": None, "cache_implementation": "static"}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def inputs(processor, pictures):
    return processor(text=TEXTS, images=[pictures[:2], pictures[2:3], []])


def everywhere(backend):
    """Compile decoding steps on a CPU too, as a whole or not at all."""
    config = CompileConfig(backend=backend, fullgraph=True, mode=None)
    config._compile_all_devices = True
    return config


@pytest.mark.parametrize("kind", ["opt", "mistral"])
def test_a_decoding_step_is_one_graph_for_all_steps(kind, processor, inputs):
    """Traced and run without a compiler backend; a second prompt with as many media needs no second graph."""
    model = open_gates(build(kind, processor))
    expect = model.generate(**inputs, **OPTIONS, disable_compile=True)
    assert torch.equal(model.generate(**inputs, **OPTIONS, compile_config=everywhere("eager")), expect)
    assert counters["stats"]["unique_graphs"] == 1
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(0)}
    expect = model.generate(**other, **OPTIONS, disable_compile=True)
    assert torch.equal(model.generate(**other, **OPTIONS, compile_config=everywhere("eager")), expect)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert model._can_compile_fullgraph, "as transformers wants it declared"


@needs_compiler
@pytest.mark.slow  # half a minute: inductor writes and compiles C++
def test_compiled_generation_writes_the_same_text(processor, inputs):
    model = open_gates(build("opt", processor))
    expect = model.generate(**inputs, **OPTIONS, disable_compile=True)
    assert torch.equal(model.generate(**inputs, **OPTIONS, compile_config=everywhere("inductor")), expect)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_forward_pass_is_one_graph_for_all_lengths(model, processor, pictures):
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for text in ("<visual>a", "<visual>a red star", "a<visual>blue ring grows"):
        inputs = processor(text=text, images=pictures[:1])
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(**inputs, use_cache=False).logits, model(**inputs, use_cache=False).logits, **CLOSE
            )
    assert counters["stats"]["unique_graphs"] == 1


def test_a_training_step_is_one_graph(model, processor, inputs):
    labels = processor.build_labels(inputs["input_ids"], inputs["attention_mask"])
    twin = copy.deepcopy(model)
    model(**inputs, labels=labels).loss.backward()
    torch.compile(twin, fullgraph=True, backend="aot_eager")(**inputs, labels=labels).loss.backward()
    gradients = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, **CLOSE)


def test_export(model, inputs):
    program = torch.export.export(model, (), {**inputs, "use_cache": False})
    with torch.no_grad():
        expect = model(**inputs, use_cache=False)
        out = program.module()(**inputs, use_cache=False)
    for name in ("logits", "text_embeds", "vision_embeds"):
        torch.testing.assert_close(out[name], expect[name], **CLOSE)


@needs_compiler
@pytest.mark.parametrize("part", ["text_config", "vision_config"])
@pytest.mark.filterwarnings("ignore:_compile flag")  # transformers asks torch for what it does by default
def test_flex_attention_gives_the_same(part, processor, inputs):
    """Forward passes only: generation has dynamic lengths, for which torch cannot compile flex attention on a CPU."""
    model = open_gates(build("llama", processor, attn_implementation="eager"))
    with torch.no_grad():
        expect = model(**inputs, use_cache=False)
        model.set_attn_implementation({part: "flex_attention"})
        out = model(**inputs, use_cache=False)
    assert getattr(model.config, part)._attn_implementation == "flex_attention"
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(out.logits[real], expect.logits[real], **CLOSE)
    torch.testing.assert_close(out.text_embeds, expect.text_embeds, **CLOSE)
    torch.testing.assert_close(out.vision_embeds, expect.vision_embeds, **CLOSE)
