"""Quickstart: narrated toy videos -> corpus -> CosMo -> scores on unseen clips -> a model folder and a report."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dataset_builder.atomic import recover, replacing_folder, write_whole
from dataset_builder.build import build_corpus
from dataset_builder.recipe import load_recipe
from dataset_builder.toy.train_towers import SHIPPED, TowerSettings, train_towers
from dataset_builder.toy.videos import write_toy_videos
from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor
from training.config import TrainingConfig, config_from_dict, read_yaml
from training.evaluation.borders import border_scores
from training.evaluation.toy import evaluate_toy
from training.loop import train
from training.publishing.model_card import quickstart_card
from training.quickstart.report import write_report
from training.quickstart.stages import Stages, digest_sources, sole_user
from training.run_folder import code_revision


ROOT = Path(__file__).resolve().parents[2]
SMOKE = "quickstart-smoke"
FULL = "quickstart"
MAIN_STAGES = ("towers", "videos", "corpus", "training", "evaluation")
FRAME_ORDER_STAGES = ("training-without-frame-positions", "evaluation-without-frame-positions")


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Settings of rendering and scoring; those of the training are in the recipe of the same name."""

    num_videos: int
    num_retrieval: int
    """Number of clips, with different captions, in the search."""
    towers: TowerSettings = field(default_factory=TowerSettings)
    """Settings for training the towers from scratch."""
    seed: int = 0


SETTINGS = {
    FULL: QuickstartSettings(num_videos=1200, num_retrieval=100),
    SMOKE: QuickstartSettings(
        num_videos=30,
        num_retrieval=10,
        towers=TowerSettings(clip_steps=20, clip_batch_size=32, clip_scenes=64, opt_steps=20, eval_scenes=32),
    ),
}


class Quickstart:
    """Stages of one quickstart in its folder."""

    def __init__(self, output: Path, name: str, say: Callable[[str], None]) -> None:
        if name not in SETTINGS:
            raise ValueError(f"no quickstart named {name!r}; there are {', '.join(SETTINGS)}")
        self.output, self.name, self.settings = output, name, SETTINGS[name]
        self.towers = SHIPPED
        self.stages = Stages(output, say)

    @property
    def videos(self) -> Path:
        """Folder of the toy videos, with one folder per split."""
        return self.output / "videos"

    @property
    def corpus(self) -> Path:
        """Folder of the corpus."""
        return self.output / "corpus"

    def config(self, **changes: Any) -> TrainingConfig:
        """Return the recipe of this quickstart with its own corpus and towers, and some keys changed."""
        return config_from_dict(
            {
                **read_yaml(self.name),
                "corpus": str(self.corpus),
                "vision": str(self.towers / "clip"),
                "text": str(self.towers / "opt"),
                "cache_dir": str(self.output / "cache"),
                "seed": self.settings.seed,
                "bf16": True if torch.cpu.get_capabilities().get("amx_bf16") else "auto",  # AMX: 1.3x on a CPU
                **changes,
            }
        )

    def _claim(self, name: str, depends_on: object) -> None:
        """Empty a stage's folder, unless the same code and settings started it: then the stage continues."""
        note, wanted = self.output / f"{name}.begun.json", json.dumps(depends_on, sort_keys=True)
        if not note.is_file() or note.read_text() != wanted:
            shutil.rmtree(self.output / name, ignore_errors=True)
            write_whole(note, wanted)

    def make_towers(self) -> None:
        """Train the towers from scratch, instead of using the shipped ones."""
        self.towers = self.output / "towers"
        depends_on = [dataclasses.asdict(self.settings.towers), digest_sources(ROOT / "dataset_builder" / "toy")]

        def work() -> None:
            self._claim("towers", depends_on)
            train_towers(self.towers, self.settings.towers)

        self.stages.run("towers", depends_on, [self.towers / "README.md"], work)

    def make_videos(self) -> None:
        """Render the toy videos."""
        depends_on = [dataclasses.asdict(self.settings), digest_sources(ROOT / "dataset_builder" / "toy")]

        def work() -> None:
            self._claim("videos", depends_on)
            write_toy_videos(self.videos, self.settings.num_videos, self.settings.seed)

        self.stages.run("videos", depends_on, [self.videos / "test"], work)

    def make_corpus(self) -> None:
        """Build the corpus; `build_corpus` itself continues where it stopped."""
        depends_on = digest_sources(ROOT / "dataset_builder")
        recipe = load_recipe("toy", {"segment.tower": str(self.towers / "clip")} if self.towers != SHIPPED else None)
        work = lambda: void(build_corpus(self.videos, self.corpus, recipe))
        self.stages.run("corpus", depends_on, [self.corpus / "README.md"], work)

    def train(self, stage: str, **changes: Any) -> Path:
        """Train a model; `train` itself continues where it stopped, unless the code or config changed."""
        folder, config = self.output / stage, self.config(**changes)
        depends_on = [config.to_dict(), model_sources()]
        after = self.stages.chain

        def work() -> None:
            self._claim(stage, [after, depends_on])
            train(config, folder)

        self.stages.run(stage, depends_on, [folder / "model"], work)
        return folder / "model"

    def evaluate(self, stage: str, model_folder: Path) -> dict[str, Any]:
        """Score a model on the test split."""
        path = self.output / f"{stage}.json"

        def work() -> None:
            scores = evaluate_toy(
                CosmoForConditionalGeneration.from_pretrained(model_folder),
                CosmoProcessor.from_pretrained(model_folder),
                self.videos / "test",
                num_frames=self.config().num_frames,
                num_retrieval=self.settings.num_retrieval,
                seed=self.settings.seed,
            )
            scores["borders"] = border_scores(self.corpus, self.videos, "train")
            write_whole(path, json.dumps(scores, indent=1) + "\n")

        self.stages.run(stage, model_sources(), [path], work)
        scores: dict[str, Any] = json.loads(path.read_text())
        return scores

    def finish(self, scores: dict[str, Any], without: dict[str, Any] | None) -> dict[str, Any]:
        """Write the model folder with its card, results.json and report.html."""
        trained = self.output / "training" / "model"
        model = CosmoForConditionalGeneration.from_pretrained(trained)
        model.freeze_towers()
        share = model.num_parameters(only_trainable=True) / model.num_parameters()
        names = [name for name in MAIN_STAGES if name in self.stages.done]
        results = {
            **{key: scores[key] for key in ("caption", "retrieval", "blind", "chance", "borders")},
            "frame_order": {
                "with_frame_positions": scores["order_accuracy"],
                "without": without["order_accuracy"] if without else None,
            },
            "trainable_share": share,
            "seconds": sum(self.stages.seconds(names).values()),
            "peak_memory_gb": self.stages.peak_memory_gb(names),
            "stages": self.stages.seconds(names),
            "revision": code_revision(),
            "seed": self.settings.seed,
            "command": command_line(),
        }
        with replacing_folder(self.output / "model") as folder:
            shutil.copytree(trained, folder, dirs_exist_ok=True)
            card = quickstart_card(model.config, results, self.output.name)
            (folder / "README.md").write_text(card, encoding="utf-8")
        write_whole(self.output / "results.json", json.dumps(results, indent=1) + "\n")
        write_report(self.output / "report.html", results, scores, self.output / "training", self.videos / "test")
        return results


