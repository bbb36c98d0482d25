"""In come published collections; out go samples in the forms that training reads (docs/readers.md has a table)."""

from dataset_builder.readers.document import (
    DOCUMENT_FEATURES,
    InterleavedDocument,
    from_document_row,
    to_document_row,
)
from dataset_builder.readers.image_text import image_text_pairs
from dataset_builder.readers.images import decode_image
from dataset_builder.readers.mmc4 import mmc4_documents
from dataset_builder.readers.obelics import obelics_documents, url_hash
from dataset_builder.readers.save import save_corpus
from dataset_builder.readers.tally import ReadSummary, read_summary
from dataset_builder.readers.video_text import video_text_pairs, webvid_pairs


__all__ = [
    "DOCUMENT_FEATURES",
    "InterleavedDocument",
    "ReadSummary",
    "decode_image",
    "from_document_row",
    "image_text_pairs",
    "mmc4_documents",
    "obelics_documents",
    "read_summary",
    "save_corpus",
    "to_document_row",
    "url_hash",
    "video_text_pairs",
    "webvid_pairs",
]
