"""Read Multimodal C4: sentences, pictures and their similarities; each picture goes before the sentence it shows.

Layout: https://github.com/allenai/mmc4. Shards are `docs_*_shard_N_v2.jsonl` or the `.zip` of one, with the pictures
in a folder; or tars of `json` with the pictures as `image_base64`, as in the training of OpenFlamingo and CosMo.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from datasets import IterableDataset
from scipy.optimize import linear_sum_assignment

from dataset_builder.errors import DamagedInput
from dataset_builder.readers.document import DOCUMENT_FEATURES, InterleavedDocument, document_rows
from dataset_builder.readers.images import MAX_IMAGE_BYTES, check_image
from dataset_builder.readers.lines import read_json_lines
from dataset_builder.readers.media_folder import MediaFolder
from dataset_builder.readers.stream import Source, find_shards, stream_shards
from dataset_builder.readers.tally import Tally
from dataset_builder.readers.tar_samples import read_tar_pages


THRESHOLD = 0.24  # cosine similarity under CLIP ViT-L/14 below which the released training drops a picture
NOISE, MOST_NOISE = 0.025, 0.08  # standard deviation and bound of the noise that it adds to the similarities


@dataclass(frozen=True, kw_only=True)
class Mmc4Settings:
    """How pictures are matched with sentences."""

    images: MediaFolder | None = None
    """Folder of the files `image_name`, if the documents do not hold the pictures."""
    threshold: float = THRESHOLD
    """Pictures whose similarity to their sentence is not above this are dropped."""
    noise_seed: int | None = None
    """Seed of the released training's noise on the similarities, which varies documents between epochs; None: none."""


def mmc4_documents(
    shards: Source,
    images: str | Path | None = None,
    threshold: float = THRESHOLD,
    noise_seed: int | None = None,
    report: str | Path | None = None,
) -> IterableDataset:
    """Documents with each picture before its sentence (`DOCUMENT_FEATURES`).

    The assignment is the best one-to-one matching under the similarity matrix, as in the released training; documents
    without a matrix use the published `matched_text_index` and `matched_sim`.

    Args:
        shards: `.jsonl`, `.zip` of a `.jsonl`, or `.tar` files.
        images: folder or address with the files `image_name`, or `N/image_name` for shard N, if the documents hold no
            `image_base64`.
        threshold: see `Mmc4Settings`.
        noise_seed: see `Mmc4Settings`; give another one in each epoch.
        report: folder for the counts of what is left out.

    Raises:
        ValueError: if there are no shards.
    """
    folder = None if images is None else MediaFolder(str(images))
    reader = _Mmc4(Mmc4Settings(images=folder, threshold=threshold, noise_seed=noise_seed))
    return stream_shards(find_shards(shards, (".tar", ".jsonl", ".zip")), reader, DOCUMENT_FEATURES, report)


