"""The quickstart's training on this device: losses beside those of the CPU, then scores.

The corpus is rendered and built here. A few steps in float32 run on the device and on the CPU from the same seed; then
the whole run, in bfloat16 where the device has it, trains a model and scores it on clips that it never saw.
"""

import json
import math
import os
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.gpu_kit.cells import Cell, Measured, Setup, num_processors
from dataset_builder.build import build_corpus
from dataset_builder.toy.videos import write_toy_videos
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from training.config import TrainingConfig, config_from_dict, read_yaml
from training.evaluation.toy import evaluate_toy
from training.loop import train


ROOT = Path(__file__).parents[2]
NUM_RETRIEVAL = 100
VIDEOS_A_WORKER = 20
"""Fewer are done before another process has started."""
LEARNED = 0.5
"""The loss at the end must be below this share of the first one, in a run that is long enough to learn."""


def cells(setup: Setup) -> list[Cell]:
    """The comparison first: it leaves corpus and features for the run."""
    run = RealRun(setup)
    steps = setup.shape.compared_steps
    return [
        Cell(
            name=f"losses of {steps} steps in float32 against the CPU, largest gap", unit="nats", goal="<= 1e-2",
            measure=run.compare,
        ),
        Cell(name=f"training of {setup.shape.steps} steps, loss at the end", unit="nats", measure=run.train),
        Cell(name="clips with shape and colour right", unit="%", measure=run.score),
    ]  # fmt: skip


class RealRun:
    """One corpus, three trainings: compared here, compared on the CPU, whole."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.folder = setup.folder / "real-run"
        self.trained: Path | None = None

    @cached_property
    def corpus(self) -> Path:
        """Toy videos and what `build_corpus` makes of them, by all processors."""
        workers = min(num_processors(), 1 + self.setup.shape.videos // VIDEOS_A_WORKER)
        write_toy_videos(self.folder / "videos", self.setup.shape.videos, 0, workers=workers)
        build_corpus(self.folder / "videos", self.folder / "corpus", "toy", workers=workers, progress=False)
        return self.folder / "corpus"

    def config(self, **changes: Any) -> TrainingConfig:
        """The quickstart's recipe on this corpus; features are computed once for all three."""
        own = {"corpus": str(self.corpus), "cache_dir": str(self.folder / "cache"), "eval_steps": 0}
        return config_from_dict({**read_yaml(self.setup.shape.recipe), **own, **changes})

    def few_steps(self) -> dict[str, Any]:
        """What is compared: single steps, in float32, as the CPU computes them."""
        steps = self.setup.shape.compared_steps
        return {
            "max_steps": steps,
            "warmup_steps": min(steps, 2),
            "logging_steps": 1,
            "save_steps": steps,
            "bf16": False,
        }

    def compare(self) -> Measured:
        """The same steps here and in a process that sees no GPU.

        The features of the frozen tower are those of this device for both.
        """
        train(self.config(**self.few_steps()), self.folder / "here")
        config = self.folder / "on-the-cpu.yaml"
        config.write_text(json.dumps(self.config(**self.few_steps()).to_dict()))  # JSON is YAML
        command = [
            sys.executable,
            "-m",
            "training.train",
            "--config",
            str(config),
            "--output",
            str(self.folder / "cpu"),
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
            check=False, timeout=max(30.0, self.setup.seconds_left()),
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the CPU's training failed: {done.stderr.strip().splitlines()[-1:]}")
        here, there = losses(self.folder / "here"), losses(self.folder / "cpu")
        if len(here) != self.setup.shape.compared_steps or len(here) != len(there):
            raise RuntimeError(f"{len(here)} losses here, {len(there)} on the CPU")
        gap = max(abs(own - other) for own, other in zip(here, there, strict=True))
        shown = f"first {here[0]:.4f} and {there[0]:.4f}, last {here[-1]:.4f} and {there[-1]:.4f}"
        return Measured(value=gap, detail=f"here and on the CPU: {shown}", figures={"here": here, "cpu": there})

    def train(self) -> Measured:
        """The whole run; one that is to learn and does not is a failure."""
        steps = self.setup.shape.steps
        config = self.config(max_steps=steps, warmup_steps=min(60, steps), save_steps=steps)
        begun = time.perf_counter()
        self.trained = train(config, self.folder / "whole")
        seconds = time.perf_counter() - begun
        found = losses(self.folder / "whole")
        if not all(map(math.isfinite, found)):
            raise RuntimeError(f"a loss is not finite: {found}")
        if steps >= 500 and found[-1] > LEARNED * found[0]:
            raise RuntimeError(f"nothing was learned: the loss went from {found[0]:.3f} to {found[-1]:.3f}")
        return Measured(
            value=found[-1], detail=f"first {found[0]:.3f}; {seconds:.0f} s, {steps / seconds:.1f} steps/s",
            figures={"losses": found, "steps_per_s": steps / seconds},
        )  # fmt: skip

    def score(self) -> Measured:
        """Captions and retrieval on the test split, the model on the device, beside the quickstart's on a CPU."""
        if self.trained is None:
            raise RuntimeError("no model was trained")
        model: Any = CosmoForConditionalGeneration.from_pretrained(self.trained)
        scores = evaluate_toy(
            model.to(self.setup.device), CosmoProcessor.from_pretrained(self.trained), self.folder / "videos" / "test",
            num_frames=self.config().num_frames, num_retrieval=NUM_RETRIEVAL, seed=0,
        )  # fmt: skip
        kept = {name: scores[name] for name in ("caption", "retrieval", "blind", "chance")}
        of_cpu = json.loads((ROOT / "docs" / "results" / "quickstart.json").read_text())
        caption = kept["caption"]
        return Measured(
            value=100 * caption["object_accuracy"],
            detail=f"action {100 * caption['action_accuracy']:.1f} %, text to video R@1 "
            f"{100 * kept['retrieval']['text_to_video_r1']:.1f} %; quickstart on a CPU, 2,000 steps: "
            f"{100 * of_cpu['caption']['object_accuracy']:.1f}, {100 * of_cpu['caption']['action_accuracy']:.1f}, "
            f"{100 * of_cpu['retrieval']['text_to_video_r1']:.1f} %",
            figures=kept,
        )


def losses(run: Path) -> list[float]:
    """The loss of every logged step of a run."""
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
