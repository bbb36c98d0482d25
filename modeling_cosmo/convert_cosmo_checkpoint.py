"""Convert released CosMo and OpenFlamingo checkpoints: `python -m modeling_cosmo.convert_cosmo_checkpoint --help`.

Weights are read as safetensors or with `weights_only=True`, never unpickled. See docs/converting.md.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.activations import ACT2FN

from .checkpoint_files_cosmo import read_object, read_state
from .checkpoint_names_cosmo import State, plain_names, released_name, rename, without_use
from .configuration_cosmo import CosmoConfig
from .hub_cosmo import WEIGHTS
from .modeling_cosmo import CosmoForConditionalGeneration
from .presets_cosmo import PRESETS, Format, find_preset
from .processing_cosmo import CosmoProcessor
from .released_config_cosmo import OPEN_CLIP_SIZES, build_config, find_format, read_vision_config
from .released_tokens_cosmo import build_processor, has_tokenizer
from .released_towers_cosmo import (
    Layout,
    fit_rows,
    read_language_model,
    read_layout,
    read_text_config,
    read_tower_config,
    read_vision_tower,
)
from .saved_folder_cosmo import remove_stale_files


UNFINISHED = ".unfinished-"
"""Prefix of the folder that a conversion writes to before it is finished."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Report of a conversion."""

    num_tensors: int
    """Tensors of the model that were filled."""
    format: Format
    """Which code base wrote the checkpoint."""
    unused: list[str]
    """Tensors of the checkpoint without a counterpart here."""
    ignored: list[str]
    """Tensors of the checkpoint that are known to be unused: old buffers, the text tower of CLIP."""
    missing: list[str]
    """Tensors of the model that the checkpoint leaves out; they were taken from the towers' folders."""
    resized: list[str]
    """Missing tensors that were resized to the checkpoint's number of tokens; new rows are the mean of the others."""

    def describe(self, output: str | Path) -> str:
        """The report as the command line prints it, several lines."""
        lines = [f"{self.num_tensors} tensors written to {output} (format {self.format})"]
        for kind in ("unused", "ignored", "missing", "resized"):
            lines += [f"{kind}: {name}" for name in getattr(self, kind)]
        return "\n".join(lines)


def convert_checkpoint(
    checkpoint: str | Path,
    architecture: str | Path | dict[str, Any] | None,
    output: str | Path,
    patch_tokens: Literal["before_ln_post", "after_ln_post"] = "before_ln_post",
    tokenizer: str | None = None,
    *,
    preset: str | None = None,
    text: str | Path | None = None,
    vision: str | Path | None = None,
    format: Format | None = None,
) -> Conversion:
    """Write a model folder that `from_pretrained` loads.

    Args:
        checkpoint: safetensors or torch file, index of shards, or folder of shards.
        architecture: JSON file, or its content: `kind` and values of the language model's config (`language_model`),
            of open_clip's vision tower (`vision`), token ids, and depth, interval and ratio if known.
        output: folder to write; an earlier model in it stays until the new one is complete.
        patch_tokens: which patch tokens the weights were trained on; see `CosmoConfig.patch_tokens`.
        tokenizer: path or id of the language model's tokenizer, to write a processor too. Default: the one in `text`,
            if there is no architecture.
        preset: name of the released model that this checkpoint must be; see `presets_cosmo`.
        text: path or id of the language model, for its config and for weights that the checkpoint leaves out.
        vision: the same for the vision tower, or for a CLIP or SigLIP that contains it.
        format: which code base wrote the checkpoint. Default: read off its tensors.

    Raises:
        ValueError: if the checkpoint cannot be read, lacks a tensor, or contradicts the rest, naming a tensor.
        OSError: if the model cannot be written.
    """
    chosen, known = None if preset is None else find_preset(preset), _read_architecture(architecture)
    text, vision = (None if tower is None else str(tower) for tower in (text, vision))
    _check_sources(Path(checkpoint), Path(output), known, preset, text, vision)
    state = read_state(Path(checkpoint))
    form = find_format(state, format, "the option format")
    if chosen is not None:
        find_format(state, chosen.format, f"the preset {preset}")
    with _told_by_name("the architecture" if text is None else f"the language model {text}"):
        text_config = _text_config(known) if text is None else read_text_config(text)
        layout = read_layout(text_config)
    with _told_by_name("the architecture" if vision is None else f"the vision tower {vision}"):
        vision_config = read_vision_config(known["vision"]) if vision is None else read_tower_config(vision)
    state = plain_names(state, f"{layout.base}.{layout.layers}")
    renamed, unused = rename(state, layout.base)

    if tokenizer is None and not known and text is not None and has_tokenizer(text):
        tokenizer = text
    processor = None if tokenizer is None else build_processor(str(tokenizer), form, vision, vision_config)
    text_config.vocab_size = _count_tokens(renamed, layout, processor, text_config.vocab_size)
    token_ids = _token_ids(known, processor)
    with _told_by_name("the architecture"):
        config = build_config(known, state, text_config, vision_config, patch_tokens, token_ids, chosen)
    _check_tokens(config)
    if processor is not None:
        processor.check_config(config)

    added = _read_towers(renamed, text, vision, layout, _widest_dtype(renamed))
    resized = _fit_tokens(added, layout, config)
    model = load_model(config, renamed | added, lambda name: _origin(state, name, layout))
    with _written_aside(Path(output)) as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    return Conversion(
        num_tensors=len(renamed) + len(added),
        format=form,
        unused=unused,
        ignored=without_use(state),
        missing=sorted(added),
        resized=resized,
    )


