import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from dataset_builder import build_corpus, load_recipe, read_corpus
from dataset_builder.compare.misplaced import find_misplaced
from dataset_builder.models.embed import TowerEmbedder
from dataset_builder.models.embed_text import TextEmbedder
from dataset_builder.recipe import FilterSettings
from dataset_builder.schema import Clip
from dataset_builder.stages.filter import FrameLevels, filter_clips
from dataset_builder.toy.videos import write_toy_videos
from dataset_builder.video.decode import decode_clips
from tests.dataset_builder.make_videos import encode, story


WORDS = ["[PAD]", "[BEGIN]", "[END]", "[UNK]", "a", "red", "green", "star", "rolls", "step", "of", "0", "1", "2"]
PART: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(end: str = "[END]") -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[BEGIN]", 1), ("[END]", 2)]
    core.post_processor = processors.TemplateProcessing(single="[BEGIN] $A [END]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", bos_token="[BEGIN]", eos_token=end, unk_token="[UNK]"
    )


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = PART | {"vocab_size": len(WORDS), "max_position_embeddings": 7, "eos_token_id": 2, "bos_token_id": 1}
    # with an end token other than 2, the model finds it the current way; with 2 the old way, by the largest id
    text |= {"eos_token_id": 3}
    config = CLIPConfig(vision_config=PART | {"image_size": 32, "patch_size": 8}, text_config=text, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    core = words()
    core._tokenizer.post_processor = processors.TemplateProcessing(
        single="[BEGIN] $A [UNK]", special_tokens=[("[BEGIN]", 1), ("[UNK]", 3)]
    )
    core.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(1)
    text = PART | {"vocab_size": len(WORDS), "max_position_embeddings": 7, "projection_size": 16}
    config = SiglipConfig(vision_config=PART | {"image_size": 32, "patch_size": 8}, text_config=text)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def test_texts_are_embedded_one_by_one_as_in_a_batch_and_cut_at_the_context(clip_dir):
    tower = TowerEmbedder(str(clip_dir))
    embed = TextEmbedder(tower)
    assert embed.max_tokens == 7
    texts = ["a red star", "a star", "a red star rolls a red star rolls", "a red star rolls a green star"]
    together = embed(texts)
    assert together.shape == (4, 16)
    for text, found in zip(texts, together, strict=True):
        ids = [1, *(WORDS.index(word) for word in text.split()[:5]), 3]  # the end stays when a text is cut
        with torch.inference_mode():
            hidden = tower.model.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, len(ids) - 1]
            expected = tower.model.text_projection(hidden)
        # float32 sums in another order: a few units of the 7th digit
        np.testing.assert_allclose(found, (expected / expected.norm()).numpy(), atol=2e-6)
    assert np.abs(together[2] - together[3]).max() < 1e-6  # they differ only in the words that are cut off


def test_siglip_reads_texts_padded_to_its_whole_context(siglip_dir):
    tower = TowerEmbedder(str(siglip_dir))
    found = TextEmbedder(tower)(["a red star", "a red star rolls a red star rolls"])
    ids = [[1, 4, 5, 7, 2, 0, 0], [1, 4, 5, 7, 8, 4, 2]]
    with torch.inference_mode():
        expected = tower.model.text_model(input_ids=torch.tensor(ids)).pooler_output
    np.testing.assert_allclose(found, (expected / expected.norm(dim=1, keepdim=True)).numpy(), atol=2e-6)


def test_the_toy_tower_tells_its_texts_apart():
    """Its tokenizer begins with the token that CLIP pools at: pooled there, all texts would be equal."""
    embed = TextEmbedder(TowerEmbedder("toy"))
    cosines = (lambda rows: rows @ rows.T)(embed(["a red star falls", "a blue ring rises", "a red star rises"]))
    assert cosines[0, 1] < 0.3
    assert cosines[0, 2] > 0.8


def test_towers_that_cannot_read_are_refused_in_one_line(tmp_path, tower_dir):
    with pytest.raises(ValueError, match="has no tokenizer next to its weights"):
        TextEmbedder(TowerEmbedder(str(tower_dir)))
    CLIPVisionModel(CLIPVisionConfig(**PART, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a CLIPVisionModel, which reads no text"):
        TextEmbedder(TowerEmbedder(str(tmp_path)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_matching_is_the_best_of_all(size):
    """Compare with trying every permutation; a caption moves only if it gains the margin."""
    draw = np.random.default_rng(size)
    moved = 0
    for _ in range(50):
        matrix = draw.normal(size=(size, size))
        best = max(
            itertools.permutations(range(size)), key=lambda order: sum(matrix[order[k], k] for k in range(size))
        )
        for margin in (-9.0, 0.0, 0.7):
            gains = {k: matrix[best[k], k] - matrix[k, k] for k in range(size) if best[k] != k}
            expected = {k: best[k] for k, gain in gains.items() if gain >= margin}
            assert find_misplaced(matrix.tolist(), margin) == expected
            moved += len(expected)
    assert moved


def test_empty_captions_take_no_part_in_the_matching():
    matrix = [[0.1, None, 0.9], [0.3, None, 0.2], [0.8, None, 0.1]]
    assert find_misplaced(matrix, 0.1) == {0: 2, 2: 0}
    assert find_misplaced([[None, 0.5], [None, 0.1]], 0.0) == {}  # a single caption cannot be exchanged
    assert find_misplaced([], 0.0) == {}


def test_low_and_misplaced_captions_are_dropped_with_their_reasons():
    similarities = [0.3, 0.2, None, 0.31]
    clips = [
        Clip(start_s=2.0 * k, end_s=2.0 * k + 2, caption=f"caption {k}", similarity=similarity)
        for k, similarity in enumerate(similarities)
    ]
    levels = [FrameLevels(brightest=100.0, largest_change=9.0)] * 4
    judged = filter_clips(clips, levels, FilterSettings(min_similarity=0.3), {1: 3, 3: 1})
    assert [clip.drop_reason for clip in judged] == [
        "",
        "caption belongs to another clip: 3",
        "",
        "caption belongs to another clip: 1",
    ]
    judged = filter_clips(clips, levels, FilterSettings(min_similarity=0.3))
    assert [clip.drop_reason for clip in judged] == ["", "similarity below 0.3", "", ""]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"filter.min_similarity": 0.3}, "need the stage score"),
        ({"filter.misplaced_margin": 0.1}, "need the stage score"),
        ({"score": {}, "segment.tower": None, "segment.embeddings": "x"}, "score.tower is missing"),
        ({"score": {"frames_per_clip": 0}}, "score: frames_per_clip is 0; expected more than 0"),
    ],
)
def test_contradicting_settings_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("toy", overrides)


