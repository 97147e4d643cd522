"""The page of supported models, from what was found about each architecture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers
from architecture_comparison import EXACT, NOT_BUILT, REFUSED

N_FOLDED = 60  # rows of a folded table
_INTRODUCTION = """# Supported models

This page lists the architectures of transformers that skgate reads and steers. It covers every
causal and every multimodal architecture of transformers {transformers}, with torch {torch}.
Encoder-decoders are not supported and not listed. [Models and inputs](guide/models.md) explains how
to load a model.

A tiny model of each architecture, with random weights, was compared with plain transformers:

- **Reading.** "Exact" means that activations of all layers equal those that a bare forward hook
  reads, one prompt at a time. They are the same alone and in a batch with longer and shorter
  prompts, up to rounding.
- **Steering.** "Exact" means that the replies of
  {{meth}}`SteeringWrapper.generate <skgate.SteeringWrapper.generate>` equal those of two passes,
  one prompt at a time. The first pass reads the activation with a bare hook, and the gate decides.
  The second one generates with a bare hook that edits.
- **Refused** means that skgate raises an error with this reason. It never reads or steers these
  architectures wrongly without an error.

{n_exact} architectures are read and steered exactly. {n_read} more are read exactly, but not
steered. {n_refused} are refused, and {n_untried} could not be tried.

The tables say nothing about how well a model can be steered: find the layer and the strength on
your own data. `benchmarks/architectures.py` writes them. A test runs the same comparisons every
week on the newest versions.
"""
_EXACT = """
## Read and steered exactly

The `config.json` of a model states its model type. Select the range that it falls into.
"""
_NOT_STEERED = """
## Read exactly, not steered
"""
_REFUSED = """
## Refused
"""
_UNTRIED = """
## Not tried

A tiny model of these architectures could not be built from its configuration, or transformers does
not run it on text alone.
"""


@dataclass
class Row:
    """What was found about an architecture."""

    model_type: str
    auto_class: str
    model_class: str
    reading: str
    steering: str

    @property
    def is_sound(self) -> bool:
        """Whether skgate is right about it, or refuses it, or it could not be tried."""
        return not any(
            found.startswith(("differs", "fails")) for found in (self.reading, self.steering)
        )


def write_page(rows: Sequence[Row]) -> str:
    """Write the page with the table of all architectures."""
    tried = [row for row in rows if not row.reading.startswith(NOT_BUILT)]
    untried = [row for row in rows if row.reading.startswith(NOT_BUILT)]
    n_exact = sum(row.steering.startswith(EXACT) for row in tried)
    n_refused = sum(row.reading.startswith(REFUSED) for row in tried)
    text = _INTRODUCTION.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        n_exact=n_exact,
        n_read=len(tried) - n_exact - n_refused,
        n_refused=n_refused,
        n_untried=len(untried),
    )
    text += _tables(tried)
    if untried:
        text += _UNTRIED + _reasons([(row, row.reading) for row in untried], NOT_BUILT)
    return text


def _tables(tried: Sequence[Row]) -> str:
    """Write folded tables of what is exact, and tables of the rest."""
    exact = [row for row in tried if row.steering.startswith(EXACT)]
    text = _EXACT
    for start in range(0, len(exact), N_FOLDED):
        rows = exact[start : start + N_FOLDED]
        table = _table(
            ("model type", "class"),
            [(f"`{row.model_type}`", f"`{row.model_class}`") for row in rows],
        )
        title = f"{rows[0].model_type} to {rows[-1].model_type}"
        text += f"\n<details>\n<summary>{title}</summary>\n{table}\n</details>\n"
    text += _NOT_STEERED + _reasons(
        [(row, row.steering) for row in tried if row.reading == EXACT and row not in exact]
    )
    return text + _REFUSED + _reasons([(row, row.reading) for row in tried if row.reading != EXACT])


def _reasons(found: Sequence[tuple[Row, str]], without: str = REFUSED) -> str:
    rows = [
        (f"`{row.model_type}`", f"`{row.model_class}`", _cell(reason, f"{without}: "))
        for row, reason in found
    ]
    return _table(("model type", "class", "reason"), rows)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(found: str, without: str = "") -> str:
    """Shorten what was found to its first sentence, as plain text in a table."""
    text = found.removeprefix(without).split(". ")[0].rstrip(".")
    text = text if len(text) <= 140 else f"{text[:139]}…"
    return re.sub(r"([\\`*_|<>\[\]{}$])", r"\\\1", text)
