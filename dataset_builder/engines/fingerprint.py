"""Fingerprints of the code and inputs that an outcome depends on, to decide what a build may keep and what to redo.

An outcome is what the stages made of one video. It depends on the files of these stages and on every file of this
package that they import, directly or indirectly; it does not depend on how a corpus is written, described or
inspected. So an edit of the card leaves a million outcomes alone, and an edit of a stage does not (decision record
0006).
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataset_builder.inputs import SourceVideo
from dataset_builder.models.model_folders import find_model
from dataset_builder.pipeline import video_stages
from dataset_builder.recipe import Recipe
from dataset_builder.stages.narrate import prompt_hash


PACKAGE = Path(__file__).parents[1]
OUTCOME_FORMAT = "dataset_builder.engines.outcome_file"  # how an outcome is written and read
STAGES_IN_ORDER = "dataset_builder.pipeline"  # without the stages that it imports: a recipe uses only some of them
ASSEMBLY = "dataset_builder.assemble"  # all the code between the outcomes and the corpus


def build_fingerprint(recipe: Recipe) -> str:
    """Digest of everything that the record of a single video depends on, apart from the video.

    These are the settings of the stages that see one video, the weights and words that they name, and their code.

    Raises:
        ValueError: if the recipe names a model that does not exist.
    """
    stages = [make.func.__module__ for make in video_stages(recipe).values()]
    parts: list[Any] = [recipe.for_one_video(), source_files([*stages, OUTCOME_FORMAT], alone=[STAGES_IN_ORDER])]
    parts += [find_model(model).fingerprint() for model in recipe.models()]
    if recipe.narrate:
        parts.append(prompt_hash(recipe.narrate.prompt_file))
    parts += [Path(file).read_text(encoding="utf-8") for file in recipe.word_files()]
    return _digest(parts)


def video_key(fingerprint: str, source: SourceVideo) -> str:
    """Name of one video's outcome under a build's fingerprint."""
    parts: list[Any] = [fingerprint, source.split, source.video_id, source.name]
    for path in (source.path, source.subtitles, source.truth):
        if path is not None:
            status = path.stat()
            parts.append([path.name, status.st_size, status.st_mtime_ns, os.access(path, os.R_OK)])
    return _digest(parts)


def inputs_key(recipe: Recipe, keys: Iterable[str]) -> str:
    """Digest of all inputs of a build and all keys of its recipe."""
    return _digest([recipe.as_dict(), *keys])


def assembly_fingerprint() -> str:
    """Digest of the code that makes a corpus from outcomes: after an edit there, the corpus is rewritten from them."""
    return _digest(source_files([ASSEMBLY]))


def source_files(modules: Iterable[str], alone: Iterable[str] = ()) -> dict[str, str]:
    """The text of modules of this package, of everything they import from it, and of the word lists that they name.

    An import inside a function counts like any other. Imports are read from the source, so that nothing is loaded.

    Args:
        modules: dotted names; their imports are followed.
        alone: dotted names whose imports are not followed.

    Returns:
        Path below the package -> text, in the order of the paths.
    """
    waiting, found, names = [*modules], dict[Path, str](), set[str]()
    while waiting:
        path = module_file(waiting.pop())
        if path is None or path in found:
            continue
        found[path] = path.read_text(encoding="utf-8")
        imported, strings = _names_in(found[path])
        waiting += imported
        names |= strings
    words = [path for path in (PACKAGE / "words").iterdir() if path.name in names]
    others = [path for module in alone if (path := module_file(module))]
    found |= {path: path.read_text(encoding="utf-8") for path in [*words, *others]}
    return {path.relative_to(PACKAGE).as_posix(): found[path] for path in sorted(found)}


@lru_cache(maxsize=256)
def _names_in(text: str) -> tuple[list[str], set[str]]:
    """Dotted names that a file imports, and its strings, among which may be the name of a word list."""
    nodes = list(ast.walk(ast.parse(text)))
    imported = [name for node in nodes for name in imported_names(node)]
    return imported, {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def imported_names(node: ast.AST) -> list[str]:
    """Dotted names that an import statement may load: `from a import b` may mean the module `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def module_file(name: str) -> Path | None:
    """The file of a module or folder of this package; None for anything else, and for the package itself."""
    package, *parts = name.split(".")
    if package != PACKAGE.name or not parts:
        return None
    path = PACKAGE.joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _digest(parts: Mapping[str, Any] | list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
