"""The tree: packages and folders import one way, the model runs from the Hub, no file knows the machine it is on."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
MAY_IMPORT: dict[str, set[str]] = {  # package -> packages of the project that it may use
    "modeling_cosmo": set(),
    "dataset_builder": set(),
    "training": {"modeling_cosmo", "dataset_builder"},
    "demo": {"modeling_cosmo"},
}
# The floors of the packages that have folders, the top first: folders, and modules outside them. A module imports from
# floors further down and from its own folder.
FLOORS: dict[str, tuple[set[str], ...]] = {
    "dataset_builder": (
        {"build", "howto_interlink", "streaming", "toy"},
        {"assemble", "readers"},
        {"engines"},
        {"pipeline", "card"},
        {"recipe"},
        {"stages"},
        {"corpus"},
        {"models"},
        {"compare"},
        {"video"},
        {"text"},
        {"draft"},
        {"schema", "inputs"},
        {"errors", "atomic"},
    ),
    "training": (
        {"quickstart"},
        {"publishing"},
        {"train", "finetune"},
        {"loop"},
        {"setup", "checkpoint", "progress"},
        {"evaluation"},
        {"data"},
        {"run_folder", "optimization", "interruption"},
        {"config"},
    ),
}
CHAPTERS = ("dataset_builder", "training", "demo")  # modeling_cosmo stays flat: the Hub loads it so
LONGEST_CHAPTER = 16  # modules of a folder
HUB_PROVIDES = {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "safetensors"} | set(
    sys.stdlib_module_names
)
CONVERTER = "convert_cosmo_checkpoint"  # loaded by no saved model


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: the files of the project cannot be told from others")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def imports(tree: ast.AST, *, optional: bool) -> set[str]:
    """Packages imported absolutely; without `optional`, those inside `try:` do not count, as for the Hub's loader."""
    guarded = {inner for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if not optional and node in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_data_flows_one_way(package):
    modules = modules_of(package)
    assert modules, f"{package}/ holds no Python file"
    for path in modules:
        used = imports(ast.parse(path.read_text()), optional=True)
        wrong = used & {*MAY_IMPORT, "cosmo_cli", "tests"} - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which lies downstream"


def test_the_walk_over_imports_sees_a_wrong_arrow():
    source = "def late():\n    try:\n        from training.loss import x\n    except ImportError:\n        import av\n"
    assert imports(ast.parse(source), optional=True) == {"training", "av"}
    assert imports(ast.parse(source), optional=False) == set()


def named(path: Path) -> str:
    """The dotted name of a module; of a folder's `__init__.py` the folder's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {named(path): path.read_text() for package in CHAPTERS for path in modules_of(package)}


def modules_imported(source: str, modules: Iterable[str]) -> set[str]:
    """Those of some modules that a file imports, inside functions and under `if TYPE_CHECKING` too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from training.quickstart import run` may name a module or something in `__init__.py`.
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & {*modules}


def arrows_not_downwards(package: str, sources: dict[str, str]) -> list[str]:
    """Imports within a package that lead to the same or a higher floor, other than those within a folder."""
    floors = {name: index for index, names in enumerate(FLOORS[package]) for name in names}
    inner = [module for module in sources if module.startswith(f"{package}.")]
    return [
        f"{module} imports {used}"
        for module in inner
        for used in sorted(modules_imported(sources[module], inner))
        if (mine := module.split(".")[1]) != (other := used.split(".")[1]) and floors[other] <= floors[mine]
    ]


def circle_among(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, one such circle; empty where there is none."""
    try:
        TopologicalSorter({name: modules_imported(text, sources) - {name} for name, text in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_has_its_floor(package):
    inside = {name.split(".")[1] for name in SOURCES if name.startswith(f"{package}.")}
    floors = [name for names in FLOORS[package] for name in names]
    assert sorted(floors) == sorted(inside), "the table and the tree name different folders or modules"


@pytest.mark.parametrize("package", FLOORS)
def test_the_page_shows_the_floors(package):
    table = (ROOT / "docs" / "architecture.md").read_text().split(f"### `{package}/`")[1].split("\n\n")[1]
    shown = [set(re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    assert shown == [*FLOORS[package]]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_lead_downwards(package):
    assert arrows_not_downwards(package, SOURCES) == []


@pytest.mark.parametrize("package", CHAPTERS)
def test_no_circle(package):
    assert circle_among({name: text for name, text in SOURCES.items() if name.split(".")[0] == package}) == []


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("dataset_builder.text.language", "from dataset_builder.stages.filter import Drop", True),
        ("dataset_builder.text.language", "def late():\n    from dataset_builder.recipe import Recipe", True),
        ("dataset_builder.video.sound", "if 1:\n    import dataset_builder.models.whisper", True),
        ("dataset_builder.video.sound", "from dataset_builder.models import whisper", True),
        ("dataset_builder.draft", "from dataset_builder.stages import caption", True),
        ("dataset_builder.engines.steps", "def late():\n    from dataset_builder.build import build_corpus", True),
        ("dataset_builder.streaming", "from dataset_builder.build import build_corpus", True),  # another door
        ("training.data.samples", "from training.loop import fit", True),
        ("dataset_builder.video.sound", "from dataset_builder.video import frames", False),
        ("dataset_builder.stages.filter", "from dataset_builder.text.language import other_language", False),
    ],
)
def test_the_walk_sees_a_planted_arrow(module, line, wrong):
    sources = SOURCES | {module: f"{SOURCES[module]}\n{line}\n"}
    found = arrows_not_downwards(module.split(".")[0], sources)
    assert bool(found) == wrong
    assert all(arrow.startswith(f"{module} imports ") for arrow in found)


def test_the_walk_sees_a_planted_circle():
    """Inside a folder, where no floor is in the way, and through a function."""
    late = "\ndef late():\n    from dataset_builder.video.frames import FrameSampler\n"
    sources = SOURCES | {"dataset_builder.video.limits": SOURCES["dataset_builder.video.limits"] + late}
    assert set(circle_among(sources)) == {"dataset_builder.video.limits", "dataset_builder.video.frames"}
    assert arrows_not_downwards("dataset_builder", sources) == []


def test_imports_inside_functions_count():
    source = "def late():\n    from training.data import clips\n    import training.loop\n    import torch\n"
    assert modules_imported(source, SOURCES) == {"training.data", "training.data.clips", "training.loop"}


@pytest.mark.parametrize(
    "folder",
    sorted({path.parent for package in CHAPTERS for path in modules_of(package)}),
    ids=lambda folder: folder.relative_to(ROOT).as_posix(),
)
def test_a_folder_is_a_chapter(folder):
    """At most 16 modules, and an `__init__` that says in one sentence what comes in and what goes out."""
    assert len(list(folder.glob("*.py"))) <= LONGEST_CHAPTER
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    assert docstring.endswith(".")
    if folder.parent != ROOT:
        assert len(docstring.split(". ")) == 1, docstring
        assert docstring.startswith("In ")
        assert "; out " in docstring


@pytest.mark.parametrize("path", modules_of("modeling_cosmo"), ids=lambda path: path.name)
def test_model_code_can_be_loaded_from_the_hub(path):
    """transformers copies a flat folder, and finds its files by a regular expression over `from .name import`."""
    assert path.parent == ROOT / "modeling_cosmo", "the folder is flat"
    assert path.stem in ("__init__", "__main__", CONVERTER) or path.stem.endswith("_cosmo"), "files are *_cosmo.py"
    source = path.read_text()
    tree = ast.parse(source)
    if path.stem != CONVERTER:
        demanded = imports(tree, optional=False) - HUB_PROVIDES
        assert not demanded, f"a user of the Hub would have to install {sorted(demanded)}"
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 0]
    assert all(node.level == 1 and node.module and "." not in node.module for node in relative), (
        "only `from .name import x` is found: no `from . import x`, no parent, no subfolder"
    )
    scanned = set(re.findall(r"^\s*(?:from|import)\s+\.(\S*)", source, flags=re.MULTILINE))
    assert scanned == {node.module for node in relative}, "a line of prose looks like a relative import"
    for node in relative:
        assert (ROOT / "modeling_cosmo" / f"{node.module}.py").is_file()
        assert node.module != CONVERTER or path.stem == "__init__", "no loaded file imports the converter"


def test_no_module_is_called_utils():
    named = [path for package in MAY_IMPORT for path in modules_of(package) if path.stem in ("utils", "helpers")]
    assert not named, "a file is named after its one idea"


def test_special_tokens_stand_in_one_file():
    token = "<|endofchunk|" + ">"
    code = [path for package in MAY_IMPORT for path in modules_of(package)]
    holders = {path.relative_to(ROOT).as_posix() for path in code for text in literals(path) if token in text}
    assert holders <= {"modeling_cosmo/tokens_cosmo.py"}


def literals(path: Path) -> list[str]:
    """String constants of a file that are no docstrings."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose]
    return [node.value for node in constants if isinstance(node.value, str)]


MACHINE = re.compile(  # put together from pieces, or this file would name them
    "|".join(
        [
            r"(?<![\w.])/(?:work|root|(?:home|Users)/(?!me/)\w+)/",
            r"\.\./" + "shared",
            r"--(?:extra-)?index-" + "url",
            "file:" + "//",
            r"find-" + "links",
        ]
    )
)


def test_no_file_knows_the_machine_it_was_written_on():
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        if name in (".ci/run", "tests/test_architecture.py"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = MACHINE.search(text)
        assert found is None, f"{name} names {found and found[0]!r}"


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["cosmo_cli", "dataset_builder", "training"])
def test_importing_a_package_does_not_load_torch(module):
    assert run_python(f"import sys, {module}; print('torch' in sys.modules)").strip() == "False"


APART = {"dataset_builder/engines/steps.py": ["cluster"]}
"""Files that derive from a class of an extra of their own: imported where that extra was found to be there."""


def test_the_package_needs_what_it_declares():
    """Each folder's third-party imports stand in its extra (or in one that this extra includes)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {"PIL": "pillow", "charset_normalizer": "charset-normalizer", "yaml": "pyyaml"}

    def name_of(requirement: str) -> str:
        return re.split(r"[^\w.-]", requirement)[0].lower()

    def declared(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(r"cosmo-vlm\[(.+)\]", requirement)
            found |= set().union(*map(declared, own[1].split(","))) if own else {name_of(requirement)}
        return found

    base = set(map(name_of, project["dependencies"]))
    for package, extra in {
        "modeling_cosmo": "model",
        "dataset_builder": "data",
        "training": "train",
        "demo": "demo",
    }.items():
        siblings = {path.stem for path in modules_of(package)}
        for path in modules_of(package):
            used = imports(ast.parse(path.read_text()), optional=False)
            foreign = used - set(sys.stdlib_module_names) - MAY_IMPORT.keys() - siblings
            apart = APART.get(path.relative_to(ROOT).as_posix(), ())
            known = base.union(declared(extra), *map(declared, apart))
            missing = {name for name in foreign if named.get(name, name).lower() not in known}
            assert not missing, f"{path.relative_to(ROOT)} needs {sorted(missing)}, which extra '{extra}' lacks"
