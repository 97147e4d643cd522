"""Part of calibration.py: the assumed constants of shrinkage, each halved and doubled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pandas as pd
from calibration_common import Case, Row, both_classes, calibrated, fit, points, score, show

from skgate.gate import _latent_gate, _shift_prior

AS_IS = "as is"
CONSTANTS = [
    "_SHIFT", "_SQUEEZE", "_BELIEF", "_NEAR", "_FAR", "_BROAD_SHIFT", "_BROAD_SQUEEZE", "_WIDTHS",
    "_TAILS",
]  # fmt: skip


def constants(case: Case, seed: int) -> Iterator[Row]:
    """Score gates whose prior has other constants; their probe is fitted once."""
    with _source_learned_once(case):
        for name, factor in [(AS_IS, 1.0), *((n, f) for n in CONSTANTS for f in (0.5, 2.0))]:
            with _changed(name, factor):
                gate = fit(case.data)
                for budget in (1, 4):
                    shots = both_classes(case.data, seed, budget)
                    for row in score(calibrated(gate, case.data, shots), case.data):
                        yield {"constant": name, "factor": factor, "budget": budget, **row}


def show_constants(frame: pd.DataFrame) -> None:
    """Print a table by data set and constant."""
    table = frame.pivot_table(
        index=["dataset", "budget", "constant"], columns="factor", values="balanced_accuracy",
        sort=False,
    )  # fmt: skip
    is_usual = table.index.get_level_values("constant") == AS_IS
    usual = table.loc[is_usual, 1.0].droplevel("constant")
    shown = table.loc[~is_usual, [0.5, 2.0]]
    gains = shown.sub(usual.reindex(shown.index.droplevel("constant")).to_numpy(), axis=0)
    gains = gains.map(points).set_axis(["halved", "doubled"], axis=1)
    show(usual.unstack(), "Balanced accuracy with the constants of the prior as they are")
    show(gains, "The same with one constant halved or doubled, difference in points")


@contextmanager
def _changed(name: str, factor: float) -> Iterator[None]:
    """Multiply a constant of the prior by a factor."""
    if name == AS_IS:
        yield
        return
    usual = getattr(_shift_prior, name)
    value = tuple(np.multiply(usual, factor)) if isinstance(usual, tuple) else usual * factor
    with mock.patch.object(_shift_prior, name, value):
        yield


@contextmanager
def _source_learned_once(case: Case) -> Iterator[None]:
    """Let gates share what was learned from the sources; the prior alone is learned anew."""
    learn_source = _latent_gate.learn_source

    def once(*args: object) -> object:
        if not case.learned:
            case.learned.append(learn_source(*args))
        return case.learned[0]

    with mock.patch.object(_latent_gate, "learn_source", once):
        yield
