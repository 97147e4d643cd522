"""Pickles that remember which version wrote them."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

_VERSION = "_skgate_version"


class VersionedPickle:
    """Mixin: a pickle of another skgate version warns when it is loaded."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _VERSION: version("skgate")}  # type: ignore[dict-item]  # (BaseEstimator's)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written, running = state.pop(_VERSION, "an unknown version"), version("skgate")
        if written != running:
            warnings.warn(
                f"This {type(self).__name__} was written by skgate {written} and is read by "
                f"{running}: it may break or give other results. Fit it anew to be safe.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)  # type: ignore[misc]  # (BaseEstimator's)
