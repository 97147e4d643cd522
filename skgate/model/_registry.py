"""The models that this process keeps: a few, of which the least recently used is released first."""

from __future__ import annotations

import gc
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from numbers import Integral
from typing import Any, Generic, TypeVar

from skgate._base import set_module

T = TypeVar("T")

_MAX_MODELS = 2


class Registry(Generic[T]):
    """A bounded number of things that are slow to load. Safe to use from threads.

    Parameters
    ----------
    max_size : int
        The most things that are kept.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._kept: OrderedDict[Hashable, tuple[object, T]] = OrderedDict()
        self._lock = threading.Lock()  # held for moments
        self._loading = threading.Lock()  # held while something is loaded: one at a time

    def get(self, key: Hashable, stamp: object, load: Callable[[], T]) -> T:
        """Return what is kept under a key, or load it.

        Something kept is returned without waiting while another thread loads. Room is made before
        ``load`` is called, so that no more than ``max_size`` things are in memory.

        Parameters
        ----------
        key : hashable
            What the thing is known by.
        stamp : object
            Its version: with another stamp than it was kept with, the thing is loaded again.
        load : callable
            Loads the thing.

        Returns
        -------
        thing : object
            The same object for equal keys and stamps, until it is dropped.
        """
        with self._lock:
            kept = self._find(key, stamp)
        if kept is not None:
            return kept[1]
        with self._loading:
            with self._lock:
                kept = self._find(key, stamp)  # loaded by another thread meanwhile
                if kept is not None:
                    return kept[1]
                n_dropped = int(self._kept.pop(key, None) is not None)
                n_dropped += self._shrink(self._max_size - 1)
            if n_dropped:
                _free_memory()
            thing = load()
            with self._lock:
                self._kept[key] = stamp, thing
                self._shrink(self._max_size)
            return thing

    def resize(self, max_size: int) -> None:
        """Change how many things are kept, and drop those that are too many."""
        with self._lock:
            self._max_size = max_size
            n_dropped = self._shrink(max_size)
        if n_dropped:
            _free_memory()

    def clear(self) -> int:
        """Drop everything, free its memory, and return how many things there were."""
        with self._lock:
            n_dropped = self._shrink(0)
        _free_memory()
        return n_dropped

    def _find(self, key: Hashable, stamp: object) -> tuple[object, T] | None:
        kept = self._kept.get(key)
        if kept is None or kept[0] != stamp:
            return None
        self._kept.move_to_end(key)
        return kept

    def _shrink(self, size: int) -> int:
        n_dropped = max(0, len(self._kept) - size)
        for _ in range(n_dropped):
            self._kept.popitem(last=False)
        return n_dropped


models: Registry[Any] = Registry(_MAX_MODELS)


@set_module("skgate")
def set_max_models(n: int) -> None:
    """Set how many models that were loaded by id or path are kept in memory.

    An estimator that gets its model as an id or a path loads it when it is first needed. All
    estimators of the process share it. If more than ``n`` models are in use, the least recently
    used one is dropped and loaded again when it is needed. The number is 2 when Python starts.

    Parameters
    ----------
    n : int
        The most models to keep, at least 1. Each takes the memory of its weights. For a search
        over several models, set it to their number, so that none is loaded twice.

    Raises
    ------
    ValueError
        If ``n`` is not an integer of at least 1.

    See Also
    --------
    release_models : Frees the memory of all models at once.

    Notes
    -----
    The bound holds for each process: with ``n_jobs=2``, two processes keep ``n`` models each. The
    same weights with another ``dtype``, ``device``, ``revision`` or ``model_kwargs`` are another
    model. A model that is running is never interrupted: its memory is freed when its call ends.

    Examples
    --------
    >>> import skgate
    >>> skgate.set_max_models(3)
    >>> skgate.set_max_models(0)
    Traceback (most recent call last):
        ...
    ValueError: Got n=0 for set_max_models, expected an integer of at least 1.
    >>> skgate.set_max_models(2)
    """
    given: Any = n
    if isinstance(given, bool) or not isinstance(given, Integral) or given < 1:
        raise ValueError(f"Got n={n!r} for set_max_models, expected an integer of at least 1.")
    models.resize(int(given))


@set_module("skgate")
def release_models() -> int:
    """Free the memory of all models that were loaded by id or path.

    Estimators stay usable: one that needs its model again loads it again. Live models, which you
    loaded yourself, and cached activations are not affected.

    Returns
    -------
    n_released : int
        How many models were kept.

    See Also
    --------
    set_max_models : Limits how many models are kept.

    Examples
    --------
    >>> import skgate
    >>> n_released = skgate.release_models()
    >>> skgate.release_models()
    0
    """
    return models.clear()


def _free_memory() -> None:
    """Collect models that are part of reference cycles, and return their memory to the device."""
    gc.collect()
    torch = sys.modules.get("torch")  # not loaded, no models
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
