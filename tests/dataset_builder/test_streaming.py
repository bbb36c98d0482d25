"""Streams of a corpus: one order per seed for all readers; nothing lost or repeated, wherever a run stops."""

import io
import itertools
import json
import random
import re
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset, load_dataset
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader

from dataset_builder import Clip, InterleavedVideo, decode_clip, read_corpus, streaming
from dataset_builder.corpus import shard_index
from dataset_builder.corpus.files import open_corpus
from dataset_builder.corpus.inspect_corpus import inspect_corpus
from dataset_builder.corpus.output_folder import write_checksums
from dataset_builder.corpus.shard_index import read_index, write_index
from dataset_builder.corpus.shards import shard_name, write_shard
from dataset_builder.corpus.stream_order import EpochOrder, RowPosition
from dataset_builder.recipe import ShardSettings
from dataset_builder.streaming import CorpusStream, stream_corpus
from tests.dataset_builder.make_videos import encode


SHARDS = [5, 1, 7, 0, 3]  # rows; unequal, one empty
NUM_ROWS = sum(SHARDS)
VIDEO_BYTES = 30_000


@pytest.fixture(scope="module", params=["parquet", "webdataset"])
def corpus(request, tmp_path_factory) -> Path:
    """Sixteen records in five shards, in blocks of two (of the last row of a shard: one)."""
    return write_corpus(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("parquet"), "parquet")


def write_corpus(folder: Path, form: str) -> Path:
    settings = ShardSettings(embed_videos=True, format=form, row_group_mb=0.07)  # two rows of 30 kB and 4 kB
    names = iter(range(NUM_ROWS))
    for index, count in enumerate(SHARDS):
        records = [record(next(names)) for _ in range(count)]
        write_shard(folder / "data" / shard_name("train", index, len(SHARDS), settings), records, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_index, "TAR_BLOCK_BYTES", 66_000)
        write_index(folder)
    blocks = [shard["block_rows"] for shard in json.loads((folder / "shards.json").read_text())["splits"]["train"]]
    assert blocks == [[2, 2, 1], [1], [2, 2, 2, 1], [], [2, 1]]
    return folder


def record(number: int) -> InterleavedVideo:
    clips = (
        Clip(start_s=0.0, end_s=2.0, caption=f"caption {number}"),
        Clip(start_s=2.0, end_s=3.0, keep=False, drop_reason="black clip"),
    )
    noise = (number.to_bytes(1, "big") + bytes(range(251)) * 120)[:VIDEO_BYTES]
    return InterleavedVideo(video_id=f"v{number:02d}", video_bytes=noise, duration_s=float(number), clips=clips)


def ids(records) -> list[str]:
    return [record.video_id for record in records]


def load(stream: CorpusStream, batch_size: int, num_workers: int) -> list[list[str]]:
    return list(DataLoader(stream, batch_size=batch_size, num_workers=num_workers, collate_fn=ids))


@pytest.mark.parametrize("blocks", [[4, 0, 3, 1, 5], [11], [1] * 13, [], [0]])
@pytest.mark.parametrize(("lanes", "chunk"), [(1, 1), (3, 1), (12, 1), (3, 2), (4, 5), (12, 4)])
def test_an_epoch_hands_out_every_row_once_in_chunks(blocks, lanes, chunk):
    rows = sorted(RowPosition(block, row) for block, count in enumerate(blocks) for row in range(count))
    for seed in (None, 0, 1):
        order = EpochOrder(blocks, seed, 0, lanes, chunk)
        chunks = [list(order.chunk(position)) for position in range(order.num_chunks)]
        assert sorted(itertools.chain(*chunks)) == rows
        assert [len(part) for part in chunks[:-1]] == [chunk] * (len(chunks) - 1), "only the last one is smaller"
        if seed is None:
            assert list(itertools.chain(*chunks)) == rows


