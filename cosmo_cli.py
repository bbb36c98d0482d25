"""The console command `cosmo`: a thin layer over functions that can be imported.

Only this file may import every package of the project. Each subcommand imports what it needs in its own body, so that
`cosmo --help` answers at once and a command needs only its own extra installed.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from demo.engine import CaptionEngine


app = typer.Typer(
    name="cosmo",
    help="CosMo: from narrated videos to an interleaved corpus, to a model that captions and retrieves clips.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
toy = typer.Typer(help="The toy world: narrated videos with known ground truth, and small towers trained on them.")
app.add_typer(toy, name="toy", no_args_is_help=True)

INTERRUPTED = 130
"""Exit code that typer uses for Ctrl-C."""
PACKAGES = ("dataset_builder", "demo", "modeling_cosmo", "training")
"""Our packages: a RuntimeError type defined in one of them means that a run had to stop, not a bug."""
EXTRA_OF = {  # modules, with the extra of pyproject.toml that is not installed if the module is missing
    "accelerate": "train",
    "av": "data",
    "datasets": "data",
    "gradio": "demo",
    "peft": "train",
    "psutil": "train",
    "pyarrow": "data",
    "torch": "model",
    "transformers": "model",
}


class RepositoryKind(StrEnum):
    """Kinds of repository that `cosmo publish` can upload."""

    model = "model"
    dataset = "dataset"
    space = "space"


class BuildEngine(StrEnum):
    """Engines that can run the stages of `cosmo build`."""

    local = "local"
    slurm = "slurm"
    ray = "ray"
    ray_data = "ray-data"


class CheckpointFormat(StrEnum):
    """Code bases whose checkpoints can be converted."""

    cosmo = "cosmo"
    openflamingo = "openflamingo"


class Adapter(StrEnum):
    """Where `cosmo finetune` puts LoRA; see `training.finetune.Adapter`."""

    none = "none"
    language_model = "language_model"
    cross_attention = "cross_attention"
    both = "both"


class PatchTokens(StrEnum):
    """Where the vision tower's patch tokens are taken; see `CosmoConfig.patch_tokens`."""

    before_ln_post = "before_ln_post"
    after_ln_post = "after_ln_post"


def _shipped(package: str) -> str:
    """Names of the recipes in a package, for `--help`, which imports no package."""
    return ", ".join(sorted(path.stem for path in (Path(__file__).parent / package / "recipes").glob("*.yaml")))


@app.command()
def quickstart(
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run. Default: runs/quickstart, or runs/quickstart-smoke with --quick."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smoke run of a few minutes: every stage, but small.")
    ] = False,
    train_towers: Annotated[
        bool, typer.Option("--train-towers", help="Train the toy towers first, from scratch (hours on 2 cores).")
    ] = False,
    frame_order: Annotated[
        bool, typer.Option("--frame-order", help="Also train the second model, without frame positions, and compare.")
    ] = False,
) -> None:
    """Go from nothing to a trained model: toy videos, corpus, training, scores, report. Resumes where it stopped."""
    from training.quickstart import run_quickstart

    name = "quickstart-smoke" if quick else "quickstart"
    run_quickstart(output or Path("runs") / name, name, train_own_towers=train_towers, frame_order=frame_order)


