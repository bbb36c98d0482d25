"""Text filters for captions and speech: positives next to near misses."""

from dataclasses import replace

import pytest

from dataset_builder.draft import Draft, LeftOut, Sampled
from dataset_builder.engines.fingerprint import build_fingerprint
from dataset_builder.inputs import SourceVideo
from dataset_builder.recipe import load_recipe
from dataset_builder.schema import Clip, InterleavedVideo
from dataset_builder.stages.filter import FilterSettings, FilterStage, FrameLevels, filter_clips
from dataset_builder.text.language import function_words, other_language
from dataset_builder.text.personal_data import find_personal_data
from dataset_builder.text.text_filters import find_sensitive_word, repeated_share


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to me at toy12@example.org or call 555 0123", "e-mail"),
        ("JANE.DOE+x@mail.example.co.uk", "e-mail"),
        ("see https://jane:secret@host.example/x", "address with a user"),
        ("follow instagram.com/jane_doe for more", "address with a user"),
        ("my account is GB82 WEST 1234 5698 7654 32 THANKS", "IBAN"),
        ("pay with 4111 1111 1111 1111 today", "card number"),
        ("number 078-05-1120", "social security number"),
        ("call 555 0123", "phone number"),
        ("reach me at the number 0171 234 5678", "phone number"),
        ("it is +44 20 7946 0958 in London", "phone number"),
        ("(555) 010-1234", "phone number"),
        ("thanks to @jane_doe for the recipe", "user name"),
        ("bake at 180 degrees for 20 to 25 minutes in 2024", None),
        ("a screen of 1920 x 1080 pixels and 1000000 dots", None),
        ("4111 1111 1111 1112 is no card", None),
        ("GB83 WEST 1234 5698 7654 32 is no account", None),
        ("call the red star a star", None),
        ("mix 2 eggs @ room temperature, see www.example.org/recipes", None),
        ("from 10:30 to 11:45 on 2024-01-31", None),
    ],
)
def test_personal_data(text, kind):
    assert find_personal_data(text) == kind


ENGLISH = "a woman cuts the onions on a board and puts them into the pan"


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        (ENGLISH, "en", None),
        ("eine Frau schneidet die Zwiebeln und gibt sie in die Pfanne", "en", "de"),
        ("une femme coupe les oignons et les met dans la poêle", "en", "fr"),
        ("una mujer corta las cebollas y las pone en la sartén", "en", "es"),
        ("una donna taglia le cipolle e poi le mette nella padella con un po' di olio", "en", "it"),
        ("uma mulher corta as cebolas e depois põe tudo na panela com um pouco de óleo", "en", "pt"),
        ("een vrouw snijdt de uien en doet ze dan in de pan met het vlees", "en", "nl"),
        (ENGLISH, "de", "en"),
        ("一个女人在切洋葱", "en", "cjk"),
        ("женщина режет лук", "en", "cyrillic"),
        ("red star, blue ring", "en", None),
        ("", "en", None),
        ("12 34", "en", None),
        ("a red star rolls left in front of the bricks", "en", None),
    ],
)
def test_other_languages(text, expected, found):
    assert other_language(text, expected) == found


def test_word_lists_are_words():
    """YAML reads a bare `no` as False; the reader restores the word."""
    assert {"no"} <= function_words()["es"]
    assert {"on"} <= function_words()["en"]
    for language, words in function_words().items():
        assert len(words) > 35, language
        assert all(isinstance(word, str) and word == word.lower() for word in words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("one two three four five six", 0.0),
        ("the the the the", 1.0),  # single words, being short
        ("the cat the dog", 0.5),
        ("a b c a b c", 2 / 4),  # abc bca cab abc
        ("a cat is a cat is a cat is a cat", 8 / 8),  # three different runs, each at least twice
        ("A b c d e a B C f", 2 / 7),
    ],
)
def test_share_of_repeated_runs(text, expected):
    assert repeated_share(text) == pytest.approx(expected)