def load_model(config: CosmoConfig, state: State, origin: Callable[[str], str]) -> CosmoForConditionalGeneration:
    """Build a model from these tensors, ready to be saved.

    Args:
        config: of the model.
        state: tensors under the model's names.
        origin: gives the name of one of these tensors for errors.

    Raises:
        ValueError: if a tensor is missing, is left over, or has a shape that the architecture does not expect.
    """
    with _told_by_name("the architecture"), torch.device("meta"):
        model = CosmoForConditionalGeneration(config)
    expected = model.state_dict()
    if config.tie_word_embeddings:
        _drop_tied_head(expected, state, model, origin)
    for name, tensor in state.items():
        if name not in expected:
            raise ValueError(f"the checkpoint has {origin(name)}, which the architecture does not have")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"tensor {origin(name)} has shape {tuple(tensor.shape)}; the architecture expects "
                f"{tuple(expected[name].shape)}"
            )
    if missing := sorted(expected.keys() - state.keys()):
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors of the architecture: {', '.join(missing)}")
    dtype = _widest_dtype(state)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, strict=False, assign=True)
    model.tie_weights()
    return model


def _drop_tied_head(expected: State, state: State, model: CosmoForConditionalGeneration, origin: Any) -> None:
    expected.pop("lm_head.weight")
    head = state.pop("lm_head.weight", None)
    embeddings = model.get_input_embeddings()
    table = next(state.get(f"{name}.weight") for name, module in model.named_modules() if module is embeddings)
    if head is not None and table is not None and not torch.equal(head, table):
        raise ValueError(
            f"tensor {origin('lm_head.weight')} differs from the token embeddings, but the language model's config "
            "says that both are the same (tie_word_embeddings)"
        )


def _read_architecture(architecture: str | Path | dict[str, Any] | None) -> dict[str, Any]:
    if architecture is None or isinstance(architecture, dict):
        return architecture or {}
    return read_object(Path(architecture))


@contextmanager
def _told_by_name(source: str) -> Iterator[None]:
    """Turn failures to read a config, or to build a model from it, into a ValueError that names its source."""
    try:
        yield
    except ValueError:
        raise
    except (OSError, StrictDataclassError) as error:
        raise ValueError(f"{source} cannot be used: {error}") from error
    except Exception as error:  # layers of a wrong size or kind: KeyError, TypeError, RuntimeError, ...
        raise ValueError(f"{source} cannot be used: {type(error).__name__}: {error}") from error


