"""Training loop on Accelerate, in one process or many; a resumed run equals one that never stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from tqdm import tqdm

from dataset_builder.atomic import recover, replacing_folder
from training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from training.config import SOURCES, TrainingConfig
from training.data.batches import Batch, Batches
from training.data.clips import corpus_digest
from training.data.collate import to_device
from training.interruption import Interrupted, stop_request
from training.optimization import build_optimizer, learning_rate_at, set_learning_rate, trainable_parameters
from training.progress import Clock, LossWindow
from training.run_folder import MetricsLog, check_same_run, open_run
from training.setup import build_batches, build_model, describe_parameters, prepare_corpus


def train(config: TrainingConfig, output: str | Path) -> Path:
    """Train as configured and save model and processor; continue the run if the folder holds part of it.

    Args:
        config: configuration of the run.
        output: the run folder: config.yaml, environment.json, metrics.jsonl, checkpoints/, model/.

    Returns:
        `output/model`.

    Raises:
        ValueError: if the corpus or model does not fit the config, or another config began the folder.
        Interrupted: after SIGTERM, once the current step is saved.
    """
    output = Path(output)
    check_same_run(output, config)
    with one_run(config) as accelerator:
        if accelerator.is_main_process:
            recover(output)
            recover(output / "checkpoints")
        accelerator.wait_for_everyone()
        checkpoints = list_checkpoints(output / "checkpoints")
        if (output / "model").is_dir() and checkpoints and checkpoints[-1].name == f"step-{config.max_steps}":
            accelerator.print(f"{output} is finished: {config.max_steps} steps, model in {output / 'model'}")
            return output / "model"
        run = Run(config, output, accelerator)
        if checkpoints:
            run.resume(checkpoints[-1])
        with stop_request() as stop:
            run.fit(stop)
        return run.finish()


@contextmanager
def one_run(config: TrainingConfig) -> Iterator[Accelerator]:
    """Yield an Accelerator for one run and clean up after it, so that a later run may use another precision.

    Accelerate keeps its settings for the whole process. They are cleared, as transformers' `TrainingArguments` does,
    unless they existed before.
    """
    is_ours = not AcceleratorState._shared_state
    accelerator = build_accelerator(config)
    try:
        yield accelerator
    finally:
        accelerator.end_training()
        if is_ours:
            AcceleratorState._reset_state(reset_partial_state=True)


def build_accelerator(config: TrainingConfig) -> Accelerator:
    """Build the Accelerator of this launch, in bfloat16 if `bf16` is set (`auto`: if the GPU supports it)."""
    use_bf16 = config.bf16 if config.bf16 != "auto" else torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    active = [source for source in SOURCES if config.weight(source)]
    # Batches without the contrastive loss give its head no gradient.
    head_idle = not all(config.contrastive(source) for source in active)
    return Accelerator(
        mixed_precision="bf16" if use_bf16 else "no",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=head_idle)],
    )


class Run:
    """One training run in its folder."""

    def __init__(self, config: TrainingConfig, output: Path, accelerator: Accelerator) -> None:
        self.config, self.output, self.accelerator = config, output, accelerator
        set_seed(config.seed)
        self.bare_model, self.processor = build_model(config)
        self.bare_model.to(accelerator.device)
        if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu":
            # Per core with AMX: 230 clips/s, 172 with sdpa in bfloat16, 182 in float32 (docs/training.md).
            self.bare_model.set_attn_implementation("eager")
        accelerator.print(describe_parameters(self.bare_model))
        with accelerator.main_process_first():
            corpus = prepare_corpus(config, output)
        if accelerator.is_main_process:
            open_run(output, config, corpus_digest(corpus, config.train_split), accelerator.num_processes)
        accelerator.wait_for_everyone()
        batches = lambda split: build_batches(
            corpus, split, self.bare_model, self.processor, config, output, accelerator
        )
        self.batches = batches(config.train_split)
        self.validation: Batches | None = batches(config.validation_split) if config.eval_steps else None
        self.bare_optimizer = build_optimizer(self.bare_model, config)
        self.model, self.optimizer = accelerator.prepare(self.bare_model, self.bare_optimizer)
        self.window = LossWindow(list(self.batches.sources), accelerator.device)
        self.step = 0

    def resume(self, checkpoint: Path) -> None:
        """Continue from a saved step."""
        self.step, window = load_checkpoint(checkpoint, self.bare_model, self.bare_optimizer)
        self.window.load(window)
        self.accelerator.print(f"resuming after step {self.step}")

    def fit(self, stop: dict[str, bool]) -> None:
        """Train up to `max_steps`; once `stop["asked"]` is set, save and raise `Interrupted`."""
        config = self.config
        metrics = MetricsLog(self.output / "metrics.jsonl", self.step) if self.accelerator.is_main_process else None
        stream = self.batches.starting_at(self.step * config.gradient_accumulation_steps)
        clock = Clock()
        self.model.train()
        bar = tqdm(
            total=config.max_steps, initial=self.step, unit="step", disable=not self.accelerator.is_main_process
        )
        while self.step < config.max_steps:
            learning_rate = learning_rate_at(self.step, config)
            gradient_norm, asked = self._optimizer_step(stream, learning_rate, stop, clock)
            self.step += 1
            bar.update()
            last = self.step == config.max_steps
            validate = self.validation is not None and (self.step % config.eval_steps == 0 or last)
            if self.step % config.logging_steps == 0 or validate or last:
                line = {"step": self.step, **self.window.close(self.accelerator)}
                line |= {"learning_rate": learning_rate, "grad_norm": gradient_norm.item()}
                bar.set_postfix(loss=f"{line['loss']:.3f}")
                line |= self._validate() if validate else {}
                if metrics:
                    metrics.write(line | {"time": clock.read(self.accelerator.num_processes)})
            if self.step % config.save_steps == 0 or last or asked:
                self._save()
            if asked and not last:
                raise Interrupted(f"stopped after step {self.step}; the same command continues from there")
        bar.close()

    def finish(self) -> Path:
        """Write `model/`, with weights, processor and code."""
        folder = self.output / "model"
        if self.accelerator.is_main_process:
            with replacing_folder(folder) as partial:
                self.bare_model.save_pretrained(partial)
                self.processor.save_pretrained(partial)
        self.accelerator.wait_for_everyone()
        return folder

    def _optimizer_step(
        self, stream: Iterator[Batch], learning_rate: float, stop: dict[str, bool], clock: Clock
    ) -> tuple[torch.Tensor, bool]:
        """Do one update; return the gradient norm before clipping, and whether any process was asked to stop."""
        config, asked = self.config, False
        set_learning_rate(self.bare_optimizer, learning_rate)
        # Random numbers depend on the step only, so a resumed run draws the same ones.
        torch.manual_seed(config.seed * 1_000_003 + self.step * self.accelerator.num_processes + self.batches.rank)
        norm = torch.zeros(())
        for _ in range(config.gradient_accumulation_steps):
            batch = next(stream)
            with self.accelerator.accumulate(self.model):
                loss, asked = self._losses(batch, stop)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    trained = trainable_parameters(self.bare_model).values()
                    norm = self.accelerator.clip_grad_norm_(trained, config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            clock.count(batch)
        return norm, asked

    def _losses(self, batch: Batch, stop: dict[str, bool]) -> tuple[torch.Tensor, bool]:
        """Return this process's share of the global batch's loss, and add it to the window.

        The model's language loss is a mean over this process's tokens. It is scaled by this process's share of all
        tokens, so that the average which DistributedDataParallel takes is the mean over all tokens. The contrastive
        loss is global already.
        """
        inputs = to_device(batch.inputs, self.accelerator.device)
        share, asked = self._token_share(inputs["labels"], stop)
        output = self.model(**inputs, compute_contrastive=batch.contrastive)
        lm_loss = output.lm_loss * share
        contrastive = output.contrastive_loss if batch.contrastive else None
        weight = self.bare_model.config.contrastive_weight
        loss = lm_loss if contrastive is None else lm_loss + weight * contrastive
        self.window.add(batch.source, loss, lm_loss, contrastive)
        return loss, asked

    def _token_share(self, labels: torch.Tensor, stop: dict[str, bool]) -> tuple[float, bool]:
        """Return this process's share of the counted tokens times the number of processes; and whether to stop."""
        if self.accelerator.num_processes == 1:
            return 1.0, stop["asked"]
        here = torch.tensor([(labels[:, 1:] != -100).sum().item(), stop["asked"]], device=labels.device)
        everywhere = self.accelerator.reduce(here.clone(), reduction="sum")
        return float(self.accelerator.num_processes * here[0] / everywhere[0]), bool(everywhere[1])

    def _validate(self) -> dict[str, Any]:
        """Return losses on the validation split, named `eval_...`; nothing is trained or added to the window."""
        assert self.validation is not None
        self.model.eval()
        window, self.window = self.window, LossWindow(list(self.validation.sources), self.accelerator.device)
        with torch.no_grad():
            for batch in self.validation.validation():
                self._losses(batch, {"asked": False})
        losses = self.window.close(self.accelerator)
        self.window = window
        self.model.train()
        return {f"eval_{name}": value for name, value in losses.items()}

    def _save(self) -> None:
        """Write a checkpoint, in the first process only."""
        window = self.window.state(self.accelerator)
        if self.accelerator.is_main_process:
            folder, keep = self.output / "checkpoints", self.config.save_total_limit
            save_checkpoint(folder, self.step, self.bare_model, self.bare_optimizer, window, keep)
        self.accelerator.wait_for_everyone()
