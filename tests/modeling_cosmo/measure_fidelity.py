"""Make the measured tables of docs/fidelity.md, each between its `<!-- name -->` marks.

Run `python -m tests.modeling_cosmo.measure_fidelity PARITY_FOLDER` from the project's folder.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration
from modeling_cosmo.contrastive_cosmo import contrastive_loss
from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint
from tests.modeling_cosmo.released import Sizes, language_model, random_batch, released_state


PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
SWITCHES = {
    "text_embedding_depth": lambda config: config.unimodal_depth,
    "text_pool_attends_padding": lambda config: False,
    "vision_mean_includes_padding": lambda config: False,
    "uniform_before_first_medium": lambda config: False,
    "patch_tokens": lambda config: "after_ln_post",
    "scale_by_uncompressed_head": lambda config: False,
}
SMALLEST = 5e-4  # what three decimals show
NUM_BEAMS, NUM_STEPS = 3, 8
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 224, "patch_size": 14}  # fmt: skip
OPT = {"vocab_size": 50272, "hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192, "num_attention_heads": 32,
       "word_embed_proj_dim": 2048}  # fmt: skip
MISTRAL = {"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
           "num_attention_heads": 32, "num_key_value_heads": 8}  # fmt: skip
NEOX = {"vocab_size": 50432, "hidden_size": 2560, "num_hidden_layers": 32, "intermediate_size": 10240,
        "num_attention_heads": 32, "tie_word_embeddings": False}  # fmt: skip
RELEASES = [  # name, kind and sizes of the language model, unimodal depth / interval / ratio or OpenFlamingo's every
    ("CosMo-2.1B", "opt", OPT, (12, 2, 2)),
    ("CosMo-2.1B", "opt", OPT, (12, 1, 2)),
    ("CosMo-2.1B", "opt", OPT, (12, 1, 1)),
    ("CosMo-8.1B", "mistral", MISTRAL, (16, 4, 4)),
    ("OpenFlamingo-3B", "mpt", {"vocab_size": 50432, "d_model": 2048, "n_layers": 24, "n_heads": 16}, 1),
    ("OpenFlamingo-4B", "gpt_neox", NEOX, 2),
    ("OpenFlamingo-9B", "mpt", {"vocab_size": 50432, "d_model": 4096, "n_layers": 32, "n_heads": 32}, 4),
]


def fixture(folder):
    """A fixture of the parity folder; the surplus picture of its last row counts as padding."""
    values = load_file(folder / "io.safetensors")
    batch = {name: values[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    batch["media_mask"] = torch.ones(batch["pixel_values"].shape[:3], dtype=torch.bool)
    batch["media_mask"][2, 2] = False
    return load_file(folder / "weights.safetensors"), json.loads((folder / "config.json").read_text()), batch


def random_model(**sizes):
    """A random model of our own, for what no fixture has."""
    sizes = Sizes(**sizes)
    return released_state(sizes, language_model(sizes, 3), 3), sizes.architecture(), random_batch(sizes, 1)


def convert(state, architecture, folder):
    save_file({key: value.contiguous() for key, value in state.items()}, f"{folder}/weights.safetensors")
    convert_checkpoint(f"{folder}/weights.safetensors", architecture, f"{folder}/model")
    return f"{folder}/model"


@torch.no_grad()
def run(folder, batch, **options):
    return CosmoForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, **options)(**batch)


def effect(out, expect, real):
    """Largest change of a logit, and smallest cosine between the two embeddings of a sample if they change."""
    changes = {"logits": (out.logits - expect.logits)[real].abs().max().item()}
    for name in ("text", "vision"):
        changes[name] = (out[f"{name}_embeds"] * expect[f"{name}_embeds"]).sum(-1).min().item()
    shown = [f"logits {changes['logits']:.2f}"] * (changes["logits"] > 5e-3)
    shown += [f"{name} {changes[name]:.3f}" for name in ("text", "vision") if 1 - changes[name] > SMALLEST]
    return ", ".join(shown) or "none"


def switches(parity):
    """Each switch from the released behaviour to the right one, on the fixtures and on a model with ratio 2."""
    cases = {f"`{name}`": fixture(Path(parity) / name) for name in ("opt", "opt_attend_all")}
    cases["ratio 2"] = random_model(ratio=2)
    rows = {name: [] for name in SWITCHES}
    losses = []
    for state, architecture, batch in cases.values():
        with tempfile.TemporaryDirectory() as folder:
            model = convert(state, architecture, folder)
            config = CosmoConfig.from_pretrained(model)
            expect, real = run(model, batch), batch["attention_mask"].bool()
            for name, value in SWITCHES.items():
                rows[name].append(effect(run(model, batch, **{name: value(config)}), expect, real))
            scales = (0.2, CosmoConfig().logit_scale_init)
            both = [contrastive_loss(expect.vision_embeds, expect.text_embeds, torch.tensor(s).exp()) for s in scales]
            losses.append(f"loss {both[0]:.2f} -> {both[1]:.2f}")
    rows["logit_scale_init"] = losses
    return table(["field", *cases], [[f"`{name}`", *cells] for name, cells in rows.items()])


def work():
    """Work done by generation with three beams from a prompt with three pictures."""
    sizes = Sizes()
    state, architecture, batch = random_model()
    counts = dict.fromkeys(("pictures", "projections"), 0)

    def count_pictures(module, args, kwargs):
        counts["pictures"] += len(kwargs["pixel_values"])

    def count_projections(*_):
        counts["projections"] += 1

    with tempfile.TemporaryDirectory() as folder:
        path = convert(state, architecture, folder)
        model = CosmoForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    model.model.vision_tower.register_forward_pre_hook(count_pictures, with_kwargs=True)
    block = model.model.language_model.decoder.layers[sizes.block_layers[0]].cross_attention
    block.attention.k_proj.register_forward_hook(count_projections)
    prompt = {name: value[:1] for name, value in batch.items()}
    model.generate(
        **prompt, num_beams=NUM_BEAMS, min_new_tokens=NUM_STEPS, max_new_tokens=NUM_STEPS, eos_token_id=None
    )
    num_pictures = batch["pixel_values"].shape[1]
    return table(
        [f"{NUM_BEAMS} beams, {num_pictures} pictures, {NUM_STEPS} new tokens", "released", "here"],
        [
            ["pictures through the vision tower", str(NUM_BEAMS * num_pictures), str(counts["pictures"])],
            ["projections of the media to keys, a block", str(NUM_STEPS), str(counts["projections"])],
        ],
    )


def dropout():
    """Difference between two passes in training mode: if the frozen language model keeps its dropout, and here."""
    state, architecture, batch = random_model()
    with tempfile.TemporaryDirectory() as folder:
        path = convert(state, architecture, folder)
        text_config = CosmoConfig.from_pretrained(path).text_config
        text_config.dropout = 0.1
        model = CosmoForConditionalGeneration.from_pretrained(path, text_config=text_config, dtype=torch.float32)
    model.freeze_towers()
    apart = []
    for mode in (model.model.language_model.train, model.train):  # only the second spares what is frozen
        model.train()
        mode()
        torch.manual_seed(0)
        with torch.no_grad():
            first, second = model(**batch).logits, model(**batch).logits
        apart.append(f"{(first - second)[batch['attention_mask'].bool()].abs().max().item():.2f}")
    return table(["", "released", "here"], [["largest change of a logit, dropout 0.1", *apart]])


def sizes_of_releases():
    """Trained parameters, counted on models without storage; for OpenFlamingo, the token table counts too."""
    counted = []
    for name, kind, language, blocks in RELEASES:
        is_cosmo = isinstance(blocks, tuple)
        num_layers = language.get("num_hidden_layers", language.get("n_layers"))
        if is_cosmo:
            depth, interval, ratio = blocks
            options = {"unimodal_depth": depth, "cross_attention_interval": interval, "compress_ratio": ratio}
        else:
            options = {"contrastive": False, "cross_attention_layers": list(range(blocks - 1, num_layers, blocks))}
        config = CosmoConfig(
            vision_config=AutoConfig.for_model("clip_vision_model", **VISION),
            text_config=AutoConfig.for_model(kind, **language),
            **options,
        )
        with torch.device("meta"):
            model = CosmoForConditionalGeneration(config)
        model.freeze_towers()
        trained = sum(part for part, _ in model.trainable_parts().values())
        trained += 0 if is_cosmo else model.get_input_embeddings().weight.numel()
        total = sum(part for _, part in model.trainable_parts().values())
        counted.append((name, " / ".join(map(str, blocks)) if is_cosmo else f"every {blocks}", trained, total))
    reference = next(trained for name, _, trained, _ in counted if name == "OpenFlamingo-3B")
    return table(
        ["model", "depth / interval / ratio", "trained, millions", "of OpenFlamingo-3B", "in all, billions"],
        [
            [name, blocks, f"{trained / 1e6:,.1f}", f"{trained / reference:.1%}", f"{total / 1e9:.2f}"]
            for name, blocks, trained, total in counted
        ],
    )


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def between_marks(page, name):
    return re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)[1]


def main(parity):
    page = PAGE.read_text()
    for name, made in {
        "switches": switches(parity),
        "work": work(),
        "dropout": dropout(),
        "sizes": sizes_of_releases(),
    }.items():
        marks = rf"(<!-- {name} -->\n).*(<!-- /{name} -->)"
        page = re.sub(marks, lambda found, made=made: f"{found[1]}{made}\n{found[2]}", page, flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1])