@contextmanager
def _written_aside(output: Path) -> Iterator[Path]:
    """Yield a folder inside `output`, and move its files to `output` once all of them are written.

    Raises:
        OSError: if they cannot be written, for example on a full disk.
    """
    output.mkdir(parents=True, exist_ok=True)
    for left_over in output.glob(f"{UNFINISHED}*"):  # from a conversion that was killed
        shutil.rmtree(left_over)
    try:
        with TemporaryDirectory(dir=output, prefix=UNFINISHED) as aside:
            yield Path(aside)
            written = sorted(Path(aside).iterdir())
            for path in written:
                path.replace(output / path.name)
    except SafetensorError as error:  # safetensors reports failed writes with an error type of its own
        raise OSError(f"{output} cannot be written: {error}") from error
    names = {path.name for path in written}
    for path in output.iterdir():
        if WEIGHTS.fullmatch(path.name) and path.name not in names:
            path.unlink()
    remove_stale_files(output)


def _check_sources(
    checkpoint: Path, output: Path, known: dict[str, Any], preset: str | None, text: str | None, vision: str | None
) -> None:
    if preset is not None and known:
        raise ValueError("give an architecture or a preset, not both")
    if not known and (text is None or vision is None):
        raise ValueError("give an architecture, or text and vision (the towers' folders), with a preset or without")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: name a folder to write")
    checkpoint = checkpoint.resolve()
    folder = checkpoint.parent if WEIGHTS.fullmatch(checkpoint.name) else checkpoint
    for name, source in (("the checkpoint", folder), ("the language model", text), ("the vision tower", vision)):
        if source is not None and Path(source).resolve() == output.resolve():
            raise ValueError(f"{output} holds {name}, which would be overwritten: write to another folder")
    for name in ("language_model", "vision", "perceiver"):
        if not isinstance(known.get(name, {}), dict):
            raise ValueError(f"{name} in the architecture is {known[name]!r:.80}; it must be an object")
    lacking = []
    if known:
        needed = ["media_token_id", "eoc_token_id"]
        needed += ["kind", "language_model"] if text is None else []
        needed += ["vision"] if vision is None else []
        lacking = [name for name in needed if name not in known]
    if known and vision is None:
        lacking += [
            f"{name} of vision" for name in OPEN_CLIP_SIZES if name not in known.get("vision", OPEN_CLIP_SIZES)
        ]
    if lacking:
        raise ValueError(f"the architecture lacks {', '.join(lacking)}")
    _check_values(known)


