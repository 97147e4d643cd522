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

_WITHOUT_EFFECT = {"judge", "verbose"}  # on what is generated
_JUDGE_WITHOUT_EFFECT = {  # on its verdicts
    "verbose",
    "store",
    "timeout",
    "max_retries",
    "max_concurrent",
    "api_key_env",
    "batch_tokens",
}


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
    found = _params(model, _WITHOUT_EFFECT)
    if hasattr(model, "strength_") and getattr(model, "strength", None) == "auto":
        found["strength_"] = model.strength_
        found["language_strengths_"] = getattr(model, "language_strengths_", {})
    return {"class": type(model).__name__, **describe(found)}


def describe_judge(judge: Any, name: str) -> dict[str, str]:
    """Describe a judge by its name and its parameters, of which each begins with "judge__"."""
    params = _params(judge, _JUDGE_WITHOUT_EFFECT)
    return describe({"judge": name, **{f"judge__{key}": one for key, one in params.items()}})


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
    """Return the version of a wrapper's gate, without generating; None if unknown."""
    find_version = getattr(model, "_gate_version", None)
    try:
        return None if find_version is None else find_version()
    except NotFittedError:  # generate raises it, with its own message
        return None


def hash_prompt(prompt: Prompt) -> str:
    """Return the SHA-256 of a text in UTF-8, or of a conversation as JSON."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _params(model: Any, without_effect: set[str]) -> dict[str, Any]:
    """Get the parameters that have an effect."""
    params = model.get_params(deep=True) if hasattr(model, "get_params") else {}
    return {
        name: value for name, value in params.items() if without_effect.isdisjoint(name.split("__"))
    }


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
    if hasattr(value, "to_diff_dict"):  # a GenerationConfig or another configuration
        return _plain(value.to_diff_dict())
    return f"<{type(value).__name__}>"
