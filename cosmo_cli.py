"""The console command `cosmo`: a thin layer over functions that can be imported.

The only file that may import every package of the project. Each subcommand imports what it needs inside itself, so
that `cosmo --help` answers at once and a command needs no more than its own extra installed.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(
    name="cosmo",
    help="CosMo: narrated videos to an interleaved corpus, to a model that captions and retrieves clips.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
toy = typer.Typer(help="The toy world: narrated videos with known truth, and the small towers that see them.")
app.add_typer(toy, name="toy", no_args_is_help=True)

EXIT_QUARANTINED = 3
"""`cosmo build` ended well, but inputs were damaged and are listed in quarantine.jsonl."""

EXTRA_OF = {  # a module whose absence means that an extra of pyproject.toml is not installed
    "accelerate": "train",
    "av": "data",
    "datasets": "data",
    "gradio": "demo",
    "psutil": "train",
    "pyarrow": "data",
    "torch": "model",
    "torchdata": "train",
    "transformers": "model",
}


class RepositoryKind(StrEnum):
    """What `cosmo publish` can upload."""

    model = "model"
    dataset = "dataset"
    space = "space"


@app.command()
def quickstart(
    output: Annotated[
        Path | None,
        typer.Option(help="The run's folder; default runs/quickstart, with --quick runs/quickstart-smoke."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run of a few minutes: every stage, small.")] = False,
    train_towers: Annotated[
        bool, typer.Option("--train-towers", help="Train the toy towers first, from nothing (hours on 2 cores).")
    ] = False,
    frame_order: Annotated[
        bool, typer.Option("--frame-order", help="Also train the second model, without frame positions, and compare.")
    ] = False,
) -> None:
    """From nothing to a trained model: toy videos, corpus, training, scores and a report. Goes on where it stopped."""
    from training.quickstart import run_quickstart

    name = "quickstart-smoke" if quick else "quickstart"
    run_quickstart(output or Path("runs") / name, name, train_towers=train_towers, frame_order=frame_order)


@toy.command("videos")
def toy_videos(
    output: Annotated[Path, typer.Option(help="Where the train, validation and test folders go.")],
    num_videos: Annotated[int, typer.Option(min=1, help="Videos over all splits.")],
    seed: Annotated[int, typer.Option(help="Same seed, same videos.")] = 0,
    size_px: Annotated[int, typer.Option(help="Side of the square picture: 64 or 96.")] = 64,
    faults: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of videos with a planted fault.")] = 0.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")] = None,
) -> None:
    """Render narrated how-to videos of the toy world: mp4, WebVTT speech and the truth as JSON."""
    from dataset_builder.toy.videos import write_toy_videos

    counts = write_toy_videos(output, num_videos, seed, size_px=size_px, faults=faults, workers=workers)
    typer.echo(f"{output}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


@app.command()
def caption(
    model: Annotated[str, typer.Argument(help="A saved model folder, or a repository of the Hub.")],
    files: Annotated[list[Path], typer.Argument(help="Clips and pictures.")],
) -> None:
    """Caption clips and pictures: one line each, the file and the caption with a tab between."""
    from demo.engine import Captioner, read_medium
    from modeling_cosmo import CosmoForConditionalGeneration, CosmoProcessor

    captioner = Captioner(CosmoForConditionalGeneration.from_pretrained(model), CosmoProcessor.from_pretrained(model))
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
def publish(
    kind: Annotated[RepositoryKind, typer.Argument(help="What the folder holds.")],
    path: Annotated[Path, typer.Argument(help="The folder.")],
    repo_id: Annotated[str, typer.Option(help="The repository's name: owner/name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list only; needs no network.")] = False,
    revision: Annotated[str, typer.Option(help="The branch to write.")] = "main",
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
) -> None:
    """Check a model, a corpus or the demo, list what would be uploaded, and upload it to the Hub."""
    from training.publish import plan_publish
    from training.publish import publish as publish_folder

    typer.echo(plan_publish(kind.value, path, repo_id).describe())
    if dry_run:
        typer.echo("dry run: nothing was uploaded")
        return
    plan = publish_folder(kind.value, path, repo_id, revision=revision, private=private)
    typer.echo(f"uploaded to {plan.url}")


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="A saved model folder, or a repository of the Hub. Its code is run.")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    clips: Annotated[Path | None, typer.Option(help="A folder of videos to search by text.")] = None,
) -> None:
    """Serve the Gradio page: caption a clip, give examples, search clips by text."""
    from demo.app import serve

    serve(model, port=port, clips=clips)


def _complain(message: str) -> None:
    """One line on stderr, whatever line breaks the message holds."""
    typer.echo(f"cosmo: error: {' '.join(message.split())}", err=True)


def main() -> None:
    """Runs the command. Known errors become one line and exit code 1; COSMO_TRACEBACK=1 shows where they came from."""
    try:
        app()
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where it stopped")
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None or os.environ.get("COSMO_TRACEBACK"):
            raise
        _complain(f"{error.name} is not installed: pip install 'cosmo-vlm[{extra}]'")
        sys.exit(1)
    except (OSError, ValueError) as error:
        if os.environ.get("COSMO_TRACEBACK"):
            raise
        _complain(str(error) or type(error).__name__)
        sys.exit(1)
    except Exception:
        typer.echo("cosmo: this is a bug of CosMo; please report it with the lines below", err=True)
        raise


if __name__ == "__main__":
    main()
