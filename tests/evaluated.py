"""A model for evaluations that needs no torch, and a program that evaluates it until it is killed.

python evaluated.py PATH CALLS LAST: the model appends each call to CALLS, and is killed in call
number LAST.
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pandas as pd

LANGUAGES = ["en", "yo"]


def make_prompts(n=10, start=0):
    """Make prompts of two languages and classes."""
    rows = range(start, start + n)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in rows],
            "prompt": [f"request {i}" for i in rows],
            "language": [LANGUAGES[i % 2] for i in rows],
            "harmful": [i % 4 < 2 for i in rows],
            "group": [f"g{i // 2}" for i in rows],
        }
    )


class Model:
    """Refuses a prompt if its number is a multiple of ``every``; garbles multiples of 7."""

    def __init__(self, every, version="v1", calls=None, last=None):
        self.every = every
        self.version = version
        self.calls = [] if calls is None else calls
        self.last = last

    def get_params(self, deep=True):
        return {"every": self.every, "verbose": True, "network": object()}

    def generate(self, prompts, language=None, *, return_decisions=False, **kwargs):
        self.calls.append((list(prompts), None if language is None else list(language), kwargs))
        if len(self.calls) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        numbers = np.array([int(prompt.split()[-1]) for prompt in prompts])
        refused = numbers % self.every == 0
        replies = np.where(numbers % 7 == 0, "hm", np.where(refused, "no", "yes")).tolist()
        decisions = pd.DataFrame(
            {
                "language": "detected",
                "harmful": refused,
                "harm_score": np.where(refused, 1, -1) * (1 + numbers) / 3,
                "action": np.where(refused, "add", "none"),
                "gate_version": self.version,
            }
        )
        assert return_decisions
        return replies, decisions


class Judge:
    """Abstains on what is neither "no" nor "yes"."""

    def is_refusal(self, replies, prompts=None, language=None):
        assert len(prompts) == len(replies)
        return np.array([{"no": 1.0, "yes": 0.0}.get(reply, np.nan) for reply in replies])


def make_models():
    return {"a": Model(2), "b": Model(3)}


class Log(list):
    """Calls, each also appended to a file."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def append(self, call):
        super().append(call)
        with open(self.path, "a") as file:
            file.write(f"{call[0]}\n")


if __name__ == "__main__":
    from skgate.evaluation import evaluate_refusal

    path, calls, last = sys.argv[1:]
    models, log = make_models(), Log(calls)
    for model in models.values():
        model.calls, model.last = log, int(last)
    evaluate_refusal(models, make_prompts(), Judge(), path=path, batch_size=3, verbose=False)
