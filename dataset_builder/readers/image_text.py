"""Read image-text pairs that img2dataset wrote, in tars or Parquet: CC3M, SBU, LAION, DataComp."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import IterableDataset

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.document import DOCUMENT_FEATURES, InterleavedDocument, to_document_row
from dataset_builder.readers.images import MAX_IMAGE_BYTES, SUFFIXES, check_image
from dataset_builder.readers.lines import parse_json
from dataset_builder.readers.parquet_rows import read_parquet
from dataset_builder.readers.stream import Source, find_shards, stream_shards
from dataset_builder.readers.tally import Tally
from dataset_builder.readers.tar_samples import read_tar_samples


MAX_TEXT_BYTES = 1_000_000
TAR_MEMBERS = {**dict.fromkeys(SUFFIXES, MAX_IMAGE_BYTES), "txt": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}
IMAGE_COLUMNS = (*SUFFIXES, "image", "image_bytes")
CAPTION_COLUMNS = ("txt", "caption", "text", "TEXT")
KEY_COLUMNS = ("__key__", "key", "uid", "id")


def image_text_pairs(shards: Source, source: str = "", report: str | Path | None = None) -> IterableDataset:
    """Pairs as documents of a picture and its caption (`DOCUMENT_FEATURES`).

    A tar holds a picture and `txt`, or `json` with a `caption`. Parquet holds a column of encoded pictures (bytes, or
    `{bytes, path}`) and one of captions, under any of the usual names (`IMAGE_COLUMNS`, `CAPTION_COLUMNS`).

    Args:
        shards: `.tar` or `.parquet` files.
        source: name of the collection, stored in every row.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there are no shards.
    """
    read = partial(_read_shard, source=source)
    return stream_shards(find_shards(shards, (".tar", ".parquet")), read, DOCUMENT_FEATURES, report)


def _read_shard(url: str, tally: Tally, source: str) -> Iterator[dict[str, Any]]:
    pairs = _pairs_of_table(url) if url.endswith(".parquet") else _pairs_of_tar(url, tally)
    for key, image, caption in pairs:
        try:
            pair = make_pair(key, image, caption, source)
        except DamagedInput as error:
            tally.skip("damaged image", key, str(error))
            continue
        if isinstance(pair, str):
            tally.skip(pair, key)
        else:
            yield to_document_row(pair)


def make_pair(key: str, image: bytes | None, caption: str | None, source: str) -> InterleavedDocument | str:
    """A pair as a document, or the reason why it is incomplete.

    Raises:
        DamagedInput: for data that is not a picture, or a picture that is too large.
    """
    if not image:
        return "no image"
    if not caption or not caption.strip():
        return "no caption"
    check_image(image)
    return InterleavedDocument(
        document_id=key,
        images=(image, None),
        texts=(None, caption.strip()),
        source=source,
        provenance={"reader": "image_text_pairs"},
    )


def _pairs_of_tar(url: str, tally: Tally) -> Iterator[tuple[str, bytes | None, str | None]]:
    for sample in read_tar_samples(url, TAR_MEMBERS, tally):
        image = next((sample.fields[name] for name in SUFFIXES if name in sample.fields), None)
        yield sample.key, image, caption_of(sample.fields)


def caption_of(fields: Mapping[str, bytes]) -> str | None:
    """The caption among a sample's members: `txt`, else `caption` (or WebVid's `name`) in `json`."""
    if "txt" in fields:
        return fields["txt"].decode(errors="replace")
    try:
        facts = parse_json(fields.get("json", b"null"))
    except DamagedInput:
        return None
    found = (facts.get("caption") or facts.get("name")) if isinstance(facts, dict) else None
    return found if isinstance(found, str) else None


def _pairs_of_table(url: str) -> Iterator[tuple[str, bytes | None, str | None]]:
    for number, row in read_parquet(url, _columns):
        image, caption, *key = row.values()
        name = str(key[0]) if key and key[0] is not None else f"{PurePosixPath(url).stem}/{number}"
        yield name, image.get("bytes") if isinstance(image, dict) else image, caption


def _columns(schema: pa.Schema, url: str) -> list[str]:
    """Names of the columns of pictures, of captions and, if there is one, of keys.

    Raises:
        ValueError: if pictures or captions are missing: a table of URLs is not a data set yet.
    """
    encoded = [
        name
        for name in IMAGE_COLUMNS
        if name in schema.names
        and (pa.types.is_struct(kind := schema.field(name).type) or kind in (pa.binary(), pa.large_binary()))
    ]
    captions = [name for name in CAPTION_COLUMNS if name in schema.names and _is_text(schema.field(name).type)]
    if not encoded or not captions:
        raise ValueError(
            f"{url} has the columns {schema.names}; expected bytes of pictures in one of {list(IMAGE_COLUMNS)} and "
            f"texts in one of {list(CAPTION_COLUMNS)} (for a table of URLs, download the pictures first)"
        )
    return [encoded[0], captions[0], *[name for name in KEY_COLUMNS if name in schema.names][:1]]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
