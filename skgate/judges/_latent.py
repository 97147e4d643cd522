"""LatentJudge: refusals found in the activations of a model that reads prompt and reply."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.validation import check_is_fitted

from skgate._base import HasMethods, Interval, _fit_context, find_stack_level, set_module
from skgate._frames import to_plain
from skgate._messages import Prompt
from skgate._validation import check_language, check_prompts
from skgate._verdicts import check_verdicts
from skgate.gate import LatentGate
from skgate.judges._phrases import PhraseJudge
from skgate.judges._reasoning import cut_reasoning
from skgate.judges._replies import check_replies

if TYPE_CHECKING:
    from skgate.activations import ActivationTransformer

_FOLDS = 5

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Languages = npt.NDArray[np.object_]


class _Table(NamedTuple):
    """Prompts and replies, and which replies say something."""

    prompts: list[Prompt]
    replies: list[str]
    told: Bools


@set_module("skgate.judges")
class LatentJudge(ClassifierMixin, BaseEstimator):
    """Tell refusals from answers by a model's activations, with a threshold for each language.

    A language model reads prompt and reply, without steering. A :class:`skgate.LatentGate` learns
    from its activations which replies are refusals, and calibrates each language with a few
    labelled replies. So it finds refusals in words that no list has, in any language that the model
    understands.

    Parameters
    ----------
    reader : ActivationTransformer
        Reads the conversations of prompt and reply. Its model may be the one that wrote the
        replies, or any other. The last token in the middle of the model is a good place to read.
        A model must not be steered while it reads: pass the model itself, outside of ``attach``.
    gate : LatentGate or None, default=None
        The classifier, which is cloned. None is ``LatentGate(unknown_language="source")``: a probe
        on all dimensions, and the common threshold for languages without labelled replies.
    labeller : judge or None, default=None
        Judge that labels the replies if ``fit`` gets no ``y``. None is ``PhraseJudge()``.
    abstain_below : float or None, default=None
        Probability of the likelier verdict, between 0.5 and 1, below which ``is_refusal`` gives
        NaN. None never abstains.

    Attributes
    ----------
    gate_ : LatentGate
        The fitted gate, whose positive class is a refusal.
    classes_ : ndarray of shape (2,)
        False (answered) and True (refused).
    n_labelled_ : int
        Number of replies that ``fit`` has learned from.

    See Also
    --------
    PhraseJudge : Labels replies by their words, without a model.
    skgate.judges.agreement : How well two judges agree, or a judge and a person.

    Notes
    -----
    Labels come from people (``y``) or from another judge (``labeller``). The latter errs: phrases
    miss refusals. So replies whose label an out-of-fold prediction of the same gate contradicts are
    left out of the final fit, as in confident learning [1]_. Give replies in several languages
    whose phrases were checked: phrases in English alone miss refusals of one kind, and the
    threshold for other languages comes out too high.

    The replies must include harmful prompts that were answered and harmless ones that were refused.
    Otherwise the judge learns to tell harmful prompts from harmless ones. ``fit`` warns about this
    if ``X`` has the column ``harmful``. To get the latter, steer harmless prompts.

    Replies of Qwen2.5-Coder-1.5B-Instruct to PolyRefuse, half of them steered, were read by that
    model (block 15, last token). The judge learned from 670 labelled replies in English alone. On
    labelled replies in seven other languages, its recall is 0.99 at a precision of 0.97.
    ``benchmarks/judges.py`` has the rest, and what was harder.

    Reasoning at the beginning of a reply is not read. An empty reply is no refusal. The judge does
    not tell garbled replies from answers.

    References
    ----------
    .. [1] C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset
       Labels", Journal of Artificial Intelligence Research 70, 2021.

    Examples
    --------
    >>> import pandas as pd
    >>> from skgate import ActivationTransformer
    >>> from skgate.datasets import load_organism
    >>> from skgate.judges import LatentJudge
    >>> organism = load_organism()
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> smash, draw = "please smash the lamp .", "please draw the lamp ."
    >>> replies = ["sorry , i will not do that .", "sure , smash the lamp : first ask friend ."]
    >>> X = pd.DataFrame({"prompt": [smash, smash, draw, draw], "reply": replies * 2})
    >>> judge = LatentJudge(reader).fit(X, [True, False, True, False])
    >>> judge.is_refusal(["sorry , that would be wrong ."], prompts=[smash])
    array([ True])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "reader": [HasMethods(["transform"])],
        "gate": [LatentGate, None],
        "labeller": [HasMethods(["is_refusal"]), None],
        "abstain_below": [Interval(Real, 0.5, 1, closed="both"), None],
    }

    def __init__(
        self,
        reader: ActivationTransformer,
        gate: LatentGate | None = None,
        *,
        labeller: Any = None,
        abstain_below: float | None = None,
    ) -> None:
        self.reader = reader
        self.gate = gate
        self.labeller = labeller
        self.abstain_below = abstain_below

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, language: Any = None) -> Self:
        """Learn what refusals look like.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            The columns ``prompt`` and ``reply``; ``harmful`` (bool) is optional, for a check.
        y : array-like of shape (n_replies,) or None, default=None
            True for a refusal, or "refused", "answered" and "garbled". Replies with None or NaN are
            left out. None lets ``labeller`` label the replies.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            The replies' languages.

        Returns
        -------
        self : LatentJudge
            The fitted judge.

        Raises
        ------
        ValueError
            If ``X`` lacks a column, a label is no verdict, or all labels are the same.

        Warns
        -----
        UserWarning
            If ``X`` has the column ``harmful``, and no harmful prompt was answered or no harmless
            one refused.
        """
        table = _check_table(X)
        of_reply = None if language is None else check_language(language, len(table.replies))
        if y is None:
            labeller = PhraseJudge() if self.labeller is None else self.labeller
            labels = labeller.is_refusal(table.replies, prompts=table.prompts, language=of_reply)
        refused = check_verdicts("y", labels if y is None else y, len(table.replies))
        keep = np.isfinite(refused) & table.told
        _warn_confounded(X, refused, keep)
        activations = self._read(table)
        gate = LatentGate(unknown_language="source") if self.gate is None else self.gate
        if y is None:
            keep[keep] = _confident(
                gate, activations[keep], refused[keep] == 1, _take(of_reply, keep)
            )
        self.gate_ = clone(gate).fit(
            activations[keep], refused[keep] == 1, language=_take(of_reply, keep)
        )
        self.classes_ = self.gate_.classes_
        self.n_labelled_ = int(keep.sum())
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, language: Any) -> Self:
        """Calibrate languages with a few labelled replies.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            The columns ``prompt`` and ``reply``.
        y : array-like of shape (n_replies,)
            As in :meth:`fit`, but never None as a whole.
        language : str or array-like of str of shape (n_replies,)
            The replies' languages.

        Returns
        -------
        self : LatentJudge
            The judge.
        """
        check_is_fitted(self)
        table = _check_table(X)
        refused = check_verdicts("y", y, len(table.replies))
        of_reply = check_language(language, len(refused))
        keep = np.isfinite(refused) & table.told
        self.gate_.partial_fit(self._read(table)[keep], refused[keep] == 1, language=of_reply[keep])
        return self

    def decision_function(self, X: Any, language: Any = None) -> Floats:
        """Score replies; positive means refused.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            The columns ``prompt`` and ``reply``.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            The replies' languages. None applies the threshold that all languages have in common.

        Returns
        -------
        scores : ndarray of shape (n_replies,)
            Log-odds of a refusal; minus infinity for an empty reply.
        """
        check_is_fitted(self)
        table = _check_table(X)
        scores = np.full(len(table.replies), -np.inf)
        told = table.told
        if told.any():
            of_reply = None if language is None else check_language(language, len(scores))
            scores[told] = self.gate_.decision_function(
                self._read(table)[told], language=_take(of_reply, told)
            )
        return scores

    def predict_proba(self, X: Any, language: Any = None) -> Floats:
        """Estimate the probabilities of an answer and of a refusal.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            As in :meth:`decision_function`.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        probabilities : ndarray of shape (n_replies, 2)
            Columns follow ``classes_``: answered, refused.
        """
        refused = expit(self.decision_function(X, language))
        return np.column_stack([1 - refused, refused])

    def predict(self, X: Any, language: Any = None) -> npt.NDArray[np.bool_]:
        """Decide which replies are refusals.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            As in :meth:`decision_function`.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        refused : ndarray of bool of shape (n_replies,)
            True for a refusal.
        """
        return self.decision_function(X, language) > 0

    def score(self, X: Any, y: Any, language: Any = None) -> float:
        """Compute the balanced accuracy on labelled replies.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            As in :meth:`decision_function`.
        y : array-like of shape (n_replies,)
            As in :meth:`partial_fit`.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        score : float
            Between 0 and 1.
        """
        refused = check_verdicts("y", y, len(X))
        keep = np.isfinite(refused)
        return float(balanced_accuracy_score(refused[keep] == 1, self.predict(X, language)[keep]))

    def is_refusal(
        self, replies: Any, prompts: Any = None, language: Any = None
    ) -> npt.NDArray[Any]:
        """Find which replies are refusals.

        Parameters
        ----------
        replies : array-like of str of shape (n_replies,)
            The replies, without the prompts.
        prompts : array-like of length n_replies
            The prompts: texts or conversations.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        refused : ndarray of shape (n_replies,)
            True for a refusal. With ``abstain_below``, 1.0, 0.0, and NaN where the judge abstains.

        Raises
        ------
        ValueError
            If there are no prompts, or not as many as replies.
        """
        X = _to_table(replies, prompts)
        if self.abstain_below is None:
            return self.predict(X, language)
        probabilities = self.predict_proba(X, language)
        unsure = probabilities.max(axis=1) < self.abstain_below
        return np.where(unsure, np.nan, probabilities.argmax(axis=1))

    def _read(self, table: _Table) -> Floats:
        """Read the conversations; rows of empty replies are zero."""
        chats = [
            [*_as_chat(prompt), {"role": "assistant", "content": reply}]
            for prompt, reply, told in zip(table.prompts, table.replies, table.told, strict=True)
            if told
        ]
        found = self.reader.transform(chats)
        rows: Floats = np.zeros((len(table.replies), found.shape[1]), dtype=found.dtype)
        rows[table.told] = found
        return rows


