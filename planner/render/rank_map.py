"""The rank map: one row per node, a cell per GPU.

A cell names the module by a letter and then the coords of the axes that are larger than 1: `Lp1d0t3` is the
language model's stage 1, lane 0, tp rank 3. Nodes that differ only in their lanes are shown once.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import commonprefix

from ..base.axes import Axis
from ..base.runs import runs_text
from ..layout.ir import Grid, ModulePlan
from ..plan import Plan
from .style import Style, listed, wrap

MAX_LISTED = 65_536  # listing more takes seconds; --rank N shows any of them
_ROW_WITHOUT_NODES = 8
_SHOWN = ((Axis.PP, "p"), (Axis.DP, "d"), (Axis.CP, "c"), (Axis.TP, "t"))

Cell = tuple[int, tuple[tuple[str, int], ...]]  # (index of the module, (letter, coord) of each axis larger than 1)
Row = list[list[Cell]]  # one entry per GPU: the cells of its modules


def rank_map(plan: Plan, style: Style) -> list[str]:
    """The lines of the map."""
    if plan.world_size > MAX_LISTED:
        return [f"  left out above {MAX_LISTED:,} ranks; --rank N shows one of them"]
    letters = module_letters([module.name for module in plan.modules])
    per_row = plan.gpus_per_node or min(plan.world_size, _ROW_WITHOUT_NODES)
    folded: dict[object, list[tuple[int, Row]]] = {}
    for node, row in enumerate(_rows(plan, per_row)):
        folded.setdefault(_without_lanes(row), []).append((node, row))
    labels = [
        f"node {node}" if plan.gpus_per_node else f"rank {node * per_row}"
        for node, _ in (rows[0] for rows in folded.values())
    ]
    margin = max(8, *map(len, labels)) + 1
    lines = [_legend(plan, letters, style)]
    for label, alike in zip(labels, folded.values(), strict=True):
        lines += _node_lines(plan, letters, alike, label.ljust(margin), style)
    return lines


def module_letters(names: list[str]) -> list[str]:
    """The shortest capitalised prefix of each name that no earlier module took."""
    taken: list[str] = []
    for name in names:
        prefixes = (name[:length].capitalize() for length in range(1, len(name) + 1))
        numbered = (f"{name[0].upper()}{number}" for number in range(2, len(names) + 2))
        taken.append(next(prefix for prefix in (*prefixes, *numbered) if prefix not in taken))
    return taken


def _legend(plan: Plan, letters: list[str], style: Style) -> str:
    names = [
        style.module(f"{letter} {module.name}", i)
        for i, (letter, module) in enumerate(zip(letters, plan.modules, strict=True))
    ]
    grids = [module.grid for module in plan.modules]
    axes = [f"{letter} {_MEANING[axis]}" for axis, letter in _SHOWN if any(grid.size_of(axis) > 1 for grid in grids)]
    return "  " + ", ".join(names) + ("; " + ", ".join(axes) if axes else "")


_MEANING = {Axis.PP: "stage", Axis.DP: "lane", Axis.CP: "cp", Axis.TP: "tp"}


def _rows(plan: Plan, per_row: int) -> Iterator[Row]:
    placed = [(i, module, _axes_shown(module.grid)) for i, module in enumerate(plan.modules)]
    for start in range(0, plan.world_size, per_row):
        ranks = range(start, min(start + per_row, plan.world_size))
        yield [[_cell(i, module, axes, rank) for i, module, axes in placed if rank in module.grid] for rank in ranks]


def _axes_shown(grid: Grid) -> list[tuple[Axis, str]]:
    return [(axis, letter) for axis, letter in _SHOWN if grid.size_of(axis) > 1]


def _cell(index: int, module: ModulePlan, axes: list[tuple[Axis, str]], rank: int) -> Cell:
    coords = module.grid.dense.coords(rank)
    return index, tuple((letter, coords[axis]) for axis, letter in axes)


def _without_lanes(row: Row) -> object:
    """What rows must have in common to be shown once: all but the lanes, which may differ by a constant per module."""
    firsts: dict[int, int] = {}

    def relative(cell: Cell) -> Cell:
        index, coords = cell
        lane = dict(coords).get("d", 0)
        base = firsts.setdefault(index, lane)
        return index, tuple((letter, at - base if letter == "d" else at) for letter, at in coords)

    return tuple(tuple(relative(cell) for cell in cells) for cells in row)


def _text(cell: Cell, letters: list[str]) -> str:
    index, coords = cell
    return letters[index] + "".join(f"{letter}{at}" for letter, at in coords)


def _node_lines(plan: Plan, letters: list[str], alike: list[tuple[int, Row]], label: str, style: Style) -> list[str]:
    """The lines of the first of several rows that are alike, and a note of the rows that repeat it."""
    blank = f"  {' ' * len(label)}"
    width = style.width - len(blank) - 2
    texts = _row_lines(alike[0][1], letters, width, style)
    lines = [f"{f'  {label}' if i == 0 else blank}{style.dim('|')} {text}" for i, text in enumerate(texts)]
    if len(alike) > 1:
        lines += [style.dim(f"{blank}| {text}") for text in wrap(_repeats(plan, alike, letters), width)]
    return lines


def _row_lines(row: Row, letters: list[str], width: int, style: Style) -> list[str]:
    """The lines of a row: one for each module on its GPUs, with the cells of one GPU below one another."""
    layers = {
        index: ["".join(_text(cell, letters) for cell in cells if cell[0] == index) for cells in row]
        for index in sorted({cell[0] for cells in row for cell in cells})
    }
    longest = max(len(text) for texts in layers.values() for text in texts)
    if len(row) * (longest + 1) <= width:
        padded = {index: [" ".join(text.ljust(longest) for text in texts)] for index, texts in layers.items()}
    else:
        padded = {index: _filled(_factored(texts), width) for index, texts in layers.items()}
    return [style.module(line.rstrip(), index) for index, lines in padded.items() for line in lines]


def _factored(texts: list[str]) -> list[str]:
    """Shorter cells, for rows that do not fit: their common beginning once, then the rest: `Lp0c0:` `t0` `t1` ..."""
    common = commonprefix(texts)  # noqa: RUF071  the cells are not paths
    cut = max((i for i, letter in enumerate(common) if letter.isalpha()), default=0)
    return [f"{common[:cut]}:", *(text[cut:] for text in texts)] if cut else texts


def _filled(texts: list[str], width: int) -> list[str]:
    """Cells filled into lines, padded to one width, except for the common beginning of factored cells."""
    heads, cells = (texts[:1], texts[1:]) if texts[0].endswith(":") else ([], texts)
    longest = max(map(len, cells))
    return wrap([*heads, *(cell.ljust(longest) for cell in cells)], width)


def _repeats(plan: Plan, alike: list[tuple[int, Row]], letters: list[str]) -> list[str]:
    """`and nodes 1-15 (15 nodes), with lanes L 1-15`, in phrases that are ready to be wrapped."""
    nodes = [node for node, _ in alike[1:]]
    if plan.gpus_per_node:
        where = f"nodes {runs_text(nodes)} ({len(nodes)} nodes)" if len(nodes) > 1 else f"node {nodes[0]}"
    else:
        per_row = len(alike[0][1])
        where = f"ranks from {runs_text([node * per_row for node in nodes])}"
    lanes: dict[int, set[int]] = {}
    for _, row in alike[1:]:
        for index, coords in (cell for cells in row for cell in cells):
            if "d" in dict(coords):
                lanes.setdefault(index, set()).add(dict(coords)["d"])
    listed_lanes = [f"{letters[index]} {_lanes(sorted(found))}" for index, found in sorted(lanes.items())]
    return (
        [f"and {where}"]
        if not listed_lanes
        else [f"and {where},", *listed([f"with lanes {listed_lanes[0]}", *listed_lanes[1:]])]
    )


def _lanes(lanes: list[int]) -> str:
    """`1-13`, or `8-123 (64 lanes)` if there are more runs than one would want to read."""
    text = runs_text(lanes)
    return text if text.count(",") <= 2 else f"{lanes[0]}-{lanes[-1]} ({len(lanes)} lanes)"
