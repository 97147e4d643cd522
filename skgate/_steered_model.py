"""A view of a model that is steered, while the model itself is not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ._generation import check_decoding


class Attachment:
    """Makes the view, and ends its life.

    Parameters
    ----------
    model : PreTrainedModel
        The model; it is shared with the view, not copied, and not changed.
    steering : callable
        ``steering(generating)`` gives a context in which this thread's forward passes of the model
        are steered, from the prompt on.

    Attributes
    ----------
    view : PreTrainedModel
        An object of the model's own class, whose ``generate`` and ``forward`` are steered, in
        whatever thread they are called.
    """

    def __init__(
        self, model: Any, steering: Callable[[bool], AbstractContextManager[None]]
    ) -> None:
        self._model = model
        self._steering = steering
        self._detached = False
        self.view = object.__new__(type(model))
        # A shallow copy: parameters, submodules and hooks are the model's own.
        self.view.__dict__.update(model.__dict__)
        self.view.__dict__["generate"] = self._steered(model.generate, generating=True)
        self.view.__dict__["forward"] = self._steered(model.forward, generating=False)

    def detach(self) -> None:
        """Make every further use of the view an error."""
        self._detached = True

    def _steered(self, method: Callable[..., Any], *, generating: bool) -> Callable[..., Any]:
        @functools.wraps(method)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if self._detached:
                raise RuntimeError(
                    "This steered model is no longer attached; expected its use inside 'with "
                    "wrapper.attach() as steered'."
                )
            if generating:
                check_decoding(self._model, kwargs)
                kwargs = {"disable_compile": True, **kwargs}
            with self._steering(generating):
                return method(*args, **kwargs)

        return steered