def void(_: object) -> None:
    """Drop a result that a stage does not need."""


def model_sources() -> str:
    """Return a digest of the code that a trained model and its scores depend on."""
    above = {ROOT / "training" / name for name in ("quickstart", "publishing")}
    files = [path for path in sorted((ROOT / "training").rglob("*.py")) if path.parent not in above]
    return digest_sources(ROOT / "modeling_cosmo", *files)


def command_line() -> str:
    """Return the command line of this process, without the folder of the program."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def run_quickstart(
    output: Path,
    name: str,
    *,
    train_own_towers: bool = False,
    frame_order: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run every stage that is not done yet, and write `model/`, `results.json` and `report.html`.

    Args:
        output: the run's folder.
        name: `quickstart`, or `quickstart-smoke` for a run of a few minutes that learns little.
        train_own_towers: train the toy towers first, from scratch.
        frame_order: also train a second model without frame position embeddings, and compare.
        say: gets the lines that report progress.

    Returns:
        The content of results.json.

    Raises:
        ValueError: if the name is unknown, or another process is using the folder.
    """
    with sole_user(output):
        recover(output)
        return _run_stages(Quickstart(output, name, say), train_own_towers, frame_order)


def _run_stages(quickstart: Quickstart, train_own_towers: bool, frame_order: bool) -> dict[str, Any]:
    """Run one stage after the other."""
    if train_own_towers:
        quickstart.make_towers()
    quickstart.make_videos()
    quickstart.make_corpus()
    model = quickstart.train("training")
    scores = quickstart.evaluate("evaluation", model)
    without = None
    if frame_order or quickstart.stages.follow(quickstart.stages.chain, FRAME_ORDER_STAGES):
        train_stage, evaluate_stage = FRAME_ORDER_STAGES
        without = quickstart.evaluate(evaluate_stage, quickstart.train(train_stage, max_frames=0))
    results = quickstart.finish(scores, without)
    quickstart.stages.say(describe(results, quickstart.output))
    return results


def describe(results: dict[str, Any], output: Path) -> str:
    """Return the closing lines: scores, where everything is, and how to use it."""
    caption, retrieval = results["caption"], results["retrieval"]
    blind, chance = results["blind"], results["chance"]
    rows = [
        ("shape and colour", "caption", "object_accuracy"),
        ("action", "caption", "action_accuracy"),
        ("text to video R@1", "retrieval", "text_to_video_r1"),
        ("video to text R@1", "retrieval", "video_to_text_r1"),
    ]
    lines = [
        "",
        f"On {caption['num']} clips and {retrieval['num']} searches of combinations never seen in training:",
        f"{'':20}{'CosMo':>8}{'blind':>8}{'chance':>8}",
    ]
    for title, kind, key in rows:
        values = "".join(f"{100 * part[kind][key]:7.1f}%" for part in (results, blind, chance))
        lines.append(f"{title:20}{values}")
    lines.append(
        f"{'CIDEr (x100)':20}" + "".join(f"{100 * part['caption']['cider']:8.1f}" for part in (results, blind, chance))
    )
    order = results["frame_order"]
    without = "make frame-order" if order["without"] is None else f"{100 * order['without']:.1f}%"
    lines += [
        f"order-only actions: {100 * order['with_frame_positions']:.1f}% with frame positions, without: {without}",
        f"trainable share of the parameters: {100 * results['trainable_share']:.1f}%",
        f"{results['seconds']:.0f} s, at most {results['peak_memory_gb']:.1f} GiB",
        "",
        f"model    {output / 'model'}",
        f"report   {output / 'report.html'}",
        f"scores   {output / 'results.json'}",
        f"videos   {output / 'videos'}",
        f"corpus   {output / 'corpus'}",
        "",
        "Use it:",
        "  from modeling_cosmo import CosmoForConditionalGeneration as Model, CosmoProcessor as Processor",
        f'  model, processor = (part.from_pretrained("{output / "model"}") for part in (Model, Processor))',
        "  print(processor.batch_decode(model.generate(**processor(text=['<visual>'], videos=['CLIP.mp4'], "
        "return_tensors='pt'), max_new_tokens=24), skip_special_tokens=True))",
    ]
    return "\n".join(lines)
