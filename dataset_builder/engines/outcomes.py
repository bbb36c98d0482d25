"""The outcome of every video of a build, by its key: in a file each, or in one Parquet file for a finished rank.

With a file per video, a kill loses nothing that is finished; a million files are spread over folders. A rank on a
cluster packs its files into one when it is done, so that a shared disk holds few files. Both are read the same way.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.atomic import replacing
from dataset_builder.corpus.parquet_damage import parquet_damage
from dataset_builder.draft import Draft
from dataset_builder.engines.outcome_file import load_outcome, parse_outcome
from dataset_builder.errors import DamagedInput
from dataset_builder.inputs import SourceVideo


GROUP_ROWS = 64  # outcomes that are read from a pack at once
PACK_SCHEMA = pa.schema({name: pa.string() for name in ("key", "split", "video_id", "path", "outcome")})


class Outcomes:
    """The outcomes in a build's `.build` folder.

    Args:
        state: that folder.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self._places: dict[str, tuple[Path, int]] | None = None
        self._group: tuple[Path, int, list[str]] | None = None  # the row group read last

    def path(self, key: str) -> Path:
        """The file of one video, in one of 256 folders: some file systems are slow with a million files in one."""
        return self.state / "results" / key[:2] / f"{key}.json"

    def load(self, key: str, source: SourceVideo) -> Draft | None:
        """The outcome of a video; None if there is none yet, or the disk damaged it."""
        draft = load_outcome(self.path(key), source)
        if draft is None and key in self._packed():
            with suppress(DamagedInput, ValueError):
                draft = parse_outcome(self._read(*self._packed()[key]), source)
        return draft

    def look_again(self) -> None:
        """Find packs that other processes have written since the last look."""
        self._places = self._group = None

    def pack(self, name: str, videos: Iterable[tuple[str, SourceVideo]]) -> None:
        """Pack the files of these videos into one Parquet file, and remove them.

        Args:
            name: name of the pack, without suffix.
            videos: keys and videos; those that are already in a pack are skipped.

        Raises:
            WriteError: if the pack cannot be written; the files stay.
        """
        alone = [(key, source) for key, source in videos if self.path(key).exists()]
        if not alone:
            return
        path = self._packs() / f"{name}.parquet"
        while path.exists():  # a later build of more videos adds its own pack
            path = path.with_name(f"{path.stem}-more.parquet")
        with replacing(path, durable=True) as temporary, pq.ParquetWriter(temporary, PACK_SCHEMA) as writer:
            for first in range(0, len(alone), GROUP_ROWS):
                rows = [self._row(key, source) for key, source in alone[first : first + GROUP_ROWS]]
                writer.write_table(pa.Table.from_pylist(rows, schema=PACK_SCHEMA))
        for key, _ in alone:
            self.path(key).unlink()
        self.look_again()

    def forget_others(self, keys: Sequence[str]) -> None:
        """Remove outcomes that no input needs; a pack is removed once none of its videos is needed."""
        wanted = set(keys)
        for path in (self.state / "results").rglob("*"):
            if path.is_file() and path.stem not in wanted:
                path.unlink()
        needed = {pack for key, (pack, _) in self._packed().items() if key in wanted}
        for path in self._packs().glob("*"):
            if path not in needed:
                path.unlink()
        self.look_again()

    def _row(self, key: str, source: SourceVideo) -> dict[str, str]:
        text = self.path(key).read_text(encoding="utf-8")
        return dict(zip(PACK_SCHEMA.names, (key, source.split, source.video_id, str(source.path), text), strict=True))

    def _packs(self) -> Path:
        return self.state / "packs"

    def _packed(self) -> dict[str, tuple[Path, int]]:
        """The location of every packed outcome: key -> pack and row."""
        if self._places is None:
            self._places = {}
            for path in sorted(self._packs().glob("*.parquet")):
                with suppress(FileNotFoundError, DamagedInput), parquet_damage():  # removed meanwhile, or damaged
                    keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
                    self._places.update((key, (path, row)) for row, key in enumerate(keys))
        return self._places

    def _read(self, path: Path, row: int) -> str:
        """The text of an outcome; reading in order reads every row group once."""
        group, within = divmod(row, GROUP_ROWS)
        if self._group is None or self._group[:2] != (path, group):
            with parquet_damage(), pq.ParquetFile(path) as pack:
                texts = pack.read_row_group(group, columns=["outcome"])["outcome"].to_pylist()
            self._group = (path, group, texts)
        return self._group[2][within]
