"""Copies fields, defaults and docstrings of `CosmoConfig` into docs/model.md: `python docs/update_model.py`."""

import ast
import inspect
import re
import textwrap
from pathlib import Path

from modeling_cosmo import CosmoConfig


PAGE = Path(__file__).parent / "model.md"
BLOCK = re.compile(r"<!-- config -->\n.*?<!-- /config -->", re.DOTALL)


def config_block() -> str:
    """The page's table of config fields: name, default, meaning."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(CosmoConfig))).body
    assert isinstance(body, ast.ClassDef)
    rows = []
    for field, after in zip(body.body, body.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
            continue
        assert isinstance(field.target, ast.Name)
        assert field.value is not None
        assert isinstance(after, ast.Expr)
        assert isinstance(after.value, ast.Constant)
        meaning = str(after.value.value).replace("|", r"\|")  # or it would end the cell
        rows.append(f"| `{field.target.id}` | {ast.unparse(field.value)} | {meaning} |")
    lines = ["<!-- config -->", "| field | default | meaning |", "| --- | --- | --- |", *rows, "<!-- /config -->"]
    return "\n".join(lines)


def main() -> None:
    """Replaces the table."""
    block = config_block()
    PAGE.write_text(BLOCK.sub(lambda _: block, PAGE.read_text()))


if __name__ == "__main__":
    main()