@toy.command("videos")
def toy_videos(
    output: Annotated[Path, typer.Option(help="Parent folder for the train, validation and test folders.")],
    num_videos: Annotated[int, typer.Option(min=1, help="Number of videos in all splits together.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same videos.")] = 0,
    size_px: Annotated[int, typer.Option(help="Side of the square picture: 64 or 96.")] = 64,
    faults: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of videos with a planted fault.")] = 0.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one per core.")] = None,
) -> None:
    """Render narrated how-to videos of the toy world: mp4, speech as WebVTT, and the ground truth as JSON."""
    from dataset_builder.toy.videos import write_toy_videos

    counts = write_toy_videos(output, num_videos, seed, size_px=size_px, faults=faults, workers=workers)
    typer.echo(f"{output}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


@toy.command("towers")
def toy_towers(
    output: Annotated[Path, typer.Option(help="Parent folder for the folders clip and opt.")],
    seed: Annotated[int, typer.Option(help="On one machine, the same seed gives the same towers.")] = 0,
) -> None:
    """Train the toy world's vision and language towers from scratch (hours on 2 cores). Resumes where it stopped."""
    from dataset_builder.toy.train_towers import TowerSettings, train_towers

    for name, scores in train_towers(output, TowerSettings(seed=seed)).items():
        typer.echo(f"{output / name}: " + ", ".join(f"{key} {value:.4g}" for key, value in scores.items()))


@app.command()
def build(
    input_dir: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of videos, with subtitles next to them.")],
    output: Annotated[Path, typer.Option(help="Folder for the corpus.")],
    recipe: Annotated[
        str, typer.Option(help=f"A shipped recipe ({_shipped('dataset_builder')}) or a YAML file.")
    ] = "laptop",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default: one per core), or ranks at a time on a cluster.")
    ] = None,
    engine: Annotated[
        BuildEngine, typer.Option(help="Engine that does the work; the corpus is the same byte for byte.")
    ] = BuildEngine.local,
    cluster: Annotated[
        Path | None, typer.Option(help="For slurm and ray: YAML file of the resources of a rank (docs/scaling.md).")
    ] = None,
    allow_quarantine: Annotated[
        bool, typer.Option("--allow-quarantine", help="Exit with 0 even if damaged files were left out.")
    ] = False,
) -> None:
    """Turn a folder of videos into a corpus that streams. Resumes where it stopped; exits with 3 on damaged files."""
    from dataset_builder.build import build_corpus
    from dataset_builder.engines import make_engine
    from dataset_builder.engines.cluster import load_cluster
    from dataset_builder.engines.workers import forget_batch_shapes

    forget_batch_shapes()
    chosen = make_engine(engine.value, load_cluster(cluster) if cluster else None)
    summary = build_corpus(
        input_dir, output, recipe, workers=workers, allow_quarantine=allow_quarantine, engine=chosen
    )
    typer.echo(summary.line())
    raise typer.Exit(summary.exit_code)


@app.command()
def inspect(
    corpus: Annotated[str, typer.Argument(help="A corpus folder, a dataset repository of the Hub, or an address.")],
    html: Annotated[
        Path | None, typer.Option(help="Page to write. Default: CORPUS-inspect.html next to the folder.")
    ] = None,
    records: Annotated[int, typer.Option(min=0, max=200, help="Videos to show on the page; 0: no page.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed for drawing these videos.")] = 0,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or id of a tokenizer, or toy for the shipped one, to count tokens per document. "
            "Default: count words."
        ),
    ] = None,
) -> None:
    """Print what a corpus holds, check that it is complete, and write a page to browse. Exits with 1 on a problem."""
    from dataset_builder.corpus.inspect_corpus import describe, inspect_corpus

    inspection = inspect_corpus(corpus, tokenizer=tokenizer, progress=True)
    typer.echo(describe(inspection))
    if records:
        from dataset_builder.corpus.inspect_page import default_page, write_page

        page = html or default_page(corpus)
        write_page(inspection, corpus, page, records, seed)
        typer.echo(f"\npage: {page}")
    raise typer.Exit(1 if inspection.problems else 0)


@app.command()
def train(
    config: Annotated[str, typer.Option(help=f"A shipped recipe ({_shipped('training')}) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.")] = None,
) -> None:
    """Train CosMo on a corpus. The same command on the same folder resumes where it stopped."""
    from training.train import run

    run(config, overrides, output)


