"""The stage `look` with captioning models of real classes; their weights are random, so their answers are steered."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dataset_builder import build_corpus, read_corpus
from dataset_builder.draft import Draft
from dataset_builder.inputs import SourceVideo
from dataset_builder.models.frame_captioner import FrameCaptioner, load_captioner
from dataset_builder.recipe import load_recipe
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.stages.look import LookSettings, LookStage
from dataset_builder.text.nonsense import find_nonsense
from tests.dataset_builder.make_videos import encode, square_frames, story
from tests.dataset_builder.tiny_captioners import WORDS, write_blip, write_blip2, write_florence2
from tests.tiny_model import save_tiny_model


@pytest.fixture
def draft(tmp_path) -> Draft:
    path = encode(tmp_path / "v.mp4", story(0))
    source = SourceVideo(split="train", video_id="v", path=path, name="v.mp4", subtitles=None, truth=None)
    clips = tuple(Clip(start_s=2.0 * k, end_s=2.0 * k + 2) for k in range(3))
    return Draft(source=source, record=InterleavedVideo(video_id="v", duration_s=6.0, clips=clips))


def look_at(draft: Draft, **settings) -> Draft:
    load_captioner.cache_clear()  # each test writes its model to its own folder
    (done,) = LookStage(LookSettings(**settings))([draft])
    return done


class Scripted:
    """A captioner that answers from a list; None is a batch that took too long."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), []

    def provenance(self):
        return {"tool": "scripted", "version": 1}

    def __call__(self, frames, prompt, max_new_tokens, timeout_s=None, generation=None):
        self.calls.append((len(frames), bool(generation)))
        return [self.answers.pop(0) for _ in frames]

    def regions(self, frames, prompt, max_new_tokens, timeout_s=None):
        self.calls.append((len(frames), False))
        return [self.answers.pop(0) for _ in frames]


@pytest.mark.parametrize(("write", "prompt"), [(write_blip, ""), (write_blip2, ""), (write_blip2, "a picture of")])
def test_every_clip_gets_what_a_model_says(tmp_path, draft, write, prompt):
    torch.manual_seed(0)
    write(tmp_path / "model")
    done = look_at(draft, checkpoint=str(tmp_path / "model"), prompt=prompt, max_new_tokens=5, frames_per_clip=2)
    for clip in done.record.clips:
        if clip.keep:
            assert len(clip.frame_captions) == 2
            assert set(" ".join(clip.frame_captions).split()) <= {*WORDS[4:], "[UNK]"}
        else:
            assert clip.drop_reason.startswith("no usable frame caption: ")
    facts = done.record.provenance["look"]
    assert (facts["checkpoint"], facts["prompt"], facts["frames_per_clip"]) == ("model", prompt, 2)
    assert str(tmp_path) not in str(facts)


def test_florence2_captions_frames_and_regions(tmp_path, draft):
    torch.manual_seed(0)
    write_florence2(tmp_path / "model")
    load_captioner.cache_clear()
    captioner = load_captioner(str(tmp_path / "model"))
    frames = np.stack([square_frames(1, (220, 30, 30), 10)[0], square_frames(1, (30, 200, 40), 250)[0]])
    answers = captioner(frames, "<CAPTION>", 5)
    assert len(answers) == 2
    assert not any("<loc" in str(answer) for answer in answers)
    # random weights name no regions: we supply the tokens, and the real processor parses them
    words = captioner._tokenizer
    ids = [words.convert_tokens_to_ids(token) for token in ["red", "star", *[f"<loc_{k}>" for k in (1, 2, 3, 4)]]]
    ids += [words.convert_tokens_to_ids(token) for token in ["picture", *[f"<loc_{k}>" for k in (5, 6, 7, 8)]]]
    captioner._model.generate = lambda **inputs: torch.tensor([[2, 1, *ids, 2], [2, 1, *ids[6:], 2, *[0] * 6]])
    regions = captioner.regions(frames, "<DENSE_REGION_CAPTION>", 30)
    assert [[label.replace(" ", "") for label in labels] for labels in regions] == [
        ["redstar", "picture"],
        ["picture"],
    ]


LOOK_WITH_COSMO = """
import sys
import numpy as np
from dataset_builder.models.frame_captioner import FrameCaptioner
try:
    FrameCaptioner(sys.argv[1])
except ValueError as error:
    print(error)
captioner = FrameCaptioner(sys.argv[1], trust_remote_code=True)
frames = np.zeros((2, 24, 24, 3), dtype=np.uint8)
print(captioner(frames, "a red", 4) == captioner(frames[:1], "a red", 4) * 2)
print("modeling_cosmo" in sys.modules)
"""


