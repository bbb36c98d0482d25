"""Draw docs/architecture.svg from the imports: `python docs/draw_architecture.py`, from anywhere.

One column per package, one box per folder and per file next to the folders. A box imports only boxes below it in its
column: the arcs on the right are these imports, without those that a way over other boxes implies. The arrows between
columns are imports between packages.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
COLUMNS = ("dataset_builder", "training", "modeling_cosmo", "demo")
FLAT = {"modeling_cosmo", "demo"}
"""Packages without folders of code: one box each."""
GIVES = {
    "dataset_builder": "raw video to corpus",
    "training": "corpus to model and scores",
    "modeling_cosmo": "the model",
    "demo": "the page",
}
BOX_WIDTH, BOX_HEIGHT, GAP, ARCS, MARGIN, TOP = 196, 34, 8, 96, 20, 84
UNDER_THE_MODEL = 190
"""How far below the model's heading that of the demo is: each has one box, and they share a column."""
INK, PAPER, LINE, FILES, FOLDERS = "#1f2937", "#ffffff", "#64748b", "#f1f5f9", "#dbeafe"


@dataclass(frozen=True)
class Box:
    """A folder, or a file next to the folders."""

    package: str
    name: str
    num_modules: int


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the packages."""
    found = {}
    for package in COLUMNS:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found[dotted.removesuffix(".__init__")] = path
    return found


def imported_by(module: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """Modules of the project that a file imports, inside functions too."""
    found = set()
    folder = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*([folder] if node.level else []), *([node.module] if node.module else [])])
            named = {f"{base}.{alias.name}" for alias in node.names}  # a module, or a name in `base`
            found |= {name if name in known else base for name in named}
    return {name for name in found if name in known and name != module}


def box_of(module: str, known: Mapping[str, Path]) -> str:
    """Name of the box that shows a module: its folder, or the file itself at the top of its package."""
    package, *rest = module.split(".")
    if package in FLAT or not rest:
        return package
    is_folder = (ROOT / package / rest[0]).is_dir()
    return f"{package}.{rest[0]}" if is_folder or f"{package}.{rest[0]}" in known else package


def graph() -> tuple[dict[str, Box], dict[str, set[str]]]:
    """Boxes by name, and which boxes each of them imports."""
    known = modules()
    counts: dict[str, int] = defaultdict(int)
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, path in known.items():
        box = box_of(module, known)
        counts[box] += 1
        arrows[box] |= {box_of(other, known) for other in imported_by(module, path, known)} - {box}
    boxes = {name: Box(name.split(".")[0], name.partition(".")[2] or name, count) for name, count in counts.items()}
    for package in COLUMNS:  # `__init__.py` of a package with folders is no part of its way
        if package not in FLAT:
            boxes.pop(package, None)
            arrows.pop(package, None)
    return boxes, {name: {other for other in arrows[name] if other in boxes} for name in boxes}


def order(package: str, boxes: Mapping[str, Box], arrows: Mapping[str, set[str]]) -> list[str]:
    """Boxes of a package from the top: each above all that it imports, folders and files in a stable order.

    Raises:
        graphlib.CycleError: if they import each other in a circle.
    """
    own = {name: {other for other in arrows[name] if boxes[other].package == package} for name in boxes
           if boxes[name].package == package}  # fmt: skip
    sorter = TopologicalSorter(own)
    sorter.prepare()
    floors = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), reverse=True)
        floors += ready
        sorter.done(*ready)
    return floors[::-1]


def reduced(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Arrows without those that a way over other boxes implies."""
    reached: dict[str, set[str]] = {}
    for name in TopologicalSorter(arrows).static_order():  # what is imported comes first
        reached[name] = set().union(*({other} | reached[other] for other in arrows[name]))
    return {
        name: {other for other in others if not any(other in reached[between] for between in others)}
        for name, others in arrows.items()
    }


