"""Memory that `from_pretrained` takes, for a folder of CosMo-2.1B's shape from warm disk.

    python -m benchmarks.loading [--write] [--tiny]

This writes random weights (3.7 GB in bfloat16) to a temporary folder and loads them in a separate process, which
samples its own memory. In the files' precision, weights stay in the mapped files until they are read, so each is read
once before the last sample. In another precision they are the process's own memory; pages of the files, which the
kernel drops when it needs room, are reported separately.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, OPTConfig

from benchmarks.table import Row, table, write_section
from modeling_cosmo import CosmoConfig, CosmoForConditionalGeneration


GOAL = "<= 1.2"
NOTES = (
    "Peak memory of a process that loads and then reads every weight once, above its level before, as a multiple of "
    "the weights in the precision asked for. Pages of mapped files count where they are the weights. Shape of "
    "CosMo-2.1B (OPT-1.3B, CLIP ViT-L/14, 12/2/2)."
)
SHARD_BYTES = 10**9
SAMPLE_EVERY_S = 0.002


def shape_of_2b() -> CosmoConfig:
    """Config of OPT-1.3B and CLIP ViT-L/14 with blocks 12/2/2, as released."""
    text = OPTConfig(
        vocab_size=50_278, hidden_size=2048, ffn_dim=8192, num_hidden_layers=24, num_attention_heads=32,
        word_embed_proj_dim=2048,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    return CosmoConfig(
        vision_config=vision, text_config=text, unimodal_depth=12, cross_attention_interval=2, compress_ratio=2,
        visual_token_id=50_273, end_of_chunk_token_id=50_272,
    )  # fmt: skip


def tiny_shape() -> CosmoConfig:
    """Config of a few megabytes, to try this file."""
    text = OPTConfig(
        vocab_size=500,
        hidden_size=128,
        ffn_dim=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        word_embed_proj_dim=128,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    return CosmoConfig(vision_config=vision, text_config=text, visual_token_id=499)


def write_folder(folder: Path, config: CosmoConfig, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write random weights in shards, with at most one shard in memory.

    Returns:
        Bytes of the weights; a tied head counts once.
    """
    with torch.device("meta"):
        model = CosmoForConditionalGeneration(config)
    config.dtype, config.architectures = dtype, [type(model).__name__]
    config.save_pretrained(folder)
    names = {name: tensor.shape for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(names, dtype.itemsize)):
        file = f"model-{number:05}.safetensors"
        save_file({name: torch.randn(names[name]).to(dtype) for name in shard}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
        total += sum(names[name].numel() * dtype.itemsize for name in shard)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _shards(names: dict[str, torch.Size], itemsize: int) -> Iterator[list[str]]:
    shard: list[str] = []
    for name in names:
        shard.append(name)
        if sum(names[one].numel() for one in shard) * itemsize > SHARD_BYTES:
            yield shard
            shard = []
    if shard:
        yield shard


def memory() -> dict[str, int]:
    """Bytes of this process in memory: its own, those of mapped files, and both."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "Rss"))}
    return {
        "own": kilobytes["RssAnon"] * 1024,
        "mapped": kilobytes["RssFile"] * 1024,
        "sum": kilobytes["VmRSS"] * 1024,
    }


def measure_here(folder: str, dtype: str) -> dict[str, int | float]:
    """Load the folder in this process; return peak and remaining memory above the level before."""
    before, peak, done = memory(), dict.fromkeys(("own", "mapped", "sum"), 0), threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name, value in memory().items():
                peak[name] = max(peak[name], value - before[name])
            time.sleep(SAMPLE_EVERY_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = CosmoForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
    seconds = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.detach().sum()
    time.sleep(10 * SAMPLE_EVERY_S)
    done.set()
    watcher.join()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    after = {f"{name} after": value - before[name] for name, value in memory().items()}
    return {"weights": weights, "seconds": seconds, **{f"{name} peak": value for name, value in peak.items()}, **after}


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Like `measure_here`, in a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.loading", "--measure", str(folder), "--dtype", dtype]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def rows(folder: Path) -> Iterator[Row]:
    """Peaks as multiples of the weights in the loaded precision."""
    for dtype, counted in (("bfloat16", "sum"), ("float32", "own")):
        found = measure(folder, dtype)
        ratio = {name: found[f"{name} peak"] / found["weights"] for name in ("own", "mapped", "sum")}
        yield Row(
            name=f"from_pretrained in {dtype}, files in bfloat16",
            value=ratio[counted],
            goal=GOAL,
            detail=f"weights {found['weights'] / 1e9:.2f} GB, {found['seconds']:.1f} s; peaks: own memory "
            f"{ratio['own']:.2f} x, pages of mapped files {ratio['mapped']:.2f} x, both {ratio['sum']:.2f} x",
        )


def main() -> None:
    """Write the folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="use a model of a few megabytes, to try this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="bfloat16", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.measure:
        print(json.dumps(measure_here(words.measure, words.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), tiny_shape() if words.tiny else shape_of_2b())
        found = list(rows(Path(folder)))
    print(table(found))
    if words.write:
        write_section("Loading", "python -m benchmarks.loading", NOTES, found)


if __name__ == "__main__":
    main()
