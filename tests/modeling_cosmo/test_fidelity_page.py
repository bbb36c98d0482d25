"""The page of differences names switches that exist, with the defaults that they have."""

import re
from pathlib import Path

from modeling_cosmo import CosmoConfig


def test_every_switch_is_a_field_with_the_default_that_the_page_gives():
    page = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", page, flags=re.MULTILINE)
    config = CosmoConfig()
    assert len(rows) == 9
    for name, default in rows:
        value = getattr(config, name)
        if isinstance(value, bool) and name != "contrastive_gather":
            assert default.startswith(str(value).lower()), name
        elif isinstance(value, str):
            assert value in default, name