def test_each_lane_reads_its_blocks_in_one_go_and_shares_none_but_at_its_ends():
    order = EpochOrder([5] * 23, 0, 0, lanes=6, chunk_rows=1)
    visits = Counter[int]()
    for lane in range(6):
        seen = [place.block for position in range(lane, order.num_chunks, 6) for place in order.chunk(position)]
        runs = [block for block, _ in itertools.groupby(seen)]
        assert len(runs) == len(set(runs)), "a lane does not come back to a block"
        visits.update(runs)
    assert sum(visits.values()) <= 23 + 5, "5 borders between 6 lanes"


def test_seeds_and_epochs_differ_and_the_same_ones_agree():
    order = lambda seed, epoch: [*itertools.chain(*map(EpochOrder([50], seed, epoch, 12, 1).chunk, range(50)))]
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    # Fixed values: the order must not change between versions, or no run could continue after an update.
    assert [place.row for place in EpochOrder([7], 3, 1, 1, 7).chunk(0)] == [3, 6, 0, 1, 5, 2, 4]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_number_of_workers_changes_nothing(corpus, batch_size):
    alone = ids(stream_corpus(corpus, seed=5, batch_size=batch_size))
    assert sorted(alone) == [f"v{number:02d}" for number in range(NUM_ROWS)]
    batches = [alone[start : start + batch_size] for start in range(0, NUM_ROWS, batch_size)]
    for num_workers in (1, 2, 3):
        stream = stream_corpus(corpus, seed=5, batch_size=batch_size)
        assert load(stream, batch_size, num_workers) == batches


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("num_replicas", "num_workers"), [(2, 0), (2, 2), (3, 1)])
def test_ranks_deal_the_same_batches_among_them(corpus, batch_size, num_replicas, num_workers):
    alone = load(stream_corpus(corpus, seed=5, batch_size=batch_size), batch_size, 0)
    streams = [
        stream_corpus(corpus, seed=5, batch_size=batch_size, num_replicas=num_replicas, rank=rank)
        for rank in range(num_replicas)
    ]
    dealt = [load(stream, batch_size, num_workers) for stream in streams]
    assert [dealt[step % num_replicas][step // num_replicas] for step in range(len(alone))] == alone
    assert [stream.num_samples for stream in streams] == [sum(map(len, batches)) for batches in dealt]


def test_epochs_reach_workers_that_live_on(corpus):
    expected = []
    for epoch in range(3):
        stream = stream_corpus(corpus, seed=5)
        stream.set_epoch(epoch)
        expected.append(ids(stream))
    assert len({tuple(names) for names in expected}) == 3
    stream = stream_corpus(corpus, seed=5)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch, names in enumerate(expected):
        stream.set_epoch(epoch)
        assert ids(loader) == names


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("num_replicas", [1, 2])
def test_stopped_anywhere_it_goes_on_with_the_next_row(parquet, seed, batch_size, num_replicas):
    make = lambda rank: stream_corpus(
        parquet, seed=seed, batch_size=batch_size, num_replicas=num_replicas, rank=rank, columns=["clips"]
    )
    for rank in range(num_replicas):
        whole = ids(make(rank))
        for stop in range(len(whole) + 1):
            stream = make(rank)
            before = ids(itertools.islice(iter(stream), stop))
            state = json.loads(json.dumps(stream.state_dict()))
            again = make(rank)
            again.load_state_dict(state)
            middle = min(2, len(whole) - stop)
            after = ids(itertools.islice(iter(again), middle))
            last = make(rank)
            last.load_state_dict(again.state_dict())  # stopped a second time
            assert before + after + ids(last) == whole
            again = make(rank)
            again.load_state_dict(state)
            assert before + ids(again) == whole
            assert ids(again) == whole, "once through, the next iteration begins from the front"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("workers_before", "workers_after"), [(2, 3), (3, 1), (1, 0), (0, 2)])
def test_stopped_between_batches_it_goes_on_with_other_workers_and_ranks(
    parquet, batch_size, workers_before, workers_after
):
    """Two ranks are killed after some batches, read ahead or not; three, two or one continue."""
    make = partial(stream_corpus, parquet, seed=5, batch_size=batch_size, columns=["clips"])
    whole = load(make(), batch_size, 0)
    used = 2  # batches of each rank
    dealt = [load(make(num_replicas=2, rank=rank), batch_size, workers_before)[:used] for rank in range(2)]
    state = make(num_replicas=2, rank=1).state_dict(num_samples=used * batch_size)
    assert state == make(num_replicas=2, rank=0).state_dict(num_samples=used * batch_size)
    assert [batch for step in zip(*dealt, strict=True) for batch in step] == whole[: 2 * used]
    for num_replicas in (1, 2, 4):
        if workers_after * num_replicas > 6:
            continue
        rest = []
        for rank in range(num_replicas):
            stream = make(num_replicas=num_replicas, rank=rank)
            stream.load_state_dict(state)
            rest += load(stream, batch_size, workers_after)
        assert sorted(rest) == sorted(whole[2 * used :])
        assert num_replicas > 1 or rest == whole[2 * used :]


def test_positions_add_up_over_several_stops(parquet):
    make = partial(stream_corpus, parquet, seed=5, batch_size=3, columns=["clips"])
    whole = load(make(), 3, 0)
    stream, got = make(), []
    for batches in (1, 2, 1):
        got += load(stream, 3, 2)[:batches]
        state = stream.state_dict(num_samples=3 * batches)
        stream = make()
        stream.load_state_dict(state)
    assert got + load(stream, 3, 0) == whole
    stream.set_epoch(1)
    assert len(ids(stream)) == NUM_ROWS, "a position counts for its epoch only"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
@pytest.mark.parametrize("num_workers", [0, 2])
def test_torchdatas_stateful_loader_resumes_it(corpus, num_workers):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    make = lambda: module.StatefulDataLoader(
        stream_corpus(corpus, seed=5, batch_size=3), batch_size=3, num_workers=num_workers, collate_fn=ids
    )
    whole = list(make())
    for stop in range(1, len(whole)):
        loader = make()
        before = list(itertools.islice(iter(loader), stop))
        state = loader.state_dict()
        loader = make()
        loader.load_state_dict(state)
        assert before + list(loader) == whole


def test_states_of_another_order_are_refused(parquet):
    state = stream_corpus(parquet, seed=5).state_dict()
    with pytest.raises(ValueError, match="the state is of a stream with seed 5; this one has 6"):
        stream_corpus(parquet, seed=6).load_state_dict(state)
    with pytest.raises(ValueError, match="with corpus"):
        stream_corpus(parquet, seed=5, filters=[("duration_s", ">", 3.0)]).load_state_dict(state)
    inside = stream_corpus(parquet, seed=5, batch_size=3).state_dict(num_samples=4)
    with pytest.raises(ValueError, match="inside a batch of one of 1 ranks; it cannot be loaded with 2"):
        stream_corpus(parquet, seed=5, batch_size=3, num_replicas=2, rank=0).load_state_dict(inside)


def test_what_cannot_be_streamed_is_told_in_one_line(corpus, monkeypatch):
    with monkeypatch.context() as patch:  # as in the first of five workers, without the wait for all five to end
        patch.setattr(streaming, "get_worker_info", lambda: SimpleNamespace(id=0, num_workers=5))
        with pytest.raises(
            ValueError, match="do not divide lanes=12; give stream_corpus a multiple, such as lanes=10"
        ):
            ids(stream_corpus(corpus))
    with pytest.raises(ValueError, match="rank is 2; expected 0 to 1 with 2 replicas"):
        stream_corpus(corpus, num_replicas=2, rank=2)
    with pytest.raises(ValueError, match="no column 'title'"):
        stream_corpus(corpus, columns=["title"])
    with pytest.raises(ValueError, match="no shards of the split 'test'"):
        stream_corpus(corpus, "test")


def test_dropped_clips_come_on_request(corpus):
    assert [len(record.clips) for record in stream_corpus(corpus, columns=["clips"])] == [1] * NUM_ROWS
    every = stream_corpus(corpus, columns=["clips"], include_dropped=True)
    assert [len(record.clips) for record in every] == [2] * NUM_ROWS


def test_datasets_own_buffer_loses_rows_and_this_stream_does_not(parquet):
    """The reason for this stream. If the first half fails, datasets has solved the problem."""
    make = lambda: IterableDataset.from_generator(lambda: iter([{"row": row} for row in range(40)])).shuffle(
        0, None, 10
    )
    rows = make()
    seen = [row["row"] for row in itertools.islice(iter(rows), 20)]
    again = make()
    again.load_state_dict(rows.state_dict())
    assert len({*seen, *(row["row"] for row in again)}) < 40

    stream = stream_corpus(parquet)
    seen = ids(itertools.islice(iter(stream), 6))
    again = stream_corpus(parquet)
    again.load_state_dict(stream.state_dict())
    assert sorted(seen + ids(again)) == [f"v{number:02d}" for number in range(NUM_ROWS)]


class CountedFile(io.FileIO):
    """A local file that counts the bytes read from it, by path."""

    read_bytes: ClassVar[Counter[str]] = Counter()

    def __init__(self, path: str) -> None:
        super().__init__(path, "r")
        self.path = path

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer) or 0
        self.read_bytes[Path(self.path).name] += count
        return count

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size) or b""
        self.read_bytes[Path(self.path).name] += len(content)
        return content

    def readall(self) -> bytes:
        return self.read()


