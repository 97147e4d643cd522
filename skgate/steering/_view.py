"""A steered view of a model that is itself not steered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from skgate.model._residual_stream import Route, eval_mode, steer_block
from skgate.model._rope import reset_positions
from skgate.steering._generation import check_decoding

if TYPE_CHECKING:
    from skgate.activations._reader import PromptReader

_CONTINUOUS_BATCHING = (
    "generate_batch",
    "init_continuous_batching",
    "continuous_batching_context_manager",
)

Steering = Callable[[bool, bool, int | None], AbstractContextManager[None]]


class SteeredView:
    """A steered view of a model, and a way to close it.

    Parameters
    ----------
    model : PreTrainedModel
        The model. The view shares its parameters, submodules and hooks; the model is not changed.
    steering : callable
        ``steering(generating, starts, width)`` returns a context in which this thread's forward
        passes of the model are steered. ``generating`` says whether tokens are generated after the
        prompts, ``starts`` whether no token came before, ``width`` how many tokens the prompts have
        (None if not known).

    Attributes
    ----------
    model : PreTrainedModel
        The view: an object of the model's own class, whose ``generate`` and ``forward`` are steered
        in every thread that calls them.
    """

    def __init__(self, model: Any, steering: Steering) -> None:
        self._original = model
        self._steering = steering
        self._closed = False
        self.model = object.__new__(type(model))
        self.model.__dict__.update(model.__dict__)  # a shallow copy
        self.model.__dict__["generate"] = self._steered(model.generate, generating=True)
        self.model.__dict__["forward"] = self._steered(model.forward, generating=False)
        for name in _CONTINUOUS_BATCHING:
            if hasattr(model, name):
                self.model.__dict__[name] = _refuse_continuous_batching

    def close(self) -> None:
        """Make every further use of the view an error."""
        self._closed = True

    def _steered(self, method: Callable[..., Any], *, generating: bool) -> Callable[..., Any]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if self._closed:
                raise RuntimeError(
                    "This steered view is no longer attached. Use it inside 'with "
                    "wrapper.attach() as steered'."
                )
            given = signature.bind_partial(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            if generating:
                own = self.model.generation_config
                if own is not self._original.generation_config and not given.get(
                    "generation_config"
                ):
                    given["generation_config"] = kwargs["generation_config"] = own
                check_decoding(self._original, given)
                kwargs = {"disable_compile": True, **kwargs}
            starts = given.get("past_key_values") is None
            with self._steering(generating, starts, _width(given)):
                return method(*args, **kwargs)

        return steered


def open_view(
    reader: PromptReader, layer: int, direction: npt.NDArray[np.float64], route: Route
) -> SteeredView:
    """Make a view of a reader's model that is steered at one layer.

    Parameters
    ----------
    reader : PromptReader
        The model, and the position that the gate reads.
    layer : int
        The block whose output is read and edited, 0-based.
    direction : ndarray of shape (d,)
        The unit direction of the edits.
    route : callable
        The route of every batch, as :func:`skgate.model._residual_stream.steer_block` takes it.

    Returns
    -------
    view : SteeredView
        The view.

    Raises
    ------
    ValueError
        If the position can't be found from token ids alone.
    """
    language_model, offset = reader.language_model, _offset(reader.position)

    @contextmanager
    def steering(generating: bool, starts: bool, width: int | None) -> Iterator[None]:
        if starts:
            reset_positions(language_model.backbone)
        with (
            eval_mode(language_model.backbone),
            steer_block(
                language_model.stack,
                language_model.blocks[layer],
                torch.from_numpy(direction),
                route,
                offset=offset,
                width=width,
                generating=generating,
            ),
        ):
            yield

    return SteeredView(language_model.model, steering)


def _offset(position: str | int) -> int | None:
    """Count how far before a prompt's end the gate reads; None for the mean."""
    if position == "instruction":
        raise ValueError(
            "Got position='instruction' in the gate's ActivationTransformer, which can't be found "
            "from token ids, expected 'last', 'mean' or a negative int. Or use generate()."
        )
    if position == "mean":
        return None
    return 0 if position == "last" else int(position) + 1


def _width(given: dict[str, Any]) -> int | None:
    """Count the tokens of the prompts; None if the arguments do not contain them."""
    for name in ("inputs", "input_ids", "inputs_embeds"):
        if given.get(name) is not None:
            return int(given[name].shape[1])
    return None


def _refuse_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "Continuous batching packs the tokens of several prompts into one forward pass, which "
        "can't be steered. Use generate()."
    )
