"""Time of a search among many embeddings; it shows that no approximate index is needed."""

import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from demo.index import FolderIndex, IndexedFile


NUM_FILES, SHARED_DIM, NUM_SEARCHES = 100_000, 512, 9


def main() -> None:
    """Print the median time of a search, without embedding its text."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((NUM_FILES, 1, SHARED_DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    files = {
        f"{number:06}.mp4": IndexedFile(stamp=(0, 0), spans=(None,), embeddings=row) for number, row in enumerate(rows)
    }
    captioner = SimpleNamespace(embed_text=lambda text: torch.from_numpy(rows[int(text), 0]))
    index = FolderIndex(captioner, Path(), files)  # type: ignore[arg-type]  # only embeds a text
    times_s = []
    for number in range(NUM_SEARCHES):
        start_s = time.perf_counter()
        best = index.search(str(number), 10)[0]
        times_s.append(time.perf_counter() - start_s)
        assert best.path == f"{number:06}.mp4"
    print(f"search among {NUM_FILES} x {SHARED_DIM}: {statistics.median(times_s) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
