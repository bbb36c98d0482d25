"""Clean up after saving twice into one folder: leave nothing that would be read instead of the newer files."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def remove_stale_files(folder: str | PathLike) -> list[str]:
    """Remove weights of an earlier save, and code that nothing in the folder refers to any more.

    transformers removes the shards of an earlier save, but not their index when the new save is a whole file, nor an
    old whole file when the new save has shards. It would load the whole file instead of the shards.

    Args:
        folder: where a model was just saved.

    Returns:
        The names of the removed files.
    """
    folder = Path(folder)
    stale = _stale_weights(folder) + _unused_code(folder)
    for path in stale:
        path.unlink()
    return sorted(path.name for path in stale)


def _stale_weights(folder: Path) -> list[Path]:
    """The older of an index and a whole file; shards that still exist were saved last, or they would be gone."""
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if not (whole.is_file() and index.is_file()):
        return []
    shards = set((_read_object(index).get("weight_map") or {}).values())
    return [whole] if shards and all((folder / shard).is_file() for shard in shards) else [index]


def _unused_code(folder: Path) -> list[Path]:
    """Files named like CosMo's code that no `auto_map` of the folder leads to."""
    used: set[Path] = set()
    for path in folder.glob("*config.json"):
        for targets in (_read_object(path).get("auto_map") or {}).values():
            for target in targets if isinstance(targets, list) else [targets]:  # a tokenizer's: slow and fast, or null
                entry = folder / f"{(target or '').rpartition('--')[2].partition('.')[0]}.py"
                if entry.is_file():
                    used |= {entry, *map(Path, get_relative_import_files(entry))}
    return [path for path in folder.glob("*_cosmo.py") if used and path not in used]


def _read_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if a killed save left it half-written, since nothing can load it anyway."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
