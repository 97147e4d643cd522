"""The map of the rooms in contributing.md: what each module of skgate is for, by its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "skgate"


def modules() -> Iterator[tuple[Path, str]]:
    """Give each module and the first line of its docstring, folder by folder."""
    found = PACKAGE.rglob("*.py")
    for path in sorted(found, key=lambda path: (path.parent, path.name)):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        if not docstring:
            raise ValueError(f"{path} has no docstring; expected a line that says what it is for.")
        yield path.relative_to(PACKAGE.parent), docstring.splitlines()[0]


def draw_map() -> str:
    """Write the map as Markdown: a table per folder."""
    lines = []
    for folder, rooms in groupby(modules(), key=lambda room: room[0].parent):
        lines += [f"**{folder.as_posix()}/**", "", "| file | what it is for |", "| --- | --- |"]
        lines += [f"| `{path.name}` | {purpose} |" for path, purpose in rooms]
        lines.append("")
    return "\n".join(lines)
