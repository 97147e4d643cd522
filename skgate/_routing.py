"""An early error for languages that scikit-learn would not pass on.

A search or a cross-validation that is given ``language=`` without metadata routing fits no Pipeline
(each fold fails, far from the cause). Other estimators it fits with languages and scores without.
It never calls a method of the estimator that could tell, but it clones the estimator first. So
``clone`` looks for such a call up the stack.
"""

from __future__ import annotations

import inspect
from typing import Any

from sklearn import get_config

_SEARCHES = "sklearn.model_selection."
# Frames of other packages end the look-up: what they clone is not the search's estimator.
_BETWEEN = ("sklearn", "joblib", "skgate")


def check_language_is_routed() -> None:
    """Raise an error if a search clones the caller and was given ``language=`` without routing.

    Raises
    ------
    ValueError
        If metadata routing is off and the call comes from a function of ``sklearn.model_selection``
        whose ``params`` hold a language. It says what to do instead.
    """
    if get_config()["enable_metadata_routing"]:
        return
    frame = inspect.currentframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _BETWEEN:
            return
        if module.startswith(_SEARCHES):
            params = frame.f_locals.get("params")
            given = params.items() if isinstance(params, dict) else ()
            if names := [name for name, value in given if _is_language(name, value)]:
                raise ValueError(
                    f"Got {names[0]}= in a search or a cross-validation without metadata routing, "
                    "which would fit or score without the languages. Expected one of two ways: "
                    "sklearn.set_config(enable_metadata_routing=True), or the language as a column "
                    "of X with LatentGate(language_column=...)."
                )
        frame = frame.f_back


def _is_language(name: Any, value: Any) -> bool:
    """Whether a parameter is a language, perhaps that of a pipeline's step."""
    return str(name).rpartition("__")[2] == "language" and value is not None