def test_sensitive_words_and_ones_own(tmp_path):
    assert find_sensitive_word("a scene of  PORNOGRAPHY", None) == "porn*"
    assert find_sensitive_word("she sells a child pornographic film", None) == "child porn*"
    assert find_sensitive_word("a grapefruit, a therapist and the Essex coast", None) is None
    (tmp_path / "mine.txt").write_text("# mine\nlawn mow*  # noise\n")
    assert find_sensitive_word("he is lawn\nmowing", str(tmp_path / "mine.txt")) == "lawn mow*"
    assert find_sensitive_word("he is lawn mowing", None) is None
    with pytest.raises(ValueError, match=r"cannot read the words of filter\.sensitive_words: .*gone"):
        FilterSettings(drop_sensitive=True, sensitive_words=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"language": "xx"}, "language is 'xx'; expected one of en, de"),
        ({"max_repeated_share": 1.5}, "max_repeated_share is 1.5; expected a share"),
        ({"sensitive_words": "x"}, "sensitive_words is for drop_sensitive"),
        ({"max_caption_words": 0}, "max_caption_words is 0"),
    ],
)
def test_contradicting_settings(values, message):
    with pytest.raises(ValueError, match=message):
        FilterSettings(**values)


ALL = FilterSettings(
    min_caption_words=2,
    max_caption_words=20,
    language="en",
    max_repeated_share=0.4,
    drop_sensitive=True,
    drop_personal_data=True,
)
PLAIN = Clip(start_s=0.0, end_s=2.0, caption=ENGLISH)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (PLAIN, ""),
        (replace(PLAIN, caption=""), "empty caption"),
        (replace(PLAIN, caption="onions"), "caption shorter than 2 words"),
        (replace(PLAIN, caption=f"{ENGLISH}, then {ENGLISH}"), "caption longer than 20 words"),
        (replace(PLAIN, caption="and then and then and then and then"), "caption repeats itself"),
        (replace(PLAIN, caption="die Frau und der Mann"), "caption in another language: de"),
        (replace(PLAIN, asr="mail me@example.org"), "personal data: e-mail"),
        (replace(PLAIN, frame_captions=("a card 4111 1111 1111 1111",)), "personal data: card number"),
        (replace(PLAIN, asr="heroin"), "sensitive word: heroin"),
        (replace(PLAIN, keep=False, drop_reason="earlier"), "earlier"),
    ],
)
def test_each_text_filter_gives_its_reason(clip, reason):
    (judged,) = filter_clips([clip], [FrameLevels(brightest=100.0, largest_change=5.0)], ALL)
    assert (judged.keep, judged.drop_reason) == (not reason, reason)


def test_a_clip_without_words_tells_when_its_speech_was_off_topic(tmp_path):
    from numpy import arange, full, zeros

    source = SourceVideo(
        split="train", video_id="a", path=tmp_path / "a.mp4", name="a.mp4", subtitles=None, truth=None
    )
    sampled = Sampled(
        rate_hz=1.0, embeddings=zeros((4, 2)), brightness=full(4, 99.0), changes=arange(4.0), hashes=zeros(4, "u8")
    )
    clips = tuple(Clip(start_s=start, end_s=start + 2.0) for start in (0.0, 2.0))
    draft = Draft(
        source=source,
        record=InterleavedVideo(video_id="a", duration_s=4.0, clips=clips),
        sampled=sampled,
        left_out=(LeftOut(start_s=2.5, end_s=3.5, reason="off-topic speech"),),
    )
    (done,) = FilterStage(FilterSettings())([draft])
    assert [clip.drop_reason for clip in done.record.clips] == ["empty caption", "off-topic speech"]


def test_another_list_of_words_is_another_build(tmp_path):
    words = tmp_path / "mine.txt"
    words.write_text("star\n")
    recipe = load_recipe("laptop", {"filter.drop_sensitive": True, "filter.sensitive_words": str(words)})
    before = build_fingerprint(recipe)
    assert build_fingerprint(recipe) == before
    words.write_text("star\nring\n")
    assert build_fingerprint(recipe) != before