class CountedFileSystem(LocalFileSystem):
    """The local disk under another name, as a remote file system that bills by the byte."""

    protocol = "counted"

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("counted:").strip("/")

    def _open(self, path, mode="rb", **options):
        return CountedFile(path)

    def cat_file(self, path, start=None, end=None, **options):
        with CountedFile(self._strip_protocol(path)) as file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))


@pytest.fixture
def counted():
    """Bytes read through the address `counted://`, by file name."""
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
    CountedFile.read_bytes.clear()
    yield CountedFile.read_bytes
    CountedFile.read_bytes.clear()


def test_videos_in_tars_are_jumped_over_where_they_are_not_asked_for(tmp_path, counted):
    write_corpus(tmp_path, "webdataset")
    assert len(ids(stream_corpus(f"counted://{tmp_path}", columns=["clips"]))) == NUM_ROWS
    assert sum(counted.values()) < 0.1 * NUM_ROWS * VIDEO_BYTES
    counted.clear()
    records = list(stream_corpus(f"counted://{tmp_path}"))
    assert all(len(record.video_bytes or b"") == VIDEO_BYTES for record in records)
    assert NUM_ROWS * VIDEO_BYTES < sum(counted.values()) < 1.5 * NUM_ROWS * VIDEO_BYTES


def test_filters_skip_row_groups_by_their_statistics(parquet, counted):
    wanted = [("duration_s", ">=", 6.0), ("duration_s", "<", 9.0)]
    stream = stream_corpus(f"counted://{parquet}", filters=wanted, seed=5)
    assert counted.keys() >= {"shards.json"}
    counted.clear()
    assert sorted(ids(stream)) == ["v06", "v07", "v08"]
    assert {*counted} == {"train-00002-of-00005.parquet"}, "no other shard is touched"
    assert stream.num_samples == 3
    assert ids(stream_corpus(parquet, filters=[("video_id", "in", ["v03", "v14", "none"])], seed=None)) == [
        "v03",
        "v14",
    ]
    for column in ("clips", "video"):
        with pytest.raises(ValueError, match=f"cannot filter by '{column}'"):
            stream_corpus(parquet, filters=[(column, "==", 1)])


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_damaged_block_is_named(form, tmp_path):
    write_corpus(tmp_path, form)
    write_checksums(tmp_path)
    path = next((tmp_path / "data").glob("train-00002-*"))
    data = bytearray(path.read_bytes())
    if form == "parquet":
        columns = pq.read_metadata(path).row_group(1)
        chunks = {part.path_in_schema: part for part in map(columns.column, range(columns.num_columns))}
        start = chunks["video_id"].dictionary_page_offset or chunks["video_id"].data_page_offset
    else:
        start = read_index(open_corpus(tmp_path), "train")[2].block_starts[1]
    data[start : start + 600] = b"\xff" * 600
    path.write_bytes(data)
    named = rf"block 1 of data/{path.name} is damaged \(not "
    with pytest.raises(ValueError, match=named):
        ids(stream_corpus(tmp_path))
    with pytest.raises(ValueError, match=rf"the shard .*{path.name} is damaged \(not "):
        list(read_corpus(tmp_path, "train"))
    found, checksum = inspect_corpus(tmp_path).problems
    assert re.search(named, found)
    assert checksum == f"data/{path.name} differs from its checksum"
    if form == "parquet":
        with pytest.raises(ValueError, match=named):
            stream_corpus(tmp_path, filters=[("video_id", "==", "v09")])


