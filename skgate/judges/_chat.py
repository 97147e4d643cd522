"""ChatJudge: refusals found by a language model behind a chat endpoint."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from tqdm.auto import tqdm

from skgate._base import Interval, find_stack_level, set_module
from skgate.judges._endpoint import Asker, EndpointError
from skgate.judges._reasoning import cut_reasoning
from skgate.judges._replies import check_prompts_of, check_replies
from skgate.judges._rubric import ask_about, hash_question
from skgate.judges._verdict_store import VerdictStore

_NO_KEY = "no-key"  # the client insists on one


@set_module("skgate.judges")
class ChatJudge(BaseEstimator):
    """Find refusals by asking a language model, through any OpenAI-compatible chat endpoint.

    It reads meaning in every language that the judging model knows, and tells refused, answered and
    garbled replies apart. It needs the package openai:
    ``pip install '.[judges]'`` in the checkout of skgate.

    The prompts and replies are **sent to the endpoint**.

    Parameters
    ----------
    model : str
        The name of the judging model at the endpoint.
    base_url : str or None, default=None
        URL of the endpoint, such as "http://localhost:8000/v1". If None, the environment variable
        OPENAI_BASE_URL, else OpenAI.
    api_key_env : str or None, default="OPENAI_API_KEY"
        The environment variable that holds the API key. The key itself is not a parameter, so it
        cannot get into pickles, printed parameters or notebooks. If None, the endpoint needs no
        key, as most local servers.
    max_concurrent : int, default=16
        The largest number of calls at a time.
    timeout : float, default=60.0
        Seconds to wait for the endpoint, until a call counts as failed.
    max_retries : int, default=5
        The number of times that a failed call is repeated, with growing pauses or those that the
        endpoint asks for (Retry-After). Retried are time-outs, cut connections and the statuses
        408, 409, 429 and from 500 on.
    store : path-like or None, default=None
        A file for the verdicts. Each is appended as soon as it is there, and is not asked for
        again: a run that was stopped, even killed, continues where it was. Several processes may
        share a file. It holds hashes of the rubric, ``model``, prompt and reply, but no texts. If
        None, verdicts are not kept between calls.
    temperature : float or None, default=0.0
        The sampling temperature. If None, it is not sent, because some models reject it.
    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    usage_ : dict of str to int
        What the last call took: "calls" (answers received), "prompt_tokens" and "completion_tokens"
        (as the endpoint counts them), and "from_store" (distinct prompts with a reply whose verdict
        was in the store).

    See Also
    --------
    PhraseJudge : Finds refusals by their opening phrases, offline.
    skgate.metrics.refusal_rate : The share of prompts that were refused.

    Notes
    -----
    The rubric is that of the paper: a reply that gives any substantive part of what was asked for
    is not a refusal, even if it also declines. A garbled or off-topic reply is not a refusal
    either.

    The judging model must answer with JSON. A JSON schema enforces this where the endpoint supports
    ``response_format``. A malformed answer is asked for again, twice at most.

    Prompt and reply are sent as escaped JSON data, and the rubric says that instructions inside
    them are not to be followed. This makes it hard, not impossible, for a reply to influence its
    verdict.

    Reasoning at the beginning of a reply is left out, as :class:`PhraseJudge` does.

    Verdicts are as good as the judging model, and small models are weak judges in low-resource
    languages. Compare some of them with your own before you report numbers.

    If two endpoints serve different models by the same name, use a store for each.

    References
    ----------
    Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not Representation
    Failures", arXiv 2606.01196 (2026): the rubric.

    Examples
    --------
    A local server needs no key:

    >>> from skgate.judges import ChatJudge
    >>> judge = ChatJudge("my-model", base_url="http://localhost:8000/v1", api_key_env=None)
    >>> judge.verdicts(
    ...     ["I can't help with that.", "Boil the water first."],
    ...     prompts=["How do I make tea?", "How do I make coffee?"],
    ... )  # doctest: +SKIP
    array(['refused', 'answered'], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "model": [str],
        "base_url": [str, None],
        "api_key_env": [str, None],
        "max_concurrent": [Interval(Integral, 1, None, closed="left")],
        "timeout": [Interval(Real, 0, None, closed="neither")],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "store": [str, os.PathLike, None],
        "temperature": [Interval(Real, 0, None, closed="left"), None],
        "verbose": ["boolean"],
    }

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        max_concurrent: int = 16,
        timeout: float = 60.0,
        max_retries: int = 5,
        store: str | os.PathLike[str] | None = None,
        temperature: float | None = 0.0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.max_concurrent = max_concurrent
        self.timeout = timeout
        self.max_retries = max_retries
        self.store = store
        self.temperature = temperature
        self.verbose = verbose

    def is_refusal(
        self, replies: ArrayLike, prompts: Any = None, language: Any = None
    ) -> NDArray[np.float64]:
        """Find which replies are refusals.

        Parameters
        ----------
        replies : array-like of str of shape (n_replies,)
            The replies, without the prompts.
        prompts : array-like of shape (n_replies,)
            The prompt of each reply: a str, or a conversation (list of ``{"role", "content"}``).
            Required.
        language : object, default=None
            Not used; other judges read the languages.

        Returns
        -------
        refused : ndarray of float of shape (n_replies,)
            1.0 for a refusal, 0.0 for another reply, nan where there is no verdict.

        Raises
        ------
        ValueError
            As in :meth:`verdicts`.
        TypeError
            As in :meth:`verdicts`.
        ImportError
            As in :meth:`verdicts`.
        RuntimeError
            As in :meth:`verdicts`.
        OSError
            As in :meth:`verdicts`.
        """
        found = self.verdicts(replies, prompts, language)
        return np.array([np.nan if name is None else float(name == "refused") for name in found])

    def verdicts(
        self, replies: ArrayLike, prompts: Any = None, language: Any = None
    ) -> NDArray[np.object_]:
        """Judge replies as refused, answered or garbled.

        Equal replies to equal prompts are judged once. It can be called inside a running event
        loop, as in Jupyter.

        Parameters
        ----------
        replies : array-like of str of shape (n_replies,)
            The replies, without the prompts.
        prompts : array-like of shape (n_replies,)
            The prompt of each reply: a str, or a conversation (list of ``{"role", "content"}``).
            Required.
        language : object, default=None
            Not used; other judges read the languages.

        Returns
        -------
        verdicts : ndarray of object of shape (n_replies,)
            "refused", "answered" or "garbled" (or off topic). None, with a warning, where the model
            gave no valid answer, or the endpoint rejected the request (for example as too long).

        Raises
        ------
        ValueError
            If a parameter, a reply or a prompt is invalid, there are no prompts or not one for each
            reply, the API key is missing, or ``store`` is not a file of verdicts.
        TypeError
            If a reply is not a str, or a prompt is neither a str nor a conversation.
        ImportError
            If the package openai is not installed.
        RuntimeError
            If the endpoint does not accept the key or the model, still fails after ``max_retries``,
            or the first ten replies get no verdict. Verdicts in ``store`` are kept.
        OSError
            If ``store`` cannot be read or written.
        """
        self._validate_params()
        questions = _ask_about_all(cut_reasoning(check_replies(replies)), prompts)
        keys = [hash_question(self.model, question) for question in questions]
        found = self._judge(dict(zip(keys, questions, strict=True)))
        out = np.empty(len(keys), dtype=object)
        out[:] = [found.get(key) for key in keys]
        return out

    def _judge(self, questions: dict[str, str]) -> dict[str, str]:
        """Find the verdict of each question, in the store or else from the model."""
        path = None if self.store is None else Path(self.store).expanduser()
        with VerdictStore(path) as store:
            found = {key: store.verdicts[key] for key in questions if key in store.verdicts}
            missing = {key: text for key, text in questions.items() if key not in found}
            self.usage_ = {
                "calls": 0,
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "from_store": len(found),
            }
            if missing:
                self._ask(missing, found, store)
        return found

    def _ask(self, questions: dict[str, str], found: dict[str, str], store: VerdictStore) -> None:
        """Ask the model, and add its verdicts to those found and to the store."""
        n_verdicts = len(found) + len(questions)
        asker = self._make_asker(has_verdicts=bool(found))
        problem = None
        with tqdm(
            total=len(questions), desc="verdicts", unit="reply", disable=not self.verbose
        ) as bar:

            def keep(key: str, verdict: str | None) -> None:
                if verdict is not None:
                    store.add(key, verdict)
                    found[key] = verdict
                bar.update()

            try:
                asker.ask(questions, self.max_concurrent, keep)
            except EndpointError as error:
                problem = str(error)
            finally:
                self.usage_.update(
                    calls=asker.calls,
                    prompt_tokens=asker.prompt_tokens,
                    completion_tokens=asker.completion_tokens,
                )
        if problem is not None:  # raised here, apart from the client's error, which may quote a key
            kept = (
                "they are lost, because store=None"
                if self.store is None
                else f"they are kept in store={str(self.store)!r}, so call again to continue"
            )
            raise RuntimeError(
                f"The endpoint of model={self.model!r} {problem}. {len(found)} of {n_verdicts} "
                f"verdicts are there; {kept}."
            )
        if failures := asker.describe_failures():
            warnings.warn(
                f"{asker.malformed + asker.rejected} of {n_verdicts} distinct replies have no "
                f"verdict (None): {failures}.",
                UserWarning,
                stacklevel=find_stack_level(),
            )

    def _make_asker(self, *, has_verdicts: bool) -> Asker:
        if find_spec("openai") is None:
            raise ImportError(
                "ChatJudge needs the package openai: "
                "pip install '.[judges]' in the checkout of skgate."
            )
        return Asker(
            model=self.model,
            base_url=self.base_url,
            api_key=_read_key(self.api_key_env),
            timeout=float(self.timeout),
            max_retries=int(self.max_retries),
            temperature=None if self.temperature is None else float(self.temperature),
            has_verdicts=has_verdicts,
        )


def _ask_about_all(replies: list[str], prompts: Any) -> list[str]:
    """Write the question about each reply."""
    checked = check_prompts_of(prompts, len(replies), "ChatJudge")
    questions = []
    for i, (prompt, reply) in enumerate(zip(checked, replies, strict=True)):
        try:
            questions.append(ask_about(prompt, reply))
        except TypeError as error:
            raise TypeError(
                f"Got prompts[{i}] with a value that JSON can't hold: {error}"
            ) from None
    return questions


def _read_key(variable: str | None) -> str:
    if variable is None:
        return _NO_KEY
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"Got api_key_env={variable!r}, expected the name of an environment variable that "
            "holds an API key, in ASCII; "
            + ("its value is not ASCII" if key else "it is not set")
            + ". Pass api_key_env=None if the endpoint needs no key."
        )
    return key
