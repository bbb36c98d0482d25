"""Every shipped recipe loads, and errors name the key that the user typed."""

import pytest
import yaml

from training.config import SOURCES, config_from_dict, load_config, shipped_recipes
from training.data.samples import SOURCE_TYPES


TOWERS = {"corpus": "corpus", "vision": "vision", "text": "text"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_loads(name):
    config = load_config(name)
    assert config_from_dict(config.to_dict()) == config, "config.yaml of a run must read back as the same run"


def test_toy_is_shipped():
    assert "toy" in shipped_recipes()


def test_sources_are_the_ones_the_config_names():
    assert tuple(kind.name for kind in SOURCE_TYPES) == SOURCES


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TOWERS, "learning_rate": 1, "max_steps": 50, "unimodal_depth": 3}))
    words = ["learning_rate=5e-4", "bf16=false", "unimodal_depth=2", "qk_norm=true", "contrastive_weight=5e-2"]
    config = load_config(str(path), words)
    assert (config.learning_rate, config.bf16, config.max_steps) == (5e-4, False, 50)
    assert config.cosmo_options == {"unimodal_depth": 2, "qk_norm": True, "contrastive_weight": 0.05}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "unknown config key learning_rat"),
        ({"cosmo_options": {}}, "unknown config key cosmo_options"),
        ({"max_steps": "many"}, "max_steps='many': expected int"),
        ({"max_steps": 0}, "max_steps=0: expected 1 or more"),
        ({"learning_rate": "fast"}, "learning_rate='fast': expected float"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"bf16": "yes"}, "bf16='yes': expected bool or auto"),
        ({"cache_features": 1}, "cache_features=1: expected bool"),
        ({"corpus": ""}, "corpus is missing"),
        ({"warmup_steps": 2000}, "warmup_steps=2000: expected 0 to max_steps=1000"),
        ({"model": "m"}, "model=m already fixes text, vision"),
        ({"text": ""}, "give either model, or both vision and text"),
        ({f"{source}_weight": 0 for source in SOURCES}, "nothing to train on: frame_text_weight, "),
        ({"contrastive": False}, "contrastive=False leaves no head for frame_text_contrastive, clip_text_contrastive"),
        ({"max_frames": 4}, "num_frames=6 is more than the model's max_frames=4"),
        ({"clips_per_document": 1}, "clips_per_document=1: expected 2 or more"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        config_from_dict(TOWERS | change)
    assert "\n" not in str(error.value)


def test_files_and_overrides_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe 'nothing'; shipped: .*toy"):
        load_config("nothing")
    with pytest.raises(ValueError, match=r"nothing\.yaml does not exist"):
        load_config(str(tmp_path / "nothing.yaml"))
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ValueError, match="holds list, expected keys and values"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_config(str(tmp_path / "broken.yaml"))
    with pytest.raises(ValueError, match="expected key=value, found 'max_steps'"):
        load_config("toy", ["max_steps"])
