"""A view of a model that is steered, while the model itself is not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from skgate.steering._generation import check_decoding

_CONTINUOUS_BATCHING = (
    "generate_batch",
    "init_continuous_batching",
    "continuous_batching_context_manager",
)


class Attachment:
    """Makes the view, and ends its life.

    Parameters
    ----------
    model : PreTrainedModel
        The model; it is shared with the view, not copied, and not changed.
    steering : callable
        ``steering(generating, width)`` gives a context in which this thread's forward passes of the
        model are steered, from the prompts of ``width`` tokens on (None if not known).

    Attributes
    ----------
    view : PreTrainedModel
        An object of the model's own class, whose ``generate`` and ``forward`` are steered, in
        whatever thread they are called.
    """

    def __init__(
        self, model: Any, steering: Callable[[bool, int | None], AbstractContextManager[None]]
    ) -> None:
        self._model = model
        self._steering = steering
        self._detached = False
        self.view = object.__new__(type(model))
        # A shallow copy: parameters, submodules and hooks are the model's own.
        self.view.__dict__.update(model.__dict__)
        self.view.__dict__["generate"] = self._steered(model.generate, generating=True)
        self.view.__dict__["forward"] = self._steered(model.forward, generating=False)
        for name in _CONTINUOUS_BATCHING:
            if hasattr(model, name):
                self.view.__dict__[name] = _refuse_continuous_batching

    def detach(self) -> None:
        """Make every further use of the view an error."""
        self._detached = True

    def _steered(self, method: Callable[..., Any], *, generating: bool) -> Callable[..., Any]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if self._detached:
                raise RuntimeError(
                    "This steered model is no longer attached; expected its use inside 'with "
                    "wrapper.attach() as steered'."
                )
            given = signature.bind_partial(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            if generating:
                own = self.view.generation_config
                if own is not self._model.generation_config and not given.get("generation_config"):
                    given["generation_config"] = kwargs["generation_config"] = own
                check_decoding(self._model, given)
                kwargs = {"disable_compile": True, **kwargs}
            with self._steering(generating, _width(given)):
                return method(*args, **kwargs)

        return steered


def _width(given: dict[str, Any]) -> int | None:
    """How many tokens the prompts have; None if the model makes them up."""
    for name in ("inputs", "input_ids", "inputs_embeds"):
        if given.get(name) is not None:
            return int(given[name].shape[1])
    return None


def _refuse_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "Continuous batching packs the tokens of several prompts into one forward pass, which "
        "can't be steered; expected generate()."
    )