def _check_values(known: dict[str, Any]) -> None:
    """Refuse values on which the libraries that build the model would fail without naming a key.

    Raises:
        ValueError: naming the key, what was found and what was expected.
    """
    rules: tuple[tuple[str, tuple[str, ...], Callable[[Any], bool], str], ...] = (
        ("", ("kind",), lambda value: isinstance(value, str) and value in CONFIG_MAPPING,
         "a kind of language model of transformers, such as 'opt'"),
        ("", ("unimodal_depth", "media_token_id", "eoc_token_id"), lambda value: type(value) is int and value >= 0,
         "a whole number from 0"),
        ("", ("interval_layer", "cross_attn_every_n_layers"), _is_size, "a whole number from 1"),
        ("", ("pad_token_id", "bos_token_id"), lambda value: value is None or type(value) is int, "an id or null"),
        ("", ("only_attend_immediate_media",), lambda value: isinstance(value, bool), "true or false"),
        ("", ("contrastive_temperature_init",), _is_number, "a number"),
        ("language_model", ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"), _is_size,
         "a whole number from 1"),
        ("language_model", ("activation_function", "hidden_act"), _is_activation, "an activation of transformers"),
        ("vision", OPEN_CLIP_SIZES, _is_size, "a whole number from 1"),
        ("vision", ("mlp_ratio",), lambda value: _is_number(value) and value > 0, "a number above 0"),
        ("vision", ("act",), _is_activation, "an activation of transformers, such as 'gelu' or 'quick_gelu'"),
    )  # fmt: skip
    for part, names, is_right, expected in rules:
        values = known.get(part, {}) if part else known
        for name in names:
            if name in values and not is_right(values[name]):
                key = f"{name} of {part}" if part else name
                raise ValueError(f"{key} in the architecture is {values[name]!r:.80}; it must be {expected}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value in ACT2FN


def _text_config(known: dict[str, Any]) -> Any:
    values = {name: value for name, value in known["language_model"].items() if name != "model_type"}
    return AutoConfig.for_model(known["kind"], **values)


def _count_tokens(renamed: State, layout: Layout, processor: CosmoProcessor | None, known: int) -> int:
    """Rows of the token table: as many as the checkpoint has, or else enough for the tokenizer."""
    num_needed = 0 if processor is None else len(processor.tokenizer)
    table = renamed.get(f"model.language_model.{layout.embedding}.weight")
    if table is None or table.ndim != 2 or not len(table):  # a wrong shape is refused by name later
        return max(known, num_needed)
    if num_needed > len(table):
        raise ValueError(
            f"the tokenizer has {num_needed} tokens including those of the release, but the token embeddings of the "
            f"checkpoint ({layout.base}.{layout.embedding}.weight) have {len(table)} rows"
        )
    return len(table)


def _token_ids(known: dict[str, Any], processor: CosmoProcessor | None) -> dict[str, Any]:
    """Ids of the special tokens, by the names of `CosmoConfig`'s fields."""
    if known:
        return {
            "visual_token_id": known["media_token_id"],
            "end_of_chunk_token_id": known["eoc_token_id"],
            "pad_token_id": known.get("pad_token_id"),
            "bos_token_id": known.get("bos_token_id"),
        }
    if processor is None:
        raise ValueError("the ids of the special tokens come from a tokenizer: give one (text holds none)")
    return processor.token_ids() | {"bos_token_id": processor.tokenizer.bos_token_id}


def _check_tokens(config: CosmoConfig) -> None:
    for name in ("visual_token_id", "end_of_chunk_token_id"):
        token_id, num_tokens = getattr(config, name), config.text_config.vocab_size
        if token_id is None or not 0 <= token_id < num_tokens:
            raise ValueError(f"{name} is {token_id}, but the checkpoint has embeddings of {num_tokens} tokens")


def _read_towers(renamed: State, text: str | None, vision: str | None, layout: Layout, dtype: torch.dtype) -> State:
    """Read the tensors that a checkpoint of only the trained parts leaves out."""
    added: State = {}
    if not any(name.startswith("model.vision_tower.") for name in renamed):
        if vision is None:
            raise ValueError("the checkpoint holds no vision tower: give its folder as vision")
        added |= read_vision_tower(vision, dtype)
    if not any(".decoder_layer." in name for name in renamed):
        if text is None:
            raise ValueError("the checkpoint holds no layer of the language model: give its folder as text")
        added |= read_language_model(text, layout, dtype)
    return {name: tensor for name, tensor in added.items() if name not in renamed}


def _fit_tokens(added: State, layout: Layout, config: CosmoConfig) -> list[str]:
    """Resize a tower's token table and head to the config's vocabulary; return the names of what changed."""
    if config.tie_word_embeddings:
        added.pop("lm_head.weight", None)
    num_rows = config.text_config.vocab_size
    names = (f"model.language_model.{layout.embedding}.weight", "lm_head.weight")
    resized = [name for name in names if name in added and len(added[name]) != num_rows]
    for name in resized:
        added[name] = fit_rows(added[name], num_rows)
    return resized


def _widest_dtype(state: State) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))


def _origin(state: State, name: str, layout: Layout) -> str:
    """Name of a tensor in the checkpoint or the tower, with its name here."""
    found = released_name(state, name, layout.base)
    return name if found is None else f"{found} (here {name})"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="convert_cosmo_checkpoint", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="safetensors or torch file, index, or folder of shards")
    parser.add_argument("--architecture", help="JSON file with the sizes of both towers")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--format", choices=("cosmo", "openflamingo"), help="default: read off the tensors")
    parser.add_argument("--preset", help=f"instead of an architecture: {', '.join(PRESETS)}")
    parser.add_argument("--text", help="path or id of the language model")
    parser.add_argument("--vision", help="path or id of the vision tower, or of a CLIP that contains it")
    parser.add_argument("--patch-tokens", choices=("before_ln_post", "after_ln_post"), default="before_ln_post")
    parser.add_argument(
        "--tokenizer", help="path or id of the language model's tokenizer: writes a processor too (default: in --text)"
    )
    options = parser.parse_args(arguments)
    try:
        done = convert_checkpoint(**vars(options))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write(f"{done.describe(options.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
