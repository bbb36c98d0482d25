"""MMC4: the assignment against all permutations, the layouts, and what is left out."""

import itertools
import json

import numpy as np
import pytest

from dataset_builder.errors import DamagedInput
from dataset_builder.readers import from_document_row, mmc4_documents, read_summary
from dataset_builder.readers.mmc4 import assign_images, assignment_noise, decode_base64
from tests.dataset_builder.readers.make_collections import mmc4_page, picture, write_mmc4_zip, write_tar


SENTENCES = ("Zero.", "One.", "Two.", "Three.")
MATRIX = np.array([[0.1, 0.2, 0.3, 0.1], [0.1, 0.1, 0.4, 0.1], [0.24, 0.1, 0.1, 0.1]])
# The best matching gives sentence 2 to image 1 and sentence 1 (0.2) to image 0: 0.84 against 0.64; image 2 takes 0.


@pytest.mark.parametrize("shape", [(1, 5), (3, 3), (3, 5), (5, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_assignment_has_the_largest_sum(shape, seed):
    similarities = np.random.default_rng(seed).random(shape)
    matches = assign_images(similarities)
    assert len(matches) == min(shape)
    sentences = [sentence for sentence, _ in matches.values()]
    assert len(set(sentences)) == len(sentences)
    for image, (sentence, similarity) in matches.items():
        assert similarity == similarities[image, sentence]
    small, large = sorted(shape)
    table = similarities if shape[0] <= shape[1] else similarities.T
    best = max(sum(table[range(small), choice]) for choice in itertools.permutations(range(large), small))
    # both are sums of the same numbers in another order
    assert sum(similarity for _, similarity in matches.values()) == pytest.approx(best, abs=1e-12)


def test_noise_is_the_released_one_and_fixed_by_document_and_seed():
    noise = assignment_noise((300, 200), "a", 7)
    assert np.abs(noise).max() == 0.08  # some of 60,000 draws lie beyond 3.2 standard deviations
    assert noise.std() == pytest.approx(0.025, abs=0.001)  # clipping takes 0.0001; the rest is four standard errors
    np.testing.assert_array_equal(noise, assignment_noise((300, 200), "a", 7))
    assert (noise != assignment_noise((300, 200), "b", 7)).any()
    assert (noise != assignment_noise((300, 200), "a", 8)).any()


def read(source, report=None, **settings):
    return [from_document_row(row) for row in mmc4_documents(source, report=report, **settings)]


def test_each_picture_stands_before_its_sentence(tmp_path):
    pictures = [picture(number) for number in range(3)]
    write_mmc4_zip(tmp_path / "docs_no_face_shard_7_v2.jsonl.zip", [mmc4_page(0, SENTENCES, MATRIX, pictures)])
    (document,) = read(tmp_path, threshold=0.15)
    assert document.document_id == "docs_no_face_shard_7_v2/0"
    assert document.texts == (None, "Zero.", None, "One.", None, "Two.", "Three.")
    assert document.images == (pictures[2], None, pictures[0], None, pictures[1], None, None)
    assert document.similarities == (0.24, None, 0.2, None, 0.4, None, None)
    assert document.chunks() == ("", [(pictures[2], "Zero."), (pictures[0], "One."), (pictures[1], "Two. Three.")])
    assert document.provenance["url"] == "https://example.org/page0"
    # the released threshold: above 0.24, not at it
    (document,) = read(tmp_path, report=tmp_path / "report")
    assert document.chunks() == ("Zero. One.", [(pictures[1], "Two. Three.")])
    assert read_summary(tmp_path / "report").dropped == {"image: similarity too low": 2}


def test_noise_changes_borderline_matches_and_repeats_exactly(tmp_path):
    flat = np.full((2, 6), 0.3)
    pages = [mmc4_page(number, "abcdef", flat, [picture(1), picture(2)]) for number in range(9)]
    write_mmc4_zip(tmp_path / "a.jsonl.zip", pages)
    first, again, other = (read(tmp_path, noise_seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [document.texts for document in first] != [document.texts for document in other]
    assert len({document.texts for document in first}) > 1


def test_more_pictures_than_sentences(tmp_path):
    """The released reader takes the i-th match for image i, which mixes pictures up as soon as one has no sentence."""
    matrix = np.array([[0.1], [0.9], [0.5]])
    pictures = [picture(number) for number in range(3)]
    write_mmc4_zip(tmp_path / "a.jsonl.zip", [mmc4_page(0, ["Only."], matrix, pictures)])
    (document,) = read(tmp_path, report=tmp_path / "report")
    assert document.chunks() == ("", [(pictures[1], "Only.")])
    assert read_summary(tmp_path / "report").dropped == {"image: no sentence left for it": 2}


def test_pictures_in_a_folder(tmp_path):
    """`image_name`, flat or below the shard's number, as the download and conversion scripts place them."""
    pages = [mmc4_page(0, SENTENCES, MATRIX + 0.5, [None] * 3)]
    pages[0]["image_info"][2]["image_name"] = "../secret.jpg"
    write_mmc4_zip(tmp_path / "docs" / "docs_no_face_shard_12_v2.jsonl.zip", pages)
    (tmp_path / "secret.jpg").write_bytes(picture(9))
    (tmp_path / "images" / "12").mkdir(parents=True)
    (tmp_path / "images" / pages[0]["image_info"][0]["image_name"]).write_bytes(picture(0))
    (tmp_path / "images" / "12" / pages[0]["image_info"][1]["image_name"]).write_bytes(picture(1))
    (document,) = read(tmp_path / "docs", tmp_path / "report", images=tmp_path / "images")
    assert document.chunks() == ("Zero.", [(picture(0), "One."), (picture(1), "Two. Three.")])
    assert read_summary(tmp_path / "report").dropped == {"image: damaged or refused": 1}
    assert read(tmp_path / "docs", tmp_path / "other") == []
    summary = read_summary(tmp_path / "other")
    assert summary.skipped == {"no image left": 1}
    assert summary.dropped == {"image: missing": 3}


@pytest.mark.parametrize("wrapped", [False, True])
def test_tars_for_training(wrapped, tmp_path):
    """OpenFlamingo's script writes the base64 in Python's notation of bytes."""
    page = mmc4_page(0, SENTENCES, MATRIX + 0.5, [picture(number) for number in range(3)])
    if wrapped:
        for info in page["image_info"]:
            info["image_base64"] = str(info["image_base64"].encode())
    shard = write_tar(tmp_path / "000000000.tar", [("9f3c.json", json.dumps(page).encode()), ("b.json", b"{")])
    (document,) = read(shard, tmp_path / "report")
    assert document.document_id == "9f3c"
    assert [image for image, _ in document.chunks()[1]] == [picture(2), picture(0), picture(1)]
    assert read_summary(tmp_path / "report").skipped == {"malformed document": 1}


def test_the_published_assignment_where_there_is_no_matrix(tmp_path):
    page = mmc4_page(0, SENTENCES, MATRIX, [picture(number) for number in range(3)])
    del page["similarity_matrix"]
    page["image_info"][0] |= {"matched_text_index": 3, "matched_sim": 0.5}
    page["image_info"][1] |= {"matched_text_index": 3, "matched_sim": 0.4}  # taken already
    write_mmc4_zip(tmp_path / "a.jsonl.zip", [page])
    (document,) = read(tmp_path)
    assert document.chunks() == ("Zero. One. Two.", [(picture(0), "Three.")])


def broken(**change):
    return mmc4_page(0, SENTENCES, MATRIX, [picture(1)] * 3) | change


@pytest.mark.parametrize(
    "page",
    [
        [1],
        broken(text_list="text"),
        broken(text_list=[1]),
        broken(image_info=None),
        broken(image_info=["x"]),
        broken(similarity_matrix=[[0.1, 0.2]]),
        broken(similarity_matrix=[[0.1], [0.2, 0.3]]),
        broken(similarity_matrix=[["a"] * 4] * 3),
        broken(similarity_matrix=[[float("nan")] * 4] * 3),
        broken(similarity_matrix=[[10**400] * 4] * 3),
        broken(similarity_matrix=None, image_info=[{"matched_text_index": 0, "matched_sim": 10**400}]),
        broken(similarity_matrix=None, image_info=[{"matched_text_index": 0, "matched_sim": float("nan")}]),
        broken(similarity_matrix=None, image_info=[{"matched_text_index": 4, "matched_sim": 0.5}]),
        broken(similarity_matrix=None, image_info=[{}]),
    ],
)
def test_malformed_documents_are_skipped(page, tmp_path):
    good = mmc4_page(1, SENTENCES, MATRIX, [picture(number) for number in range(3)])
    write_mmc4_zip(tmp_path / "a.jsonl.zip", [page, good])
    assert [document.document_id for document in read(tmp_path, tmp_path / "report")] == ["a/1"]
    assert read_summary(tmp_path / "report").skipped == {"malformed document": 1}


def test_text_that_nothing_can_store_is_skipped(tmp_path):
    """Half of a surrogate pair, as found on web pages: a tokenizer or a table would fail on it later."""
    good = mmc4_page(1, SENTENCES, MATRIX, [picture(number) for number in range(3)])
    write_mmc4_zip(tmp_path / "a.jsonl.zip", [broken(text_list=["half \ud83d", *SENTENCES[1:]]), good])
    assert [document.document_id for document in read(tmp_path, tmp_path / "report")] == ["a/1"]
    assert read_summary(tmp_path / "report").skipped == {"malformed line": 1}


@pytest.mark.parametrize("text", ["!!!!", "abc", None, 7, "A" * 50_000_000])
def test_base64_that_is_none_or_too_long(text):
    with pytest.raises(DamagedInput, match="image_base64 is no"):
        decode_base64(text)