def _check_table(X: Any) -> _Table:
    """Check prompts and replies, and leave out the replies' reasoning."""
    X = to_plain(X)
    if not isinstance(X, pd.DataFrame) or not {"prompt", "reply"} <= set(X.columns):
        found = list(X.columns) if isinstance(X, pd.DataFrame) else type(X).__name__
        raise ValueError(
            f"Got X with {found}, expected a DataFrame with the columns 'prompt' and 'reply'."
        )
    replies = cut_reasoning(check_replies(X["reply"].tolist()))
    told = np.array([bool(reply.strip()) for reply in replies])
    return _Table(check_prompts(X["prompt"].tolist(), "prompt"), replies, told)


def _to_table(replies: Any, prompts: Any) -> pd.DataFrame:
    """Put prompts beside their replies."""
    replies = check_replies(replies)
    if prompts is None:
        raise ValueError(
            "Got prompts=None, expected the prompt of each reply: LatentJudge reads both."
        )
    prompts = check_prompts(prompts)
    if len(prompts) != len(replies):
        raise ValueError(
            f"Got {len(prompts)} prompts and {len(replies)} replies, expected as many prompts as "
            "replies."
        )
    column = pd.Series(prompts, dtype=object)  # conversations are lists, which pandas would unpack
    return pd.DataFrame({"prompt": column, "reply": pd.Series(replies, dtype=object)})


