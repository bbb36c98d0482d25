"""Checks of a folder before it leaves this machine: it must be complete, and must hold no secrets.

The checks read local files only. Each raises `ValueError` with the file at fault, so that a broken or leaking
repository is refused before the first byte is sent.
"""

import ast
import json
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml


# Left behind by running commands; never published, but no folder is refused because of them.
LEFT_OUT = (
    "__pycache__/*",
    "*/__pycache__/*",
    "*.pyc",
    ".git/*",
    ".build/*",  # `cosmo build` resumes from it
    ".cache/*",
    ".gradio/*",
    ".ipynb_checkpoints/*",
    "*/.ipynb_checkpoints/*",
    ".DS_Store",
    "*/.DS_Store",
    "*.tmp",
    "quarantine.jsonl",  # it names files on the machine that built the corpus
)
SECRET_NAMES = (
    ".env",
    ".env.*",
    ".netrc",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    "id_rsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
# Tokens of the Hub, of AWS and GitHub, and PEM private keys, by the prefixes that their issuers document.
SECRET_TEXT = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
TEXT_SUFFIXES = {
    ".cfg",
    ".csv",
    ".html",
    ".ini",
    ".jinja",
    ".json",
    ".jsonl",
    ".md",
    ".py",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a path inside the folder, or its last part, matches one of the shell patterns."""
    return any(fnmatch(path, pattern) or fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)


def check_no_secrets(root: Path, paths: Sequence[str]) -> None:
    """Refuse credentials, links that lead out of the folder, and pickled weights.

    Args:
        root: folder to publish.
        paths: files to upload, relative to `root`, with `/`.

    Raises:
        ValueError: with the first file that must not be published, and why.
    """
    for path in paths:
        file = root / path
        if matches(path, SECRET_NAMES):
            raise ValueError(f"{file} looks like a credential: remove it before publishing")
        if matches(path, PICKLED):
            raise ValueError(f"{file} holds pickled objects: publish weights as safetensors")
        if not file.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{file} is a link that leads out of {root}")
        if file.suffix in TEXT_SUFFIXES and SECRET_TEXT.search(file.read_bytes()):
            raise ValueError(f"{file} contains what looks like an access token or a private key")


def read_card(root: Path) -> dict[str, Any]:
    """Read the YAML header of the folder's README.md.

    Raises:
        ValueError: if README.md is missing, has no header between `---` lines, or the header is not a YAML mapping.
    """
    card = root / "README.md"
    if not card.is_file():
        raise ValueError(f"{root} has no card: README.md is missing")
    header = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    if header is None:
        raise ValueError(f"{card} does not begin with a YAML header between --- lines")
    try:
        fields = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        raise ValueError(f"{card}: its header is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{card}: its YAML header holds {type(fields).__name__}, expected keys and values")
    return fields


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        ValueError: if the file is missing, is not valid JSON, or holds anything but an object.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected an object")
    return content


def check_safetensors(path: Path) -> None:
    """Compare the length of a safetensors file with the length in its header.

    The format: an 8-byte little-endian header length, that many bytes of JSON, then data up to the largest offset in
    the header.

    Raises:
        ValueError: if the file is truncated or not a safetensors file.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes < 8 or header_bytes > num_bytes - 8:
            raise ValueError(f"{path} is not a complete safetensors file ({num_bytes} bytes)")
        header = json.loads(file.read(header_bytes))
    data_bytes = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    expected = 8 + header_bytes + data_bytes
    if num_bytes != expected:
        raise ValueError(f"{path} is truncated or overlong: {num_bytes} bytes, its header promises {expected}")


def check_model(root: Path, paths: Sequence[str]) -> None:
    """Check that a model folder loads from anywhere, with the Auto classes and `trust_remote_code=True`.

    Raises:
        ValueError: if config, auto_map, a code file, a weight file or the card is missing or broken.
    """
    config = read_json(root / "config.json")
    auto_map = config.get("auto_map") or {}
    for auto_class in ("AutoConfig", "AutoModelForImageTextToText"):
        if auto_class not in auto_map:
            raise ValueError(f"{root / 'config.json'}: auto_map names no {auto_class}; found {sorted(auto_map)}")
    references = [name for entry in auto_map.values() for name in _as_list(entry)]
    if (root / "processor_config.json").is_file():
        processor_map = read_json(root / "processor_config.json").get("auto_map") or {}
        references += [name for entry in processor_map.values() for name in _as_list(entry)]
    for reference in references:
        _check_code(root, reference)

    index = root / "model.safetensors.index.json"
    weights = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in weights:
        if name not in paths:
            raise ValueError(f"{root} has no weights: {name} is missing")
        check_safetensors(root / name)
    read_card(root)


def check_dataset(root: Path, paths: Sequence[str]) -> None:
    """Check that a corpus folder streams with `load_dataset(repo)`: a card, and shards for each of its patterns.

    Raises:
        ValueError: if the card is missing or names missing files, or a shard is damaged.
    """
    configs = read_card(root).get("configs") or []
    for config in configs:
        for entry in _as_list(config.get("data_files") or []):
            patterns = _as_list(entry["path"]) if isinstance(entry, dict) else [entry]
            for pattern in patterns:
                if not any(fnmatch(path, pattern) for path in paths):
                    raise ValueError(
                        f"{root / 'README.md'}: no file matches {pattern} of config {config.get('config_name')}"
                    )
    shards = [path for path in paths if path.endswith((".parquet", ".tar"))]
    if not shards:
        raise ValueError(f"{root} has no shards: expected *.parquet or *.tar under data/")
    for shard in shards:
        if shard.endswith(".parquet"):
            _check_parquet(root / shard)


def check_space(root: Path, paths: Sequence[str]) -> None:
    """Check that a Space has its app, its requirements and a card with the SDK.

    Raises:
        ValueError: if one of them is missing, or the app's code does not parse.
    """
    card = read_card(root)
    if card.get("sdk") != "gradio":
        raise ValueError(f"{root / 'README.md'}: sdk is {card.get('sdk')!r}, expected 'gradio'")
    app_file = str(card.get("app_file", "app.py"))
    for name in (app_file, "requirements.txt"):
        if name not in paths:
            raise ValueError(f"{root} has no {name}")
    try:
        ast.parse((root / app_file).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{root / app_file} does not parse: {error}") from None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_code(root: Path, reference: str | None) -> None:
    """Check that the code files for `module.Class` in an auto_map exist, with the files that they import."""
    if reference is None:  # transformers writes "no slow tokenizer" like this
        return
    todo, seen = [reference.rsplit("--", 1)[-1].split(".")[0]], set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        file = root / f"{module}.py"
        if not file.is_file():
            raise ValueError(f"{root} lacks {file.name}, which auto_map's {reference} needs")
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        todo += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]


def _check_parquet(path: Path) -> None:
    import pyarrow.parquet as pq  # in the `data` extra; a model or a Space is published without it

    try:
        num_rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from None
    if num_rows == 0:
        raise ValueError(f"{path} holds no rows")
