"""Read OBELICS: web pages as parallel lists of pictures and texts, with exactly one None at each index.

Layout: https://huggingface.co/datasets/HuggingFaceM4/OBELICS. The published Parquet files hold URLs of pictures, which
users download; the pictures are then found by the SHA-256 of their URL.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
from datasets import IterableDataset

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.document import DOCUMENT_FEATURES, InterleavedDocument, document_rows
from dataset_builder.readers.image_text import MAX_TEXT_BYTES
from dataset_builder.readers.images import MAX_IMAGE_BYTES, SUFFIXES, check_image
from dataset_builder.readers.lines import parse_json
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.readers.mmc4 import decode_base64
from dataset_builder.readers.parquet_rows import read_parquet
from dataset_builder.readers.stream import Source, find_shards, stream_shards
from dataset_builder.readers.tally import Tally
from dataset_builder.readers.tar_samples import read_tar_members, read_tar_pages


COLUMNS = ("images", "texts", "general_metadata")
FindPicture = Callable[[str], bytes]


def obelics_documents(
    shards: Source, images: str | Path | None = None, report: str | Path | None = None
) -> IterableDataset:
    """Documents in the order of OBELICS (`DOCUMENT_FEATURES`).

    Args:
        shards: `.parquet` with `images` (URLs, or pictures as bytes or `{bytes, path}`) and `texts`; or `.tar` of
            `json` with `texts` and base64 in `image_info`, as used in CosMo's training.
        images: folder or address with the downloaded pictures, if the documents hold URLs: files named by the SHA-256
            of the URL in hexadecimal (`url_hash`), with or without a suffix; or for the shard `NAME.parquet`, a
            `NAME.tar` of pictures with such names, or with `json` that holds the `url`, as img2dataset writes it.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there are no shards.
    """
    folder = None if images is None else MediaFolder(str(images))
    return stream_shards(
        find_shards(shards, (".tar", ".parquet")), partial(_read_shard, folder=folder), DOCUMENT_FEATURES, report
    )


def url_hash(url: str) -> str:
    """The file name, without suffix, of the picture from a URL."""
    return hashlib.sha256(url.encode()).hexdigest()


def _read_shard(url: str, tally: Tally, folder: MediaFolder | None) -> Iterator[dict[str, Any]]:
    if url.endswith(".tar"):
        return document_rows(read_tar_pages(url, tally), partial(_make_embedded, tally=tally), tally)
    find = _picture_finder(folder, PurePosixPath(url).stem, tally)
    return document_rows(_pages_of_table(url), partial(make_document, find=find, tally=tally), tally)


def make_document(key: str, page: Any, find: FindPicture, tally: Tally) -> InterleavedDocument | None:
    """A page as a document, or None if no picture is left.

    Raises:
        DamagedInput: if the lists are not parallel, or an index has not exactly one None.
    """
    entries, texts = (page.get("images"), page.get("texts")) if isinstance(page, dict) else (None, None)
    if not isinstance(entries, list) or not isinstance(texts, list) or len(entries) != len(texts):
        raise DamagedInput("images and texts are not lists of one length")
    kept: list[tuple[bytes | None, str | None]] = []
    for index, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        if (entry is None) == (text is None) or not isinstance(text, (str, type(None))):
            raise DamagedInput(f"index {index} has not exactly one of image and text")
        if entry is None:
            kept.append((None, text))
            continue
        try:
            kept.append((_picture(entry, find), None))
        except FileNotFoundError:
            tally.drop("image: missing", f"{key}[{index}]")
        except DamagedInput as error:
            tally.drop("image: damaged", f"{key}[{index}]", str(error))
    if not any(image for image, _ in kept):
        return None
    return InterleavedDocument(
        document_id=key,
        images=tuple(image for image, _ in kept),
        texts=tuple(text for _, text in kept),
        source="OBELICS",
        provenance={"reader": "obelics_documents", "url": _url_of(page)},
    )


def _picture(entry: Any, find: FindPicture) -> bytes:
    """The picture of an entry: embedded, or found by its URL."""
    if isinstance(entry, dict):
        entry = entry.get("bytes") or entry.get("path")
    if not isinstance(entry, (bytes, str)):
        raise DamagedInput("neither an address nor a picture")
    data = find(entry) if isinstance(entry, str) else entry
    check_image(data)
    return data


def _url_of(page: dict[str, Any]) -> str | None:
    facts = page.get("general_metadata")
    try:
        facts = parse_json(facts) if isinstance(facts, (str, bytes)) else facts
    except DamagedInput:
        return None
    return facts.get("url") if isinstance(facts, dict) else None


def _pages_of_table(url: str) -> Iterator[tuple[str, Any]]:
    for number, row in read_parquet(url, _columns):
        yield f"{PurePosixPath(url).stem}/{number}", row


def _columns(schema: pa.Schema, url: str) -> list[str]:
    """The columns to read, of those that exist.

    Raises:
        ValueError: if images or texts are missing.
    """
    if not {"images", "texts"} <= set(schema.names):
        raise ValueError(f"{url} has the columns {schema.names}; expected images and texts")
    return [name for name in COLUMNS if name in schema.names]


def _make_embedded(key: str, page: Any, tally: Tally) -> InterleavedDocument | None:
    """Like `make_document`, for the form in the released training: base64 in `image_info`, and empty for no text."""
    if isinstance(page, dict) and isinstance(page.get("image_info"), list) and isinstance(page.get("texts"), list):
        images = [entry and decode_base64(entry) for entry in page["image_info"]]
        page = page | {"images": images, "texts": [text or None for text in page["texts"]]}
    return make_document(key, page, _not_there, tally)


def _picture_finder(folder: MediaFolder | None, stem: str, tally: Tally) -> FindPicture:
    """A function that finds the pictures of one shard."""
    if folder is None:
        return _not_there
    tar = f"{folder.url.rstrip('/')}/{stem}.tar"
    system, path = fsspec.core.url_to_fs(tar)
    if not system.isfile(path):
        return partial(_find_in_folder, folder)
    places = _index_tar(tar, tally)

    def find_in_tar(url: str) -> bytes:
        if url_hash(url) not in places:
            raise FileNotFoundError(url)
        offset, size = places[url_hash(url)]
        return system.cat_file(path, start=offset, end=offset + size)

    return find_in_tar


def _index_tar(tar: str, tally: Tally) -> dict[str, tuple[int, int]]:
    """Hash of the URL -> first byte and size of its picture; pictures after a damaged place are not found."""
    limits = {**dict.fromkeys(SUFFIXES, MAX_IMAGE_BYTES), "json": MAX_TEXT_BYTES}
    by_key: dict[str, tuple[int, int]] = {}
    urls: dict[str, str] = {}
    try:
        for member in read_tar_members(tar, limits, tally):
            if member.extension != "json":
                by_key[PurePosixPath(member.key).name] = member.offset, member.size
            elif isinstance(facts := parse_json(member.read()), dict) and isinstance(facts.get("url"), str):
                urls[PurePosixPath(member.key).name] = url_hash(facts["url"])
    except DamagedInput as error:
        tally.drop("tar of pictures: rest of it damaged", tar, str(error))
    return {urls.get(key, key): place for key, place in by_key.items()}


def _find_in_folder(folder: MediaFolder, url: str) -> bytes:
    name = url_hash(url)
    names = (f"{name}.jpg", name, *(f"{name}.{suffix}" for suffix in SUFFIXES if suffix != "jpg"))
    return folder.read_first(names, MAX_IMAGE_BYTES)


def _not_there(url: str) -> bytes:
    raise FileNotFoundError(url)
