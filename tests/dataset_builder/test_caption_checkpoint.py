"""Real captioning classes with tiny random weights: the words are nonsense, the code path is real."""

import pytest
import torch

from dataset_builder import Clip, InterleavedVideo, build_corpus, load_recipe, read_corpus
from dataset_builder.draft import Draft
from dataset_builder.inputs import SourceVideo
from dataset_builder.models.frame_captioner import FrameCaptioner
from dataset_builder.stages.caption import CaptionSettings, CaptionStage, CheckpointCaptioner
from tests.dataset_builder.make_videos import encode, story
from tests.dataset_builder.tiny_captioners import WORDS, write_blip, write_git, write_llava, write_vit_gpt2


@pytest.mark.parametrize(
    ("write", "prompt"),
    [
        (write_blip, ""),
        (write_blip, "a picture of"),
        (write_git, ""),
        (write_git, "a picture of"),
        (write_vit_gpt2, ""),
        (write_llava, "a picture of"),
    ],
)
def test_any_image_to_text_checkpoint_captions_every_clip(tmp_path, write, prompt):
    torch.manual_seed(0)
    write(tmp_path / "captioner")
    path = encode(tmp_path / "v.mp4", story(0))
    source = SourceVideo(split="train", video_id="v", path=path, name="v.mp4", subtitles=None, truth=None)
    captioner = CheckpointCaptioner(str(tmp_path / "captioner"), prompt, max_new_tokens=5)
    clips = [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    captions = captioner(source, clips, [""] * 3)
    assert len(captions) == 3
    for said in captions:
        assert said.frame_captions == ((said.caption,) if said.caption else ())
        assert bool(said.caption) != bool(said.fault)
        assert set(said.caption.split()) <= set(WORDS[4:]) | {"[UNK]"}
        assert len(said.caption.split()) <= 5 + 3  # new words; BLIP repeats the prompt at the start of the caption
    assert captions == captioner(source, clips, [""] * 3)  # greedy: the same words each time
    facts = captioner.provenance()
    assert facts["checkpoint"] == "captioner"
    assert facts["prompt"] == prompt
    assert str(tmp_path) not in str(facts)


def test_nonsense_and_silence_are_asked_for_again_and_then_the_clip_goes(tmp_path, monkeypatch):
    write_blip(tmp_path / "captioner")
    path = encode(tmp_path / "v.mp4", story(0))
    source = SourceVideo(split="train", video_id="v", path=path, name="v.mp4", subtitles=None, truth=None)
    stage = CaptionStage(CaptionSettings(captioner="checkpoint", checkpoint=str(tmp_path / "captioner")), seed=0)
    script = [["so so so", None, "a red star"], ["a cook"], [None]]
    asked = []

    def answer(self, frames, *settings):
        asked.append(len(frames))
        return script.pop(0)

    monkeypatch.setattr(FrameCaptioner, "__call__", answer)
    clips = tuple(Clip(start_s=2.0 * index, end_s=2.0 * index + 2) for index in range(3))
    draft = Draft(source=source, record=InterleavedVideo(video_id="v", duration_s=6.0, clips=clips))
    (done,) = stage([draft])
    assert asked == [3, 1, 1]
    assert [clip.caption for clip in done.record.clips] == ["a cook", "", "a red star"]
    assert [clip.drop_reason for clip in done.record.clips] == ["", "no usable caption: timed out", ""]
    assert [clip.keep for clip in done.record.clips] == [True, False, True]


def test_what_is_no_captioner_is_refused_in_one_line(tower_dir):
    with pytest.raises(ValueError, match="cannot load the captioner") as refusal:
        CheckpointCaptioner(str(tower_dir), "", 5)
    assert "\n" not in str(refusal.value)


def test_a_recipe_runs_a_checkpoint(tmp_path, tower_dir):
    write_blip(tmp_path / "captioner")
    encode(tmp_path / "in" / "v.mp4", story(0))
    overrides = {
        "segment.tower": str(tower_dir),
        "caption.captioner": "checkpoint",
        "caption.checkpoint": str(tmp_path / "captioner"),
        "caption.max_new_tokens": 3,
        "filter.min_caption_words": 0,
        "filter.drop_repeated_captions": False,
    }
    build_corpus(tmp_path / "in", tmp_path / "out", load_recipe("laptop", overrides), workers=1, progress=False)
    (record,) = read_corpus(tmp_path / "out", "train", include_dropped=True)
    assert record.provenance["caption"]["checkpoint"] == "captioner"
    assert all(clip.frame_captions == ((clip.caption,) if clip.caption else ()) for clip in record.clips)
    assert all(bool(clip.caption) != clip.drop_reason.startswith("no usable caption") for clip in record.clips)
