"""What all estimators share: shared live models, versioned pickles, warnings at the caller's line.

scikit-learn's private interface is imported here and nowhere else.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import joblib
import sklearn
from sklearn.base import _fit_context
from sklearn.base import clone as sklearn_clone
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_params,
)
from sklearn.utils.validation import _check_sample_weight

from skgate._routing import check_language_is_routed

__all__ = [
    "HasMethods",
    "Interval",
    "Options",
    "SharedModelMixin",
    "StrOptions",
    "VersionedPickle",
    "_check_sample_weight",
    "_fit_context",
    "find_stack_level",
    "set_module",
    "validate_params",
]

T = TypeVar("T")

_LIVE = ("model", "tokenizer")
_VERSION = "_skgate_version"
_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(__file__).parent,
        Path(sklearn.__file__).parent,
        Path(joblib.__file__).parent,
        *(
            Path(inspect.__file__).parent / f"{name}.py"
            for name in ("contextlib", "copy", "pickle")
        ),
    )
)


def set_module(name: str) -> Callable[[T], T]:
    """Set the public module of a class or function, whichever file defines it.

    Pickles then name the public module, so they still load after files are moved.

    Parameters
    ----------
    name : str
        The public module, such as "skgate".

    Returns
    -------
    decorator : callable
        Sets ``__module__``.
    """

    def decorate(public: T) -> T:
        public.__module__ = name
        return public

    return decorate


def find_stack_level() -> int:
    """Count the frames from the caller of this function to the first frame of the user's code.

    Frames of skgate, scikit-learn, joblib and contextlib are skipped.

    Returns
    -------
    level : int
        For ``warnings.warn(..., stacklevel=find_stack_level())``.
    """
    frame = inspect.currentframe()
    level = 0
    while frame is not None and f"{frame.f_code.co_filename}{os.sep}".startswith(_LIBRARIES):
        frame = frame.f_back
        level += 1
    return max(level, 1)


class VersionedPickle:
    """Mixin that warns when a pickle of another skgate version is loaded."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _VERSION: version("skgate")}  # type: ignore[dict-item]  # (BaseEstimator's)

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written, running = state.pop(_VERSION, "an unknown version"), version("skgate")
        if written != running:
            warnings.warn(
                f"This {type(self).__name__} was written by skgate {written} and is read by "
                f"skgate {running}. It may fail or give other results; fit it again to be safe.",
                UserWarning,
                stacklevel=find_stack_level(),
            )
        super().__setstate__(state)  # type: ignore[misc]  # (BaseEstimator's)


class SharedModelMixin:
    """Mixin for estimators with the parameters ``model`` and ``tokenizer``.

    ``clone`` and ``deepcopy`` share a live model and tokenizer; pickling one raises an error that
    says what to do instead.

    Attributes
    ----------
    _shared_params : tuple of str
        Parameters that are never copied.
    """

    _shared_params: ClassVar[tuple[str, ...]] = _LIVE

    def __sklearn_clone__(self) -> Self:
        check_language_is_routed()
        params = {
            name: value if name in self._shared_params else sklearn_clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()  # type: ignore[attr-defined]  # (BaseEstimator's)
        }
        copy = type(self)(**params)
        # scikit-learn's clone copies these two as well.
        for name in ("_sklearn_output_config", "_metadata_request"):
            if name in self.__dict__:
                copy.__dict__[name] = deepcopy(self.__dict__[name])
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for name in self._shared_params:
            live = getattr(self, name)
            memo[id(live)] = live
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        for name in _LIVE:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str | os.PathLike):
                raise TypeError(
                    f"{name} is a live {type(value).__name__}, which can't be pickled with a "
                    f"{type(self).__name__}. Pass a Hugging Face id or a local path "
                    "(model.save_pretrained(path); tokenizer.save_pretrained(path)) to dump it, or "
                    "to use it in several processes (n_jobs > 1)."
                )
        return dict(super().__getstate__())  # type: ignore[call-overload]  # (BaseEstimator's)