@dataclass(frozen=True)
class _Mmc4:
    """Reader of one shard."""

    settings: Mmc4Settings

    def __call__(self, url: str, tally: Tally) -> Iterator[dict[str, Any]]:
        number = re.search(r"shard_(\d+)", PurePosixPath(url).name)
        make = partial(self.read_page, shard=number[1] if number else None, tally=tally)
        return document_rows(_pages(url, tally), make, tally)

    def read_page(self, key: str, page: Any, shard: str | None, tally: Tally) -> InterleavedDocument | None:
        """A page as a document, or None if no picture is left.

        Raises:
            DamagedInput: if the page does not have the form of MMC4.
        """
        sentences, infos = _checked(page)
        matches = self._matches(key, page, sentences, infos)
        before: dict[int, tuple[bytes, float]] = {}
        for image, (place, similarity) in sorted(matches.items()):
            if similarity <= self.settings.threshold:
                tally.drop("image: similarity too low", key)
                continue
            try:
                before[place] = self._image(infos[image], shard), similarity
            except FileNotFoundError:
                tally.drop("image: missing", f"{key} {infos[image].get('image_name')}")
            except DamagedInput as error:
                tally.drop("image: damaged or refused", key, str(error))
        for _ in range(len(infos) - len(matches)):
            tally.drop("image: no sentence left for it", key)
        if not before:
            return None
        images: list[bytes | None] = []
        texts: list[str | None] = []
        similarities: list[float | None] = []
        for index, sentence in enumerate(sentences):
            if index in before:
                images.append(before[index][0])
                texts.append(None)
                similarities.append(before[index][1])
            images.append(None)
            texts.append(sentence)
            similarities.append(None)
        return InterleavedDocument(
            document_id=key,
            images=tuple(images),
            texts=tuple(texts),
            similarities=tuple(similarities),
            source="MMC4",
            provenance={
                "reader": "mmc4_documents",
                "threshold": self.settings.threshold,
                "noise_seed": self.settings.noise_seed,
                "url": page.get("url"),
            },
        )

    def _matches(
        self, key: str, page: dict[str, Any], sentences: list[str], infos: list[dict[str, Any]]
    ) -> dict[int, tuple[int, float]]:
        """Picture -> sentence and similarity; at most one picture per sentence."""
        if page.get("similarity_matrix") is None:
            return _published_matches(infos, len(sentences))
        try:
            matrix = np.array(page["similarity_matrix"], dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DamagedInput("similarity_matrix is not a matrix of numbers") from error
        if matrix.shape != (len(infos), len(sentences)) or not np.isfinite(matrix).all():
            raise DamagedInput(
                f"similarity_matrix of shape {matrix.shape}; {len(infos)} images x {len(sentences)} sentences expected"
            )
        if self.settings.noise_seed is not None:
            matrix = matrix + assignment_noise(matrix.shape, key, self.settings.noise_seed)
        return assign_images(matrix)

    def _image(self, info: dict[str, Any], shard: str | None) -> bytes:
        if info.get("image_base64"):
            data = decode_base64(info["image_base64"])
        elif self.settings.images is None:
            raise FileNotFoundError
        else:
            data = self.settings.images.read_first(_possible_names(info.get("image_name"), shard), MAX_IMAGE_BYTES)
        check_image(data)
        return data


def assign_images(similarities: np.ndarray) -> dict[int, tuple[int, float]]:
    """The one-to-one matching of pictures and sentences with the largest sum of similarities.

    Args:
        similarities: cosine similarities, shape `(images, sentences)`.

    Returns:
        picture -> sentence and similarity; as many pairs as there are pictures or sentences, whichever is fewer.
    """
    images, sentences = linear_sum_assignment(-similarities)
    return {
        image: (sentence, float(similarities[image, sentence]))
        for image, sentence in zip(images.tolist(), sentences.tolist(), strict=True)
    }


def assignment_noise(shape: tuple[int, ...], key: str, seed: int) -> np.ndarray:
    """The released noise: normal, standard deviation 0.025, clipped to 0.08; reproducible by document and seed."""
    document = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    return np.random.default_rng([seed, document]).normal(0.0, NOISE, shape).clip(-MOST_NOISE, MOST_NOISE)


def decode_base64(text: Any) -> bytes:
    """The bytes of a picture.

    OpenFlamingo's conversion script writes the base64 in Python's notation of bytes, `b'...'`.

    Raises:
        DamagedInput: for text that is not base64 or is too long.
    """
    if not isinstance(text, str) or len(text) > MAX_IMAGE_BYTES * 4 / 3 + 8:
        raise DamagedInput(f"image_base64 is not a text of at most {MAX_IMAGE_BYTES} bytes")
    if text.startswith("b'") and text.endswith("'"):
        text = text[2:-1]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DamagedInput(f"image_base64 is not base64 ({error})") from error


def _pages(url: str, tally: Tally) -> Iterator[tuple[str, Any]]:
    if url.endswith(".tar"):
        return read_tar_pages(url, tally)
    stem = PurePosixPath(url).name.split(".")[0]
    return ((f"{stem}/{number}", page) for number, page in read_json_lines(url, tally))


def _checked(page: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """Sentences, and facts about pictures.

    Raises:
        DamagedInput: if they are missing or have another type.
    """
    if not isinstance(page, dict):
        raise DamagedInput("not a JSON object")
    sentences, infos = page.get("text_list"), page.get("image_info")
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise DamagedInput("text_list is not a list of texts")
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise DamagedInput("image_info is not a list of objects")
    return sentences, infos


def _published_matches(infos: Sequence[dict[str, Any]], num_sentences: int) -> dict[int, tuple[int, float]]:
    matches: dict[int, tuple[int, float]] = {}
    for index, info in enumerate(infos):
        sentence, similarity = info.get("matched_text_index"), info.get("matched_sim")
        if not isinstance(sentence, int) or not isinstance(similarity, (int, float)) or not abs(similarity) <= 1:
            raise DamagedInput("neither a similarity_matrix nor matched_text_index and a cosine matched_sim")
        if not 0 <= sentence < num_sentences:
            raise DamagedInput(f"matched_text_index {sentence} of {num_sentences} sentences")
        if all(sentence != other for other, _ in matches.values()):
            matches[index] = sentence, float(similarity)
    return matches


def _possible_names(name: Any, shard: str | None) -> list[str]:
    if not isinstance(name, str):
        raise DamagedInput("image_name is not a text")
    return [name, f"{shard}/{name}"] if shard else [name]
