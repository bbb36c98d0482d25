"""The page of differences names switches that exist, with their defaults, and figures that the code measures."""

import json
import re
from pathlib import Path

import pytest

from modeling_cosmo import CosmoConfig
from tests.modeling_cosmo import measure_fidelity


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def test_every_switch_is_a_field_with_the_default_that_the_page_gives():
    section = PAGE.partition("## Behind a field")[2].partition("<!-- switches -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", section, flags=re.MULTILINE)
    config = CosmoConfig()
    assert len(rows) == 10
    for name, default in rows:
        value = getattr(config, name)
        if isinstance(value, bool):
            assert default.startswith(str(value).lower()), name
        elif isinstance(value, str):
            assert value in default, name


def test_every_field_on_the_page_exists():
    named = {name for name in re.findall(r"`(\w+)(?:: \w+)?`", PAGE) if "_" in name}
    others = {"opt_attend_all", "suppress_tokens", "before_ln_post", "compute_contrastive", "SOURCE_weight"}
    assert {name for name in named if not hasattr(CosmoConfig(), name)} == others


def assert_same(made, shown):
    """Equal words, and numbers that differ by no more than other machines' rounding."""
    assert NUMBER.sub("#", made) == NUMBER.sub("#", shown)
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (made, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.011)


@pytest.mark.parametrize("name", ["work", "dropout", "sizes_of_releases"])
def test_figures_are_measured(name):
    shown = measure_fidelity.between_marks(PAGE, name.partition("_of_")[0])
    assert_same(getattr(measure_fidelity, name)(), shown)


def test_effects_of_the_switches_are_measured(parity_dir):
    assert_same(measure_fidelity.switches(parity_dir), measure_fidelity.between_marks(PAGE, "switches"))


def test_figures_of_the_frame_order_are_the_quickstart_s():
    order = json.loads((ROOT / "docs" / "results" / "quickstart.json").read_text())["frame_order"]
    assert f"{100 * order['without']:.1f} % without, {100 * order['with_frame_positions']:.1f} % with" in PAGE


def test_figures_of_the_latents_stand_in_the_decision():
    decision = (ROOT / "docs" / "decisions" / "0001-latents-start-near-zero.md").read_text()
    rows = {row[2]: row.split(" | ") for row in decision.splitlines() if re.match(r"\| [AF] ", row.replace(",", " "))}
    assert rows["F"][6] == "0.79"
    assert rows["A"][6] == "0.04"
    assert "R@1 0.79 instead of 0.04" in PAGE
