"""What an evaluation depends on, as texts that a file can keep and compare."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError

from skgate._messages import Prompt
from skgate.steering import SteeringWrapper
from skgate.steering._pipeline import find_fitted_parts
from skgate.steering._router import gate_version

_WITHOUT_EFFECT = {"judge", "verbose"}  # on what is generated


def describe_model(model: Any) -> dict[str, str]:
    """Describe a model by its class, its parameters and the strength that it chose.

    Parameters
    ----------
    model : object
        What generates. Parameters are read with ``get_params``, if it has that.

    Returns
    -------
    description : dict of str to str
        A text for each name. A live object is described by its class. ``strength_`` is there only
        with ``strength="auto"``: a number takes its place.
    """
    params = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    found = {name: value for name, value in params.items() if not _is_without_effect(name)}
    if hasattr(model, "strength_") and getattr(model, "strength", None) == "auto":
        found["strength_"] = model.strength_
        found["language_strengths_"] = getattr(model, "language_strengths_", {})
    return {"class": type(model).__name__, **describe(found)}


def describe(values: Mapping[str, Any]) -> dict[str, str]:
    """Describe values by their repr, and live objects in them by their class; sorted by name."""
    return {name: repr(_plain(values[name])) for name in sorted(values)}


def find_differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> str:
    """List what differs between two descriptions, such as "strength=0.9 instead of 0.7"."""
    names = sorted(name for name in {*recorded, *now} if recorded.get(name) != now.get(name))
    return ", ".join(
        f"{name}={now.get(name, 'nothing')} instead of {recorded.get(name, 'nothing')}"
        for name in names
    )


def find_gate_version(model: Any) -> str | None:
    """Return the version of a SteeringWrapper's gate, without generating; None if unknown."""
    if not isinstance(model, SteeringWrapper):
        return None
    try:
        gate = model._deciding_gate(find_fitted_parts(model))  # noqa: SLF001  (a baseline has another)
        return gate_version(gate)
    except NotFittedError:  # generate raises it, with its own message
        return None


def hash_prompt(prompt: Prompt) -> str:
    """Return the SHA-256 of a text in UTF-8, or of a conversation as JSON."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_without_effect(name: str) -> bool:
    return not _WITHOUT_EFFECT.isdisjoint(name.split("__"))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return f"<{type(value).__name__}>"