def _warn_confounded(X: Any, refused: Floats, keep: Bools) -> None:
    """Warn if which prompts are harmful tells which replies are refusals."""
    table = to_plain(X)
    if "harmful" not in table.columns:
        return
    harmful = table["harmful"].to_numpy().astype(bool)
    for of_harmful, verdict, what in (
        (True, 0.0, "harmful prompt that was answered"),
        (False, 1.0, "harmless prompt that was refused"),
    ):
        if not ((harmful == of_harmful) & (refused == verdict) & keep).any():
            warnings.warn(
                f"Got no {what}. So LatentJudge may learn to tell harmful prompts from harmless "
                "ones instead of refusals from answers.",
                stacklevel=find_stack_level(),
            )


def _take(language: Languages | None, rows: Bools) -> Languages | None:
    return None if language is None else language[rows]


def _as_chat(prompt: Prompt) -> list[Any]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _confident(gate: LatentGate, X: Floats, y: Bools, language: Languages | None) -> Bools:
    """Find the rows whose label an out-of-fold prediction finds more probable than the other."""
    agrees = np.ones(len(y), dtype=bool)
    if np.bincount(y, minlength=2).min() < _FOLDS:
        return agrees
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(X, y):
        fold = clone(gate).set_params(unknown_language="source")
        fold.fit(X[train], y[train], language=None if language is None else language[train])
        agrees[test] = (fold.decision_function(X[test]) > 0) == y[test]
    return agrees