def test_cosmo_itself_looks_when_its_code_is_trusted(tmp_path):
    """In a separate process: in this one the model is already registered, and needs no code from the folder."""
    save_tiny_model(tmp_path / "model")
    command = [sys.executable, "-c", LOOK_WITH_COSMO, str(tmp_path / "model")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    refusal, same, ours = done.stdout.strip().splitlines()
    assert refusal.endswith("(set trust_remote_code: true in the recipe if you trust that code)")
    assert (same, ours) == ("True", "False")


def stage_with(captioner, regions=None, **settings) -> LookStage:
    stage = LookStage.__new__(LookStage)
    stage.settings = LookSettings(checkpoint="x", **settings)
    stage._second_try = {"no_repeat_ngram_size": 3}
    stage.captioner, stage.region_captioner = captioner, regions
    return stage


def test_nonsense_is_asked_for_again_alone_and_then_the_clip_goes(draft):
    model = Scripted("a red square", "", "a a a a", "a blue square", "")
    (done,) = stage_with(model, batch_size=2)([draft])
    assert model.calls == [(2, False), (1, False), (1, True), (1, True)]
    assert [clip.frame_captions for clip in done.record.clips] == [("a red square",), ("a blue square",), ()]
    assert [clip.drop_reason for clip in done.record.clips] == ["", "", "no usable frame caption: empty"]
    assert [clip.keep for clip in done.record.clips] == [True, True, False]


def test_a_batch_that_takes_too_long_is_tried_one_by_one(draft):
    model = Scripted(None, None, None, "a red square", None, "a green square")
    (done,) = stage_with(model)([draft])
    assert [clip.drop_reason for clip in done.record.clips] == ["", "no usable frame caption: timed out", ""]


def test_the_clock_stops_a_model(tmp_path):
    write_blip2(tmp_path / "model")
    captioner = FrameCaptioner(str(tmp_path / "model"))
    frames = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    generate = captioner._model.generate
    captioner._model.generate = lambda **inputs: (time.sleep(0.02), generate(**inputs))[1]
    assert captioner(frames, "", 3, timeout_s=0.01) == [None, None]
    assert None not in captioner(frames, "", 3, timeout_s=60.0)


def test_regions_stay_distinct_bounded_and_free_of_nonsense(draft):
    words = ["red", "green", "blue", "white", "cyan", "grey"]
    frames, regions = Scripted(*words), Scripted(["a", "b", "?"], ["b", "c"], *[["d"]] * 4)
    stage = stage_with(frames, regions, frames_per_clip=2, max_regions=2)
    (done,) = stage([draft])
    assert [clip.regions for clip in done.record.clips] == [("a", "b"), ("d",), ("d",)]
    assert [clip.frame_captions for clip in done.record.clips] == [*zip(words[::2], words[1::2], strict=True)]
    assert done.record.provenance["look"]["regions"]["max_regions"] == 2


def test_a_clip_that_was_dropped_before_keeps_its_reason(draft):
    clips = [*draft.record.clips]
    clips[0] = Clip(start_s=0.0, end_s=2.0, keep=False, drop_reason="black clip")
    (done,) = stage_with(Scripted("", "a b", "c d", ""))([draft.with_clips(clips)])
    assert [clip.drop_reason for clip in done.record.clips] == ["black clip", "", ""]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a red star rolls left", None),
        ("", "empty"),
        ("   ", "empty"),
        ("... 123 !!", "no words"),
        ("the the the", "repeats itself"),
        ("a dog and a cat and a dog and a cat and a dog and a cat and", "repeats itself"),
        ("no no, really", None),
        ("step by step, bit by bit", None),
        ("一颗 红色 的 星星", None),
        (" ".join(f"w{k}" for k in range(11)), "over 10 words"),
    ],
)
def test_nonsense(text, fault):
    assert find_nonsense(text, 10 if fault and fault.startswith("over") else 50) == fault


def test_long_answers_of_few_words_are_nonsense():
    draw = np.random.default_rng(0)
    few = " ".join(str(word) for word in draw.choice(["ab", "cd", "ef", "gh"], size=40))
    assert find_nonsense(few, 100) == "repeats itself"


def test_a_recipe_looks_and_a_rebuild_sees_other_weights(tmp_path, tower_dir):
    encode(tmp_path / "in" / "v.mp4", story(0))
    overrides = {"segment.tower": str(tower_dir), "look.checkpoint": str(tmp_path / "model"), "filter": None}
    recipe = load_recipe("laptop", overrides | {"look.max_new_tokens": 4})
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_blip(tmp_path / "model")
        load_captioner.cache_clear()
        summary = build_corpus(tmp_path / "in", tmp_path / "out", recipe, workers=1, progress=False)
        assert not summary.up_to_date
    (record,) = read_corpus(tmp_path / "out", "train", include_dropped=True)
    assert all(clip.frame_captions or clip.drop_reason for clip in record.clips)
    assert record.provenance["look"]["checkpoint"] == "model"
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("look", "message"),
    [
        ({}, "the key 'look.checkpoint' is missing"),
        ({"checkpoint": "x/y", "timeout_s": 0}, "look: timeout_s is 0.0; expected more than 0"),
        ({"checkpoint": "x/y", "promt": "a"}, "did you mean 'look.prompt'?"),
    ],
)
def test_wrong_settings_are_refused(look, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        load_recipe("toy", {"look": look})
