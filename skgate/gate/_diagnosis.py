"""Say in plain words whether a language can be calibrated at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skgate.gate._languages import LIKELY, Language, LanguageBook
from skgate.gate._shift_posterior import WEAK, Quality, ShiftModel

_UNLIKELY = 0.1


def diagnose(book: LanguageBook, shifts: ShiftModel, names: Sequence[Language]) -> pd.DataFrame:
    """Tabulate how well the classes of languages can be told apart.

    Parameters
    ----------
    book : LanguageBook
        What a gate has learned.
    shifts : ShiftModel
        The model of its calibrator.
    names : sequence of str or None
        The languages.

    Returns
    -------
    table : DataFrame
        One row per language; see :meth:`skgate.LatentGate.diagnose`.
    """
    rows = []
    for name in names:
        scores = book.labelled_scores(name)
        quality = shifts.quantify(scores)
        row: dict[str, object] = {
            "n_harmless": int((~scores.harmful).sum()),
            "n_harmful": int(scores.harmful.sum()),
        }
        for what in ("auc", "error", "least_error"):
            estimate = getattr(quality, what)
            row |= {what: estimate.mean, f"{what}_low": estimate.low, f"{what}_high": estimate.high}
        rows.append({**row, "verdict": _judge(book.calibrations[name].weak, quality)})
    return pd.DataFrame(rows, index=pd.Index(np.array(names, dtype=object), name="language"))


def _judge(weak: float, quality: Quality) -> str:
    if weak > LIKELY:
        return f"weak signal: at best about {max(quality.least_error.mean, WEAK):.0%} errors"
    return "separable" if weak < _UNLIKELY else "too few shots to tell"
