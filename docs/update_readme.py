"""Copies the scores of `make quickstart` into the README: `python docs/update_readme.py`, from the project's root."""

import json
import re
import shutil
from pathlib import Path

from training.quickstart import describe


RUN = Path("runs/quickstart")
RESULTS = Path("docs/results/quickstart.json")
BLOCK = re.compile(r"<!-- quickstart -->\n.*?<!-- /quickstart -->", re.DOTALL)


def readme_block(results: Path) -> str:
    """The README's block of what the quickstart printed, from its results."""
    printed = describe(json.loads(results.read_text()), RUN).strip()
    return f"<!-- quickstart -->\n```\n{printed}\n```\n<!-- /quickstart -->"


def main() -> None:
    """Replaces results and block."""
    shutil.copy(RUN / "results.json", RESULTS)
    readme = Path("README.md")
    block = readme_block(RESULTS)
    readme.write_text(BLOCK.sub(lambda _: block, readme.read_text()))


if __name__ == "__main__":
    main()
