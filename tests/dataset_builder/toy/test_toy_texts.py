import numpy as np
import pytest

from dataset_builder.toy.texts import describe_frame, draw_document, draw_scene, train_tokenizer
from dataset_builder.toy.world import ACTIONS, BACKGROUNDS, HELD_OUT, SEEN, Scene


HELD_OUT_CLAUSES = {
    f"{scene.object_phrase} {scene.action_phrase}"
    for scene in (Scene(shape=s, colour=c, action=a, background="dots") for s, c, a in HELD_OUT)
}


def test_no_text_names_a_held_out_combination():
    rng = np.random.default_rng(0)
    texts = [draw_document(rng) for _ in range(5000)]
    assert not [text for text in texts for clause in HELD_OUT_CLAUSES if clause in text]
    scenes = [draw_scene(rng) for _ in range(2000)]
    assert {(scene.shape, scene.colour, scene.action) for scene in scenes} <= set(SEEN)


def test_frame_captions_say_whether_they_name_the_background():
    rng = np.random.default_rng(1)
    scene = Scene(shape="ring", colour="orange", action="fall", background="waves")
    for text, names_background in (describe_frame(scene, rng) for _ in range(200)):
        assert "orange ring" in text
        assert ("waves" in text) == names_background


@pytest.mark.parametrize("text", ["a red star rolls left in front of the bricks", "Zürich 東京 \n ok?", ""])
def test_tokenizer_gives_any_text_back(text):
    tokenizer = train_tokenizer(0)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]).strip() == text.strip()
    assert tokenizer.unk_token_id not in ids


def test_captions_take_one_token_a_word():
    tokenizer = train_tokenizer(0)
    for shape, colour, action in sorted(HELD_OUT):
        caption = Scene(shape=shape, colour=colour, action=action, background=BACKGROUNDS[0]).caption
        assert len(tokenizer(caption)["input_ids"]) == 1 + len(caption.split())
    assert len(ACTIONS) == 8
