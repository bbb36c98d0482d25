"""Pictures and texts in order: the sample form of image-text pairs and of interleaved web pages."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Features, Image, Json, List, Value

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.tally import Tally


DOCUMENT_FEATURES = Features(
    {
        "document_id": Value("string"),
        "images": List(Image(decode=False)),  # {path, bytes}; `decode_image` turns the bytes into pixels
        "texts": List(Value("string")),
        "similarities": List(Value("float64")),
        "source": Value("string"),
        "license": Value("string"),
        "provenance": Json(),
    }
)


@dataclass(frozen=True, kw_only=True)
class InterleavedDocument:
    """Parallel lists as in OBELICS: at each index either a picture or a text; the other is None.

    A pair is a picture followed by its caption. The clips of an `InterleavedVideo` and their captions have the same
    form, with clips instead of pictures.

    Raises:
        ValueError: if the lists are not parallel.
    """

    document_id: str
    """Name of the sample, unique within its shards."""
    images: tuple[bytes | None, ...]
    """Encoded pictures, checked by their header."""
    texts: tuple[str | None, ...]
    """Sentences or paragraphs."""
    similarities: tuple[float | None, ...] = ()
    """Cosine similarity of each picture and the text after it, None elsewhere; empty if nothing was scored."""
    source: str = ""
    """Collection that it comes from."""
    license: str = ""
    """Licence of the pictures and the text, if the collection states one."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The reader that made it, with its settings; further facts from the source (URL, ...)."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.texts) or (self.similarities and len(self.similarities) != len(self.texts)):
            raise ValueError(
                f"{self.document_id}: {len(self.images)} images, {len(self.texts)} texts and "
                f"{len(self.similarities)} similarities are not parallel"
            )
        for index, (image, text) in enumerate(zip(self.images, self.texts, strict=True)):
            if (image is None) == (text is None):
                raise ValueError(f"{self.document_id}: index {index} has not exactly one of image and text")

    def chunks(self) -> tuple[str, list[tuple[bytes, str]]]:
        """What training reads: the text before the first picture, then each picture with the text up to the next."""
        texts: list[list[str]] = [[]]
        images = []
        for image, text in zip(self.images, self.texts, strict=True):
            if image is not None:
                images.append(image)
                texts.append([])
            elif text:
                texts[-1].append(text)
        before, *after = (" ".join(parts) for parts in texts)
        return before, list(zip(images, after, strict=True))


Pages = Iterable[tuple[str, Any]]
MakeDocument = Callable[[str, Any], InterleavedDocument | None]


def to_document_row(document: InterleavedDocument) -> dict[str, Any]:
    """A document as plain Python values, as `datasets` returns it."""
    return {
        "document_id": document.document_id,
        "images": [None if image is None else {"path": None, "bytes": image} for image in document.images],
        "texts": list(document.texts),
        "similarities": list(document.similarities),
        "source": document.source,
        "license": document.license,
        "provenance": dict(document.provenance),
    }


def document_rows(pages: Pages, make: MakeDocument, tally: Tally) -> Iterator[dict[str, Any]]:
    """Yield rows of the pages that become documents; the others are counted.

    Args:
        pages: name and content of each page.
        make: returns the document of a page, or None if no picture is left; raises `DamagedInput` for malformed pages.
        tally: counts what is left out.
    """
    for key, page in pages:
        try:
            document = make(key, page)
        except DamagedInput as error:
            tally.skip("malformed document", key, str(error))
            continue
        if document is None:
            tally.skip("no image left", key)
        else:
            yield to_document_row(document)


def from_document_row(row: Mapping[str, Any]) -> InterleavedDocument:
    """A row of `DOCUMENT_FEATURES` as a document.

    Raises:
        ValueError: for missing or unknown columns, or lists that are not parallel.
    """
    if set(row) != set(DOCUMENT_FEATURES):
        raise ValueError(f"a document has the columns {sorted(DOCUMENT_FEATURES)}; found {sorted(row)}")
    provenance = row["provenance"]
    return InterleavedDocument(
        document_id=row["document_id"],
        images=tuple(image and image["bytes"] for image in row["images"]),
        texts=tuple(row["texts"]),
        similarities=tuple(row["similarities"]),
        source=row["source"],
        license=row["license"],
        provenance=json.loads(provenance) if isinstance(provenance, str) else provenance,
    )
