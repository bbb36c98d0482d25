"""Program behind `cosmo train`, `python -m training.train` and `accelerate launch -m training.train`."""

from pathlib import Path
from typing import Annotated

import typer

from training.config import load_config
from training.interruption import Interrupted
from training.loop import train


def run(
    config: Annotated[str, typer.Option(help="A shipped recipe (toy) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys to change.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
) -> None:
    """Train CosMo on a corpus; the same command on the same folder continues where it stopped."""
    try:
        folder = output or Path("runs") / Path(config).stem
        model = train(load_config(config, overrides or ()), folder)
    except (ValueError, OSError, Interrupted) as error:
        typer.echo(f"cosmo train: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"model saved in {model}")


def main() -> None:
    """Entry point of `python -m training.train`."""
    typer.run(run)


if __name__ == "__main__":
    main()
