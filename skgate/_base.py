"""Estimators whose parameters hold a live model: shared, never copied, never pickled."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any, ClassVar, Self

from sklearn.base import clone as sklearn_clone

_LIVE = ("model", "tokenizer")


class SharesLiveModel:
    """Mixin for estimators with the parameters ``model`` and ``tokenizer``.

    ``clone`` and ``deepcopy`` share a live model and tokenizer; pickling one is an error that
    says what to do.

    Attributes
    ----------
    _shared_params : tuple of str
        Parameters that are never copied.
    """

    _shared_params: ClassVar[tuple[str, ...]] = _LIVE

    def __sklearn_clone__(self) -> Self:
        params = {
            name: value if name in self._shared_params else sklearn_clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()  # type: ignore[attr-defined]  # (BaseEstimator's)
        }
        copy = type(self)(**params)
        for name in ("_sklearn_output_config", "_metadata_request"):
            if hasattr(self, name):
                setattr(copy, name, deepcopy(getattr(self, name)))
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
