"""Write fixtures/: a tiny checkpoint under the released names, and the definition's outputs for it.

Run `python -m tests.modeling_cosmo.make_fixture` from the project's folder.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.modeling_cosmo.released import Sizes, by_definition, language_model, random_batch, released_state


FOLDER = Path(__file__).parent / "fixtures"


def main():
    sizes = Sizes(unimodal_depth=3, ratio=4, depth=1)
    stock = language_model(sizes, seed=11)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(parameter.half().double())
    state = {name: value.half() for name, value in released_state(sizes, stock, seed=11).items()}
    batch = random_batch(sizes, seed=7)
    expect = by_definition(sizes, stock, state, batch, released_faults=True)
    figures = {f"out.{name}": torch.tensor(np.asarray(value)).float() for name, value in expect.items()}
    FOLDER.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, FOLDER / "tiny_released.safetensors")
    save_file(figures | batch, FOLDER / "tiny_outputs.safetensors")
    (FOLDER / "tiny_architecture.json").write_text(json.dumps(sizes.architecture(), indent=1) + "\n")


if __name__ == "__main__":
    main()
