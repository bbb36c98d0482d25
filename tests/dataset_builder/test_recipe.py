import pytest

from dataset_builder.recipe import SHIPPED, load_recipe


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert load_recipe(path.stem).name == path.stem
    assert load_recipe(path) == load_recipe(path.stem)


def test_toy_and_laptop_are_what_the_documents_say():
    toy, laptop = load_recipe("toy"), load_recipe("laptop")
    assert (toy.segment.frame_rate_hz, toy.segment.frames_per_segment, toy.caption.captioner) == (4.0, 6.0, "truth")
    assert (toy.segment.tower, laptop.segment.tower, laptop.caption.captioner) == ("toy", "toy", "speech")
    assert toy.shards.embed_videos
    assert 1 <= laptop.segment.frame_rate_hz <= 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"segment.penality": 1.0}, "recipe toy: unknown key 'segment.penality'; did you mean 'segment.penalty'?"),
        ({"colour": 1}, "recipe toy: unknown key 'colour'; known: name, source, "),
        ({"segment.penalty": "much"}, "recipe toy: 'segment.penalty' is 'much'; expected float"),
        ({"shards.embed_videos": 1}, "recipe toy: 'shards.embed_videos' is 1; expected bool"),
        ({"segment.tower": 5}, "recipe toy: 'segment.tower' is 5; expected str or null"),
        ({"segment": 5}, "recipe toy: 'segment' must hold keys and values, found 5"),
        ({"segment.tower.name": "x"}, "cannot set 'segment.tower.name': 'tower' holds no keys"),
        ({"segment.frame_rate_hz": 0.0}, "recipe toy: segment: frame_rate_hz is 0.0; expected more than 0"),
        ({"segment.penalty": -1.0}, "segment: penalty, min_clip_s and snap_to_cuts_s must not be negative"),
        ({"segment.max_clip_s": 1.5}, "recipe toy: segment: max_clip_s is 1.5, but clips of at least 1 s"),
        ({"segment.embeddings": "x"}, "recipe toy: segment: give one of tower and embeddings"),
        ({"caption.captioner": "speach"}, "captioner is 'speach'; expected one of truth, speech, checkpoint"),
        ({"caption.noise": 1.5}, "noise is 1.5; expected a share"),
        ({"caption.captioner": "speech", "caption.noise": 0.1}, "noise is for captioner: truth"),
        ({"caption.captioner": "checkpoint"}, "captioner: checkpoint with checkpoint: None contradict"),
        ({"caption.checkpoint": "x"}, "captioner: truth with checkpoint: x contradict"),
        ({"caption.prompt": "x"}, "prompt is for captioner: checkpoint"),
    ],
)
def test_wrong_settings_are_refused_by_the_name_typed(overrides, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared below
        load_recipe("toy", overrides)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_whole_number_is_a_number():
    rate = load_recipe("toy", {"segment.frame_rate_hz": 3}).segment.frame_rate_hz
    assert (rate, type(rate)) == (3.0, float)


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe 'tyo': neither a file nor one of the shipped .*laptop, toy"):
        load_recipe("tyo")
    for content, message in [
        ("- 1", "must hold keys"),
        ("a: [", "is not YAML"),
        ("source: x", "'license' is missing"),
    ]:
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_recipe(tmp_path / "mine.yaml")


def test_stages_out_of_running_order_are_refused(tmp_path):
    text = (SHIPPED / "toy.yaml").read_text()
    head, stages = text.split("segment:\n")
    (tmp_path / "mine.yaml").write_text(f"{head}filter:\n  min_clip_s: 1.0\nsegment:\n{stages.split('filter:')[0]}")
    with pytest.raises(ValueError, match=r"recipe mine: 'segment' comes after 'filter' but runs before it; "):
        load_recipe(tmp_path / "mine.yaml")


def test_stages_that_are_absent_or_null_are_off(tmp_path):
    text = "source: x\nlicense: mit\nsegment: {frame_rate_hz: 2, frames_per_segment: 6, penalty: 0.1}\n"
    (tmp_path / "mine.yaml").write_text(text + "shards: {embed_videos: false}\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.speech, recipe.caption, recipe.filter, recipe.deduplicate) == (None, None, None, None)
    assert load_recipe("toy", {"filter": None}).filter is None
    assert load_recipe(tmp_path / "mine.yaml", {"filter.min_clip_s": 3}).filter.min_clip_s == 3.0
