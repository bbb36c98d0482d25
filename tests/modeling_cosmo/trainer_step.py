"""One optimizer step of transformers' `Trainer` on a tiny CosMo, in this process or as one of several.

As a program it is one of several processes: `python -m tests.modeling_cosmo.trainer_step FOLDER CASE...` runs the
named cases with torchrun's environment and writes `CASE-RANK.pt` with the gradients before the step.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import distributed
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_cosmo import CosmoDataCollator, CosmoProcessor
from tests.modeling_cosmo.tiny import build, open_gates, tiny_tokenizer, tiny_vision


ROOT = Path(__file__).parents[2]
TEXTS = [  # 3, 20, 7 and 12 labels or so: parts of a batch whose means must not weigh the same
    "<visual>a red star",
    "<visual>a red star rolls left in front of the bricks<|endofchunk|>a blue ring",
    "<visual>a blue ring grows",
    "<visual>a blue ring grows before the sea<|endofchunk|>",
]
CASES = {  # rows per process and part, parts per step, whether the contrastive loss counts, samples of words alone
    "rows2-lm": (2, 1, False, 0),
    "rows1-parts2-lm": (1, 2, False, 0),
    "rows2-both": (2, 1, True, 0),
    "rows2-words": (2, 1, True, 2),
}


def tiny_processor():
    return CosmoProcessor.from_towers(tiny_vision(), tiny_tokenizer(), num_frames=3)


def samples(words_alone=0):
    """Four samples, the last `words_alone` of them without a picture."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (len(TEXTS), 13, 17, 3), generator=generator, dtype=torch.uint8).numpy()
    shown = [{"text": text, "images": [Image.fromarray(picture)]} for text, picture in zip(TEXTS, noise, strict=True)]
    first = len(TEXTS) - words_alone
    return shown[:first] + [{"text": text.replace("<visual>", "")} for text in TEXTS[first:]]


def tiny_model(processor, **options):
    torch.manual_seed(5)
    model = open_gates(build("opt", processor, freeze_towers=True, **options))
    model.config.text_config.dropout = 0.0
    return model


class KeepGradients(TrainerCallback):
    """Copies of every gradient as the optimizer sees it."""

    def __init__(self):
        self.gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        named = model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def arguments(folder, **options):
    fixed = {"max_steps": 1, "max_grad_norm": 0.0, "report_to": [], "use_cpu": True, "save_strategy": "no",
             "disable_tqdm": True, "dataloader_pin_memory": False, "remove_unused_columns": False,
             "logging_strategy": "no", "ddp_find_unused_parameters": True}  # fmt: skip
    return TrainingArguments(str(folder), **fixed | options)


def gradients_of_a_step(folder, rows, parts, contrastive, words_alone=0, seen=None):
    """Gradients of one step over `rows * parts` samples in each process; `seen` receives the parts."""
    processor = tiny_processor()
    keep = KeepGradients()

    def collate(batch):
        part = CosmoDataCollator(processor)(batch) | {"compute_contrastive": contrastive}
        if seen is not None:
            seen.append(part)
        return part

    trainer = Trainer(
        tiny_model(processor),
        arguments(
            folder,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=parts,
            train_sampling_strategy="sequential",
        ),
        data_collator=collate,
        train_dataset=samples(words_alone),
        callbacks=[keep],
    )
    trainer.train()
    return keep.gradients


def run_processes(module, *words, count=2, timeout_s=240):
    """Start `count` copies of a module that meet on gloo, and wait for them."""
    # Like torchrun: the port is reserved from now on, so nobody else has it when the processes connect.
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    where |= {"TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    where |= {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


if __name__ == "__main__":
    output, *cases = sys.argv[1:]
    for case in cases:
        torch.save(gradients_of_a_step(output, *CASES[case]), Path(output, f"{case}-{os.environ['RANK']}.pt"))
