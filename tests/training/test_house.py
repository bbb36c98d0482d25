"""The floors of `training/`: a module imports from lower floors and from its own folder, and never in a circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
FLOORS = (  # folders and modules of `training/`, the top first
    {"quickstart"},
    {"publishing"},
    {"train", "finetune"},
    {"loop"},
    {"setup", "checkpoint", "progress"},
    {"evaluation"},
    {"data"},
    {"run_folder", "optimization", "interruption"},
    {"config"},
)
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((ROOT / "training").rglob("*.py"))
}
FOLDERS = sorted({path.parent for path in MODULES.values()})


def floor_of(module: str) -> int:
    """Index in `FLOORS` of a module's folder, or of the module itself where it stands at the top of the package."""
    (found,) = [index for index, names in enumerate(FLOORS) if module.split(".")[1] in names]
    return found


def imported_by(source: str) -> set[str]:
    """Modules of `training` that a file imports, inside functions and under `if TYPE_CHECKING` too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from training.quickstart import run` may name a module or something in `__init__.py`.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & (MODULES.keys() - {"training"})


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"training"}))
def test_imports_lead_downwards(module):
    for used in imported_by(MODULES[module].read_text()):
        same_folder = used.split(".")[1] == module.split(".")[1]
        assert same_folder or floor_of(used) > floor_of(module), f"{module} imports {used}, which is not below it"


def test_no_circle():
    TopologicalSorter({name: imported_by(path.read_text()) - {name} for name, path in MODULES.items()}).prepare()


def test_the_page_shows_these_floors():
    table = (ROOT / "docs" / "training.md").read_text().split("| floor |")[1].split("\n\n")[0]
    shown = [re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert [set(names) for names in shown] == list(FLOORS)


def test_imports_inside_functions_count():
    source = "def late():\n    from training.data import clips\n    import training.loop\n    import torch\n"
    assert imported_by(source) == {"training.data", "training.data.clips", "training.loop"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_a_chapter(folder):
    """At most 16 modules, and an `__init__` that says in one sentence what comes in and what goes out."""
    assert len(list(folder.glob("*.py"))) <= 16
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    assert len(docstring.split(". ")) == 1, docstring
    assert docstring.endswith(".")
    if folder != ROOT / "training":
        assert docstring.startswith("In ")
        assert "; out " in docstring