def test_a_filter_that_cannot_be_is_no_damage(parquet):
    for wanted in (("duration_s", ">", "long"), ("video_id", "==", 3)):
        with pytest.raises(pa.ArrowException) as caught:
            stream_corpus(parquet, filters=[wanted])
        assert "damaged" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 on torch 2.13
@pytest.mark.parametrize("num_workers", [0, 2])
def test_load_dataset_resumes_where_nothing_is_shuffled(parquet, num_workers):
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")

    def loader():
        rows = load_dataset(str(parquet), split="train", streaming=True, columns=["video_id"])
        return module.StatefulDataLoader(rows, batch_size=None, num_workers=num_workers)

    whole = [row["video_id"] for row in loader()]
    assert sorted(whole) == [f"v{number:02d}" for number in range(NUM_ROWS)]
    for stop in (1, 3, 4, 9):
        first = loader()
        before = [row["video_id"] for row in itertools.islice(iter(first), stop)]
        state = first.state_dict()
        again = loader()
        again.load_state_dict(state)
        assert before + [row["video_id"] for row in again] == whole


def test_tars_have_no_columns_to_filter_by(tmp_path):
    write_corpus(tmp_path, "webdataset")
    with pytest.raises(ValueError, match="filters need Parquet shards"):
        stream_corpus(tmp_path, filters=[("duration_s", ">", 3.0)])


