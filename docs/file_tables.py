"""The tables of the architecture page: the purpose of each file, from its docstring."""

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
            raise ValueError(f"{path} has no docstring, expected a line that states its purpose.")
        yield path.relative_to(PACKAGE.parent), docstring.splitlines()[0]


def write_tables() -> str:
    """Write a Markdown table for each folder, folded."""
    lines = []
    for folder, files in groupby(modules(), key=lambda file: file[0].parent):
        lines += [f"```{{dropdown}} {folder.as_posix()}/", "| file | purpose |", "| --- | --- |"]
        lines += [f"| `{path.name}` | {purpose} |" for path, purpose in files]
        lines += ["```", ""]
    return "\n".join(lines)