@app.command()
def finetune(
    corpus: Annotated[str, typer.Option(help="A corpus folder, as `cosmo build` writes it.")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints, the adapter and the model.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Fields of TrainingArguments, such as max_steps=500."),
    ] = None,
    model: Annotated[str, typer.Option(help="A saved CosMo, or a repository of the Hub.")] = "",
    vision: Annotated[str, typer.Option(help="Without --model: folder or id of a vision tower, or toy.")] = "",
    text: Annotated[str, typer.Option(help="Without --model: folder or id of a language model, or toy.")] = "",
    adapter: Annotated[Adapter, typer.Option(help="Where LoRA goes.")] = Adapter.language_model,
    rank: Annotated[int, typer.Option(help="Rank of LoRA's matrices.")] = 8,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Do not train the parts between the towers either.")
    ] = False,
    num_frames: Annotated[int, typer.Option(min=1, help="Frames of each clip that the model sees.")] = 6,
) -> None:
    """Fine-tune on a corpus with transformers' Trainer and LoRA. The same command resumes where it stopped."""
    from training.finetune import Adapter as AdapterParts
    from training.finetune import FinetuneSettings, read_options
    from training.finetune import finetune as run

    settings = FinetuneSettings(
        corpus=corpus, output=output, model=model, vision=vision, text=text, adapter=AdapterParts(adapter.value),
        rank=rank, adapter_only=adapter_only, num_frames=num_frames, options=read_options(options or ()),
    )  # fmt: skip
    typer.echo(f"model saved in {run(settings)}")


@app.command()
def caption(
    model: Annotated[str, typer.Argument(help="A saved model folder, or a repository of the Hub.")],
    files: Annotated[list[Path], typer.Argument(help="Clips and pictures.")],
) -> None:
    """Caption clips and pictures. Prints one line each: the file and the caption, separated by a tab."""
    from demo.media import read_medium

    captioner = _load_captioner(model)
    num_unread = 0
    for file in files:
        try:
            medium = read_medium(file, captioner.num_frames, limits=None)
        except (OSError, ValueError) as error:
            num_unread += 1
            _complain(str(error))
            continue
        typer.echo(f"{file}\t{captioner.caption(medium)}")
    if num_unread:
        raise typer.Exit(1)


@app.command()
def retrieve(
    index: Annotated[
        Path, typer.Option(help="Saved index, made if there is none; or the folder of pictures and videos.")
    ],
    query: Annotated[str, typer.Option(help="What to look for, worded like the captions in the model's training.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of pictures and videos, with subfolders; an index remembers its own.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A saved model folder, or a repository of the Hub; an index remembers its own.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of results.")] = 10,
) -> None:
    """Find pictures and clips by a sentence. Prints cosine, file and part in seconds, separated by tabs.

    New and changed files are embedded first, and saved in the index. The first time, run
    cosmo retrieve PHOTOS --model MODEL --index INDEX --query TEXT; after that, --index and --query are enough.
    """
    from demo.saved_index import find_location, load_index, save_index

    place = find_location(index, folder, model)
    media = load_index(_load_captioner(place.model), place)
    if place.folder.is_dir():
        unread = media.update(save=lambda: save_index(media, place), progress=True)
    else:
        unread = [f"{place.folder} does not exist: searching the files indexed earlier"]
    for line in unread:
        _complain(line)
    if not media.clips:
        raise ValueError(f"{place.folder} holds no readable pictures or videos")
    for found in media.search(query, top):
        part = "" if found.span is None else f"\t{found.span[0]:.2f}-{found.span[1]:.2f}"
        typer.echo(f"{found.cosine:.4f}\t{_on_one_line(found.path)}{part}")
    if unread:
        raise typer.Exit(1)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Option(help="A safetensors or torch file, an index, or a folder of shards.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    architecture: Annotated[Path | None, typer.Option(help="JSON with the sizes of both towers.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Used instead of an architecture: cosmo-2.1b, 3.4b, 8.1b, openflamingo-3b, 4b, 9b."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Path or id of the language model.")] = None,
    vision: Annotated[
        str | None, typer.Option(help="Path or id of the vision tower, or of a CLIP that contains it.")
    ] = None,
    format: Annotated[
        CheckpointFormat | None, typer.Option(help="Code base that wrote it. Default: read off its tensors.")
    ] = None,
    patch_tokens: Annotated[
        PatchTokens, typer.Option(help="Patch tokens of the vision tower that the weights were trained on.")
    ] = PatchTokens.before_ln_post,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Path or id of the language model's tokenizer: writes the processor too. Default: the one in --text."
        ),
    ] = None,
) -> None:
    """Convert a released CosMo or OpenFlamingo checkpoint into a folder for from_pretrained."""
    from modeling_cosmo.convert_cosmo_checkpoint import convert_checkpoint

    done = convert_checkpoint(
        checkpoint, architecture, output, patch_tokens.value, tokenizer,
        preset=preset, text=text, vision=vision, format=None if format is None else format.value,
    )  # fmt: skip
    typer.echo(done.describe(output))