def test_load_dataset_pushes_columns_down_too(tmp_path, counted):
    """Incompressible videos of 200 kB: without the column, a small part of the file is read."""
    draw = random.Random(0)
    settings = ShardSettings(embed_videos=True, row_group_mb=0.5)
    records = [
        InterleavedVideo(video_id=f"v{index}", duration_s=1.0, video_bytes=draw.randbytes(200_000))
        for index in range(20)
    ]
    write_shard(tmp_path / "data" / "train-00000-of-00001.parquet", records, settings)
    size = (tmp_path / "data" / "train-00000-of-00001.parquet").stat().st_size
    files = f"counted://{tmp_path}/data/*.parquet"
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True, columns=["video_id", "clips"])
    assert len(list(rows)) == 20
    assert sum(counted.values()) < 0.15 * size
    counted.clear()
    filtered = [("video_id", "==", "v7")]
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True, filters=filtered)
    assert [row["video_id"] for row in rows] == ["v7"]
    assert sum(counted.values()) < 0.4 * size, "one row group of ten, and the footer"
    counted.clear()
    assert len(ids(stream_corpus(f"counted://{tmp_path}", columns=["clips"]))) == 20
    assert sum(counted.values()) < 0.15 * size
    counted.clear()
    assert len(ids(stream_corpus(f"counted://{tmp_path}"))) == 20
    assert size <= sum(counted.values()) < 1.1 * size + 200_000, "every block once, and the footers"


