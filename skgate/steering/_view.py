"""A steered view of a model that is itself not steered."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from copy import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from skgate._frames import to_plain
from skgate._validation import check_language
from skgate.model._residual_stream import eval_mode
from skgate.model._rope import reset_positions
from skgate.model._stream_editing import Edit, Route, steer_block
from skgate.model._templates import PROBES
from skgate.steering._generation import check_decoding
from skgate.steering._input_check import InputCheck, find_inputs
from skgate.steering._padding import check_generate

if TYPE_CHECKING:
    from skgate.activations._reader import PromptReader
    from skgate.steering._router import Router

OnDecision = Callable[[pd.DataFrame], object]
RouteOfCall = Callable[[int], Route]

_CONTINUOUS_BATCHING = (
    "generate_batch",
    "init_continuous_batching",
    "continuous_batching_context_manager",
)
_DETACHED = (
    "Got a call of a steered view that is no longer attached, expected one that begins before the "
    "end of 'with wrapper.attach() as steered', or before detach(). Calls that have begun go on. "
    "To start calls in other threads, keep the view: view = wrapper.attach()."
)


class _Detachable:
    """What a view adds to the class of its model."""

    is_steered_view = True

    def detach(self) -> None:
        """Make every further call of the view an error; calls that have begun go on."""
        vars(self)["_view_state"].detached = True

    def __enter__(self) -> Self:
        if vars(self)["_view_state"].detached:
            raise RuntimeError(_DETACHED)
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()


def open_view(
    reader: PromptReader,
    direction: npt.NDArray[np.float64],
    route_of_call: RouteOfCall,
    on_template_mismatch: str,
) -> Any:
    """Make a view of a reader's model that is steered at the deepest layer that is read.

    Parameters
    ----------
    reader : PromptReader
        The model, how prompts are formatted, and the layers and positions that the gate reads.
    direction : ndarray of shape (d,)
        The unit direction of the edits.
    route_of_call : callable
        Takes the number of prompts of a call, and returns the call's route as
        :func:`skgate.model._stream_editing.steer_block` takes it.
    on_template_mismatch : {"raise", "warn"}
        What to do about prompts that do not end as the gate's prompts do.

    Returns
    -------
    view : PreTrainedModel
        An object of a subclass of the model's class, which adds ``detach`` and the methods of a
        context manager. It shares the model's parameters, submodules and hooks. Its ``generate``
        and ``forward`` are steered in every thread that calls them. The model is not changed.

    Raises
    ------
    ValueError
        If a position can't be found from token ids alone.
    """
    language_model = reader.language_model
    offsets = [_offset(position) for position in reader.positions]
    model: Any = language_model.model
    inputs = InputCheck(reader, on_template_mismatch)
    state = SimpleNamespace(detached=False)

    @contextmanager
    def steering(given: dict[str, Any], generating: bool) -> Iterator[None]:
        n_past = _count_past(given)
        inputs.check(given, 0 if generating else n_past)  # generate gets whole prompts
        _, tokens = find_inputs(given) or ("", None)
        route = route_of_call(1 if tokens is None else len(tokens))
        if not n_past:
            reset_positions(language_model.backbone)
        with (
            eval_mode(language_model.backbone),
            steer_block(
                language_model.stack,
                language_model.blocks,
                reader.layers,
                torch.from_numpy(direction),
                route,
                offsets=offsets,
                mask=_mask_of_prompts(given, tokens),
                generating=generating,
            ),
        ):
            yield

    def steer(method: Callable[..., Any], *, generating: bool) -> Callable[..., Any]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def steered(*args: Any, **kwargs: Any) -> Any:
            if state.detached:
                raise RuntimeError(_DETACHED)
            given = signature.bind_partial(*args, **kwargs).arguments
            given = {**given, **given.get("kwargs", {})}
            if generating:
                own = view.generation_config
                if own is not model.generation_config and not given.get("generation_config"):
                    given["generation_config"] = kwargs["generation_config"] = own
                check_decoding(model, given)
                probe = reader.encode(PROBES[:1])[0]
                check_generate(language_model, max(reader.layers), probe, given.get("use_cache"))
                kwargs = {"disable_compile": True, **kwargs}
            with steering(given, generating):
                return method(*args, **kwargs)

        return steered

    view: Any = object.__new__(_view_class(model.__class__))
    view.__dict__.update(model.__dict__)  # a shallow copy
    view.__dict__["_view_state"] = state
    view.__dict__["generate"] = steer(model.generate, generating=True)
    view.__dict__["forward"] = steer(model.forward, generating=False)
    for name in _CONTINUOUS_BATCHING:
        if hasattr(model, name):
            view.__dict__[name] = _refuse_continuous_batching
    return view


def check_languages(language: Any) -> str | npt.NDArray[np.object_] | None:
    """Check the languages of a view: one for all prompts, or one per row of each batch.

    Parameters
    ----------
    language : str, array-like of str or None, or None
        None means that the language is not known.

    Returns
    -------
    language : str, ndarray of str or None, or None
        The same, checked.
    """
    if language is None:
        return None
    if isinstance(language, Mapping | Set):
        raise TypeError(
            f"Got a {type(language).__name__} as language, expected a str, one str or None per "
            "prompt of each batch, or None. The prompts are the input of the view: "
            "attach().generate(**inputs)."
        )
    if isinstance(language, str):
        return str(check_language(language, 1)[0])
    rows = to_plain(language)
    if hasattr(rows, "__len__") and not isinstance(rows, bytes):
        if len(rows) == 0:
            raise ValueError("Got language=[], expected a str, or one per prompt of each batch.")
        return check_language(rows, len(rows), missing=True)
    return check_language(rows, 1)  # (an error that says what is expected)


def route_calls(
    router: Router, language: str | npt.NDArray[Any] | None, on_decision: OnDecision | None
) -> RouteOfCall:
    """Make a route for each call of a view.

    Parameters
    ----------
    router : Router
        What every call starts from. It is not changed.
    language : str, ndarray of str or None, or None
        As :func:`check_languages` returns it.
    on_decision : callable or None
        Gets the decisions of each call.

    Returns
    -------
    route_of_call : callable
        As :func:`open_view` takes it. It raises a ValueError if there is not one language per
        prompt.
    """

    def route_of_call(n_prompts: int) -> Route:
        languages = language
        if isinstance(languages, str):
            languages = np.full(n_prompts, languages, dtype=object)
        if languages is not None and len(languages) != n_prompts:
            raise ValueError(
                f"Got {len(languages)} languages in attach() and a batch of {n_prompts} prompts, "
                "expected one language per prompt: attach() once per batch, or pass one language "
                "for all."
            )
        own = copy(router)
        own.begin(languages, n_prompts)
        decide = own.route(list(range(n_prompts)))
        if on_decision is None:
            return decide

        def decide_and_tell(rows: torch.Tensor) -> Edit:
            edit = decide(rows)
            on_decision(own.decisions())
            return edit

        return decide_and_tell

    return route_of_call


@functools.lru_cache(maxsize=32)
def _view_class(model_class: type) -> type:
    """Make the class of a model's views, which goes by the name of the model's class."""
    names = ("__module__", "__qualname__", "__doc__")
    return type(
        model_class.__name__,
        (_Detachable, model_class),
        {name: getattr(model_class, name) for name in names},
    )


def _mask_of_prompts(given: Mapping[str, Any], tokens: torch.Tensor | None) -> torch.Tensor | None:
    """Tell prompts from padding; None if the mask does not have one value for each token."""
    if tokens is None:
        return None
    mask = given.get("attention_mask")
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.int64)
    return mask if isinstance(mask, torch.Tensor) and mask.shape == tokens.shape[:2] else None


def _count_past(given: Mapping[str, Any]) -> int:
    """Count the tokens whose keys and values are given."""
    count = getattr(given.get("past_key_values"), "get_seq_length", None)
    return int(count()) if count is not None else 0


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


def _refuse_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "Continuous batching packs the tokens of several prompts into one forward pass, which "
        "can't be steered. Use generate()."
    )
