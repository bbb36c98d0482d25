"""What became of every video of a build, by its key: a file each, or a Parquet file for all videos of a finished rank.

A file per video is what no kill can take away; a million of them are spread over folders. A rank of a cluster packs
its own into one file when it is through, so that a shared disk holds few files. Both are read the same way.
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


GROUP_ROWS = 64  # outcomes that are read at once from a pack
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
        """The file of one video; 256 folders, since some file systems are slow with a million files in one."""
        return self.state / "results" / key[:2] / f"{key}.json"

    def load(self, key: str, source: SourceVideo) -> Draft | None:
        """What became of a video; None where nothing did yet, or a disk damaged what did."""
        draft = load_outcome(self.path(key), source)
        if draft is None and key in self._packed():
            with suppress(DamagedInput, ValueError):
                draft = parse_outcome(self._read(*self._packed()[key]), source)
        return draft

    def look_again(self) -> None:
        """Find the packs that other processes have written since."""
        self._places = self._group = None

    def pack(self, name: str, videos: Iterable[tuple[str, SourceVideo]]) -> None:
        """Put the files of these videos into one Parquet file, and remove them.

        Args:
            name: of the pack, without suffix.
            videos: keys and videos; those that lie in a pack already are passed over.

        Raises:
            WriteError: if the disk does not take it; the files stay then.
        """
        alone = [(key, source) for key, source in videos if self.path(key).exists()]
        if not alone:
            return
        path = self._packs() / f"{name}.parquet"
        while path.exists():  # a later build of more videos packs beside an earlier one
            path = path.with_name(f"{path.stem}-more.parquet")
        with replacing(path, durable=True) as temporary, pq.ParquetWriter(temporary, PACK_SCHEMA) as writer:
            for first in range(0, len(alone), GROUP_ROWS):
                rows = [self._row(key, source) for key, source in alone[first : first + GROUP_ROWS]]
                writer.write_table(pa.Table.from_pylist(rows, schema=PACK_SCHEMA))
        for key, _ in alone:
            self.path(key).unlink()
        self.look_again()

    def forget_others(self, keys: Sequence[str]) -> None:
        """Remove outcomes that no input needs; a pack goes when none of its videos is needed."""
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
        """Where every packed outcome lies: key -> pack and row."""
        if self._places is None:
            self._places = {}
            for path in sorted(self._packs().glob("*.parquet")):
                with suppress(FileNotFoundError, DamagedInput), parquet_damage():  # tidied up meanwhile, or damaged
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