def test_of_a_video_elsewhere_only_the_part_around_the_clip_is_read(tmp_path, counted):
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 255, size=(240, 64, 64, 3), dtype=np.uint8)  # noise: 30 s, far from compressible
    encode(tmp_path / "videos/train/v.mp4", frames)
    clips = (Clip(start_s=10.0, end_s=11.0), Clip(start_s=29.0, end_s=30.0))
    record = InterleavedVideo(video_id="v", video_path="videos/train/v.mp4", duration_s=30.0, clips=clips)
    size = (tmp_path / "videos/train/v.mp4").stat().st_size
    for index in range(2):
        counted.clear()
        found = decode_clip(record, index, 3, root=f"counted://{tmp_path}")
        np.testing.assert_array_equal(found, decode_clip(record, index, 3, root=tmp_path))
        assert 0 < sum(counted.values()) < 0.25 * size, "two of thirty seconds, the index, and what is read ahead"
    for path in ("../secret.mp4", "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out of the corpus"):
            decode_clip(replace(record, video_path=path), 0, 1, root=f"counted://{tmp_path}")
    with pytest.raises(FileNotFoundError):
        decode_clip(replace(record, video_path="a::memory://secret"), 0, 1, root=f"counted://{tmp_path}")


def test_blocks_are_read_once_for_all_workers_together():
    """Three workers of two ranks: no row group is read twice, except where two lanes meet."""
    order = EpochOrder([2] * 40, 5, 0, 12, 1)
    reads = 0
    for reader in range(6):
        lanes: dict[int, int] = {}
        for position in range(reader, order.num_chunks, 6):
            for place in order.chunk(position):
                reads += lanes.get(order.lane(position)) != place.block
                lanes[order.lane(position)] = place.block
    assert reads <= 40 + 11


def test_memory_holds_a_block_for_every_lane_however_long_the_corpus(tmp_path):
    """In a separate process, by the count of Arrow's pool; a fifth is for the data being read and yielded."""
    draw = random.Random(0)
    settings = ShardSettings(embed_videos=True, row_group_mb=0.21)
    peaks = []
    for num_blocks in (24, 96):
        records = [
            InterleavedVideo(video_id=f"v{index:03d}", duration_s=1.0, video_bytes=draw.randbytes(200_000))
            for index in range(num_blocks)
        ]
        write_shard(tmp_path / str(num_blocks) / "data" / "train-00000-of-00001.parquet", records, settings)
        before, peak = pa.total_allocated_bytes(), 0
        for _ in stream_corpus(tmp_path / str(num_blocks)):
            peak = max(peak, pa.total_allocated_bytes() - before)
        peaks.append(peak)
    assert max(peaks) < 1.2 * (12 + 1) * 210_000
    assert peaks[1] < 1.1 * peaks[0]


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, with the byte ranges that fsspec's HTTP file system requests."""

    def log_message(self, *arguments) -> None:
        pass

    def send_head(self):
        wanted = self.headers.get("Range")
        if not wanted:
            return super().send_head()
        path = Path(self.translate_path(self.path))
        first, last = wanted.removeprefix("bytes=").split("-")
        content = path.read_bytes()[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{path.stat().st_size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


def test_workers_open_their_own_connections(parquet):
    """fsspec's asynchronous file systems refuse to be used after a fork."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(parquet)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        expected = ids(stream_corpus(parquet, seed=5))
        assert ids(stream_corpus(address, seed=5)) == expected
        assert load(stream_corpus(address, seed=5), 1, 2) == [[name] for name in expected]
    finally:
        server.shutdown()
        server.server_close()