def test_the_matrix_and_the_scores_are_in_the_corpus(tmp_path, narrated_dir, clip_dir):
    overrides = {"segment.tower": str(clip_dir), "score": {}, "filter.min_caption_words": 0}
    recipe = load_recipe("toy", overrides)
    build_corpus(narrated_dir, tmp_path / "out", recipe, workers=1, progress=False)
    for record in read_corpus(tmp_path / "out", "train", include_dropped=True):
        count = len(record.clips)
        matrix = np.array(record.similarity_matrix)
        assert matrix.shape == (count, count)
        assert np.abs(matrix).max() <= 1
        assert [clip.similarity for clip in record.clips] == [matrix[k, k] for k in range(count)]
        assert record.provenance["score"]["frames"] == "segment"


def test_empty_captions_have_no_score(tmp_path, clip_dir):
    encode(tmp_path / "in" / "v.mp4", story(0))
    overrides = {"segment.tower": str(clip_dir), "caption": None, "score": {}, "filter": None}
    build_corpus(tmp_path / "in", tmp_path / "out", load_recipe("laptop", overrides), workers=1, progress=False)
    (record,) = read_corpus(tmp_path / "out", "train")
    assert {clip.similarity for clip in record.clips} == {None}
    assert record.similarity_matrix == ((None,) * len(record.clips),) * len(record.clips)


def test_another_tower_than_segments_sees_frames_of_its_own(tmp_path, narrated_dir, tower_dir, siglip_dir):
    overrides = {"segment.tower": str(tower_dir), "score": {"tower": str(siglip_dir), "frames_per_clip": 2}}
    build_corpus(narrated_dir, tmp_path / "out", load_recipe("toy", overrides), workers=1, progress=False)
    tower = TowerEmbedder(str(siglip_dir))
    record = next(iter(read_corpus(tmp_path / "out", "test", include_dropped=True)))
    facts = record.provenance["score"]
    assert (facts["frames"], facts["embeddings"]["tower"]) == (2, siglip_dir.name)
    pixels = decode_clips(record, range(len(record.clips)), 2)  # (C, F, 3, H, W)
    small = pixels.reshape(*pixels.shape[:3], 32, 2, 32, 2).mean(axis=(4, 6)).astype(np.uint8)  # 64 to 32 pixels
    frames = small.transpose(0, 1, 3, 4, 2).reshape(-1, 32, 32, 3)
    embeds = tower(frames).reshape(len(record.clips), 2, -1)
    embeds /= np.linalg.norm(embeds, axis=-1, keepdims=True)
    means = embeds.mean(axis=1)
    means /= np.linalg.norm(means, axis=-1, keepdims=True)
    texts = TextEmbedder(tower)([clip.caption for clip in record.clips])
    # the mean of four pixels is not bicubic resizing: edges differ, the scenes' flat colours do not
    np.testing.assert_allclose(np.array(record.similarity_matrix), means @ texts.T, atol=0.03)


def planted_and_found(folder, num_videos, seed, corpus):
    """Clips with a planted wrong caption, clips that score dropped, and clips that are both.

    Clips that another filter dropped do not count, nor do those of a step that was blacked out: no caption fits it.
    """
    write_toy_videos(folder, num_videos=num_videos, seed=seed, faults=1.0, workers=1, progress=False)
    overrides = {"score": {}, "filter.min_similarity": 0.5, "filter.misplaced_margin": 0.3}
    build_corpus(folder, corpus, load_recipe("toy", overrides), workers=1, progress=False)
    counts = np.zeros(3, dtype=int)
    for split in ("train", "validation", "test"):
        for record in read_corpus(corpus, split, include_dropped=True):
            truth = json.loads((folder / split / f"{record.video_id}.json").read_text())
            planted = {fault["step_index"]: fault["kind"] for fault in truth["faults"] if "step_index" in fault}
            for clip in record.clips:
                overlaps = [
                    min(clip.end_s, step["end_s"]) - max(clip.start_s, step["start_s"]) for step in truth["steps"]
                ]
                kind = planted.get(int(np.argmax(overlaps)))
                dropped = clip.drop_reason.startswith(("similarity", "caption belongs"))
                if kind != "black_clip" and (clip.keep or dropped):
                    wrong = kind == "mismatched_caption"
                    counts += [wrong, dropped, wrong and dropped]
    return counts


def test_mismatched_captions_of_the_toy_world_are_found(tmp_path):
    planted, found, both = planted_and_found(tmp_path / "in", 24, 11, tmp_path / "out")
    assert planted >= 3
    assert both >= 0.9 * planted
    assert both >= 0.9 * found