@app.command()
def publish(
    kind: Annotated[RepositoryKind, typer.Argument(help="What the folder holds.")],
    path: Annotated[Path, typer.Argument(help="The folder.")],
    repo_id: Annotated[str, typer.Option(help="The repository's name: owner/name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and list; needs no network.")] = False,
    revision: Annotated[str, typer.Option(help="Branch to write to.")] = "main",
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Check a model, a corpus or the demo, list what would be uploaded, and upload it to the Hub."""
    from training.publishing.model_card import write_missing_card
    from training.publishing.publish import plan_publish
    from training.publishing.publish import publish as publish_folder

    if kind is RepositoryKind.model and write_missing_card(path, repo_id):
        typer.echo(
            f"{path / 'README.md'} was missing: written from the config; add the licence and the results yourself"
        )
    typer.echo(plan_publish(kind.value, path, repo_id).describe())
    if dry_run:
        typer.echo("dry run: nothing was uploaded")
        return
    plan = publish_folder(kind.value, path, repo_id, revision=revision, private=private)
    typer.echo(f"uploaded to {plan.url}")


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="A saved model folder, or a repository of the Hub. Its code is executed.")
    ],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Folder of videos and pictures to search by text.")] = None,
) -> None:
    """Serve the Gradio page: caption a clip, give examples, search clips by text."""
    from demo.app import serve

    serve(model, port=port, clips=clips)


def _load_captioner(model: str) -> "CaptionEngine":
    """Load a saved model with this project's code instead of the folder's."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from demo.engine import CaptionEngine, check_model_name
    from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor

    check_model_name(model)
    try:
        return CaptionEngine(
            CosmoForConditionalGeneration.from_pretrained(model), CosmoProcessor.from_pretrained(model)
        )
    except (SafetensorError, StrictDataclassError) as error:  # from libraries, which name no file
        raise ValueError(f"the model {model} is damaged: {error}") from error


def _on_one_line(path: str) -> str:
    """Escape line breaks, tabs, backslashes and bytes that are not text in a path, as in a Python string."""
    return "".join(
        letter if letter.isprintable() and letter != "\\" else letter.encode("unicode_escape").decode()
        for letter in path
    )


def _explain(error: Exception) -> str | None:
    """Message for an error caused by the user or the machine; `None` for a bug of ours."""
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        return extra and f"{error.name} is not installed: pip install 'cosmo-vlm[{extra}]'"
    if isinstance(error, RuntimeError) and type(error).__module__.split(".")[0] not in PACKAGES:
        return None  # torch raises it for bugs
    return _told(error) if isinstance(error, (OSError, ValueError, RuntimeError)) else None


def _told(error: Exception) -> str:
    """An error's message and its notes, such as the video of a build at which it happened."""
    return " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])


def _complain(message: str) -> None:
    """Print one line on stderr, even if the message has line breaks."""
    typer.echo(f"cosmo: error: {' '.join(message.split())}", err=True)


def main() -> None:
    """Run the command. Known errors become one line and exit code 1; COSMO_TRACEBACK=1 shows where they came from."""
    try:
        app()
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            _complain("interrupted; the same command resumes where it stopped")
        raise
    except Exception as error:
        message = _explain(error)
        if message is None:
            typer.echo("cosmo: this is a bug in CosMo; please report it with the lines below", err=True)
            raise
        if os.environ.get("COSMO_TRACEBACK"):
            raise
        _complain(message)
        sys.exit(1)


if __name__ == "__main__":
    main()