def corner(package: str) -> tuple[int, int]:
    """Left and top of a package's heading."""
    column = min(COLUMNS.index(package), len(COLUMNS) - 2)
    return MARGIN + column * (BOX_WIDTH + ARCS), UNDER_THE_MODEL * (package == "demo")


def draw() -> str:
    """The picture as SVG."""
    boxes, arrows = graph()
    columns = {package: order(package, boxes, arrows) for package in COLUMNS}
    places = {}
    for package, names in columns.items():
        x, top = corner(package)
        places |= {name: (x, top + TOP + row * (BOX_HEIGHT + GAP)) for row, name in enumerate(names)}
    inner = reduced(
        {name: {other for other in arrows[name] if boxes[other].package == boxes[name].package} for name in boxes}
    )
    width = 2 * MARGIN + (len(COLUMNS) - 1) * (BOX_WIDTH + ARCS) - ARCS
    height = TOP + max(map(len, columns.values())) * (BOX_HEIGHT + GAP) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="Packages and folders of CosMo, and what imports what" '
        f'font-family="system-ui, sans-serif" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    for package in COLUMNS:
        x, top = corner(package)
        parts.append(f'<text x="{x}" y="{top + 34}" font-size="17" font-weight="600">{package}</text>')
        parts.append(f'<text x="{x}" y="{top + 56}" font-size="13">{escape(GIVES[package])}</text>')
    parts += packages_arrows(boxes, arrows)
    parts += [arc(places, name, other) for name in places for other in sorted(inner[name])]
    parts += [box(places[name], boxes[name]) for name in places]
    return "\n".join([*parts, "</svg>"]) + "\n"


def box(place: tuple[int, int], shown: Box) -> str:
    """A rectangle with name and number of modules."""
    (x, y), is_folder = place, shown.num_modules > 1
    label = f"{shown.name}/" if is_folder else f"{shown.name}.py"
    count = f'<text x="{x + BOX_WIDTH - 10}" y="{y + 22}" font-size="12" text-anchor="end">{shown.num_modules}</text>'
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" '
        f'fill="{FOLDERS if is_folder else FILES}" stroke="{LINE}"/>'
        f'<text x="{x + 10}" y="{y + 22}" font-size="14">{escape(label)}</text>{count if is_folder else ""}'
    )


def arc(places: Mapping[str, tuple[int, int]], name: str, other: str) -> str:
    """An import inside a column, as a curve on its right; the longer the way, the wider."""
    (x, y), (_, below) = places[name], places[other]
    right, begin, end = x + BOX_WIDTH, y + BOX_HEIGHT / 2 + 4, below + BOX_HEIGHT / 2 - 4
    bulge = right + 14 + min(end - begin, 600) * (ARCS - 24) / 600
    return (
        f'<path d="M{right} {begin:g}C{bulge:.0f} {begin:g} {bulge:.0f} {end:g} {right} {end:g}" fill="none" '
        f'stroke="{LINE}" stroke-opacity="0.55" marker-end="url(#tip)"/>'
    )


def packages_arrows(boxes: Mapping[str, Box], arrows: Mapping[str, set[str]]) -> Iterator[str]:
    """One arrow for each pair of packages of which one imports the other, between their headings."""
    pairs = sorted({(boxes[name].package, boxes[other].package) for name in boxes for other in arrows[name]})
    for package, other in pairs:
        if package == other:
            continue
        (begin, y), (end, _) = corner(package), corner(other)
        x1, x2 = (begin - 8, end + BOX_WIDTH + 8) if end < begin else (begin + BOX_WIDTH + 8, end - 8)
        yield (
            f'<path d="M{x1} {y + 30}L{x2} {y + 30}" stroke="{INK}" stroke-width="2" fill="none" '
            f'marker-end="url(#tip)"/>'
            f'<text x="{(x1 + x2) / 2:g}" y="{y + 24}" font-size="11" text-anchor="middle">imports</text>'
        )


if __name__ == "__main__":
    PICTURE.write_text(draw())
