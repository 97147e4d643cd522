"""LatentJudge: refusals found in the activations of a model that reads prompt and reply."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
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
from skgate.judges._replies import check_prompts_of, check_replies

if TYPE_CHECKING:
    from skgate.activations import ActivationTransformer

_FOLDS = 5

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Languages = npt.NDArray[np.object_]


class _Exchanges(NamedTuple):
    """Prompts and replies, in which the replies' reasoning is left out."""

    prompts: list[Prompt]
    replies: list[str]

    @property
    def has_text(self) -> Bools:
        """Whether each reply says anything."""
        return np.array([bool(reply.strip()) for reply in self.replies], dtype=bool)


@set_module("skgate.judges")
class LatentJudge(ClassifierMixin, BaseEstimator):
    """Tell refusals from other replies by a model's activations, with a threshold per language.

    A language model reads prompt and reply, without steering. A :class:`skgate.LatentGate` learns
    from its activations which replies are refusals, and calibrates each language with a few
    labelled replies. So it finds refusals in words that no list has. Labels in English sufficed for
    six other languages where this was measured (see Notes).

    .. versionadded:: 0.1.0

    Parameters
    ----------
    reader : ActivationTransformer
        Reads each prompt with its reply. The model that wrote the replies can read them; so can
        another one. Use ``position="last"`` and a layer in the middle of the model. The last token
        is the one with which the chat template ends after the reply. Pass the model itself, not a
        steered view of it.
    gate : LatentGate or None, default=None
        The classifier, which is cloned. None is ``LatentGate(unknown_language="source")``: a probe
        on all dimensions, and the common threshold, with a warning, for languages that were named
        but have no labelled replies.
    labeller : judge or None, default=None
        Judge that labels the replies if ``fit`` gets no ``y``. None is ``PhraseJudge()``.
    abstain_below : float or None, default=None
        Probability of the likelier verdict, between 0.5 and 1, below which ``is_refusal`` gives
        NaN. If None, the judge never abstains.

    Attributes
    ----------
    gate_ : LatentGate
        The fitted gate, whose positive class is a refusal.
    classes_ : ndarray of shape (2,)
        False (not refused) and True (refused).
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
    left out of the final fit, as in confident learning [1]_, if each class has at least five
    replies. Give replies in several languages whose phrases were checked. With English replies
    alone, the threshold for other languages came out too high.

    The replies must include harmful prompts that were answered and harmless ones that were refused.
    Otherwise the judge learns to tell harmful prompts from harmless ones. ``fit`` warns about this
    if ``X`` has the column ``harmful``. To get refused harmless prompts, steer them towards
    refusal.

    Replies of Qwen2.5-Coder-1.5B-Instruct to PolyRefuse, most of them steered, were read by that
    model (block 15, last token). The judge learned from 500 labelled English replies. On replies to
    other prompts in six other languages, and to Yoruba prompts, which the model refuses in
    English, Cohen's kappa with the labels is 0.88 to 1.00. Language models read the replies and
    gave these labels. With the labels of another reader, kappa is 0.90 in German and 0.70 in
    Korean. ``benchmarks/judges.py`` prints all figures.

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
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4,
    ...                                position="last")
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

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__partial_fit: ClassVar = {"language": True}
    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__score: ClassVar = {"language": True}

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
            If ``X`` lacks a column, a label is no verdict, all labels are the same, or the reader
            reads a token before the reply.

        Warns
        -----
        UserWarning
            If ``X`` has the column ``harmful``, and no harmful prompt was answered, or no harmless
            one refused.
        """
        self._check_position()
        exchanges = _check_table(X)
        n_replies = len(exchanges.replies)
        languages = None if language is None else check_language(language, n_replies)
        name, labels = "y", y
        if y is None:
            labeller = PhraseJudge() if self.labeller is None else self.labeller
            name = f"{type(labeller).__name__}.is_refusal(replies)"
            labels = labeller.is_refusal(
                exchanges.replies, prompts=exchanges.prompts, language=languages
            )
        refused = check_verdicts(name, labels, n_replies)
        rows = np.flatnonzero(np.isfinite(refused) & exchanges.has_text)
        labels = refused[rows] == 1
        if not 0 < labels.sum() < len(rows):
            raise ValueError(
                f"Got {name} with {labels.sum()} refusals among {len(rows)} labelled replies, "
                "expected refusals and other replies."
            )
        _check_confounding(X, rows, labels)
        gate = LatentGate(unknown_language="source") if self.gate is None else self.gate
        found = self._read(exchanges, rows)
        if y is None:
            agrees = _confirm(gate, found, labels, _take(languages, rows))
            rows, found, labels = rows[agrees], found[agrees], labels[agrees]
        self.gate_ = clone(gate).fit(found, labels, language=_take(languages, rows))
        self.classes_ = self.gate_.classes_
        self.n_labelled_ = len(rows)
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

        Raises
        ------
        ValueError
            If ``X`` lacks a column, a label is no verdict, or no reply has both a label and text.
        """
        check_is_fitted(self)
        exchanges = _check_table(X)
        refused = check_verdicts("y", y, len(exchanges.replies))
        languages = check_language(language, len(refused))
        rows = np.flatnonzero(np.isfinite(refused) & exchanges.has_text)
        if not len(rows):
            raise ValueError(
                f"Got {len(refused)} replies in X, none of them labelled and not empty, expected "
                "at least one."
            )
        self.gate_.partial_fit(
            self._read(exchanges, rows), refused[rows] == 1, language=languages[rows]
        )
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
            As :meth:`skgate.LatentGate.decision_function` gives them; minus infinity for an empty
            reply.

        Warns
        -----
        UserWarning
            If a language is named of which there were no labelled replies.
        """
        return self._apply("decision_function", _check_table(X), language, -np.inf)

    def predict_proba(self, X: Any, language: Any = None) -> Floats:
        """Estimate the probability of a refusal, if refusals are as frequent as other replies.

        Parameters
        ----------
        X : DataFrame of shape (n_replies, 2)
            As in :meth:`decision_function`.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        probabilities : ndarray of shape (n_replies, 2)
            Columns follow ``classes_``: not refused, refused.
        """
        refused = self._apply("predict_proba", _check_table(X), language, 0.0)
        return np.column_stack([1 - refused, refused])

    def predict(self, X: Any, language: Any = None) -> Bools:
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
            As in :meth:`partial_fit`; replies without a label are left out.
        language : str, array-like of str of shape (n_replies,) or None, default=None
            As in :meth:`decision_function`.

        Returns
        -------
        score : float
            Between 0 and 1.

        Raises
        ------
        ValueError
            If no reply has a label.
        """
        judged = self.predict(X, language)
        refused = check_verdicts("y", y, len(judged))
        known = np.isfinite(refused)
        if not known.any():
            raise ValueError(
                "Got y without any label, expected True or False for at least one reply."
            )
        return float(balanced_accuracy_score(refused[known] == 1, judged[known]))

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

        Warns
        -----
        UserWarning
            If a language is named of which there were no labelled replies.
        """
        self._validate_params()
        texts = cut_reasoning(check_replies(replies))
        exchanges = _Exchanges(check_prompts_of(prompts, len(texts), "LatentJudge"), texts)
        refused = self._apply("decision_function", exchanges, language, -np.inf) > 0
        if self.abstain_below is None:
            return refused
        probability = self._apply("predict_proba", exchanges, language, 0.0)
        unsure = np.maximum(probability, 1 - probability) < self.abstain_below
        return np.where(unsure, np.nan, refused)

    def _apply(self, method: str, exchanges: _Exchanges, language: Any, of_empty: float) -> Floats:
        """Apply a method of the gate to the replies that are not empty."""
        check_is_fitted(self)
        found = np.full(len(exchanges.replies), of_empty)
        rows = np.flatnonzero(exchanges.has_text)
        if len(rows):
            languages = None if language is None else check_language(language, len(found))
            values = getattr(self.gate_, method)(
                self._read(exchanges, rows), language=_take(languages, rows)
            )
            found[rows] = values if values.ndim == 1 else values[:, 1]
        return found

    def _read(self, exchanges: _Exchanges, rows: npt.NDArray[np.intp]) -> Floats:
        chats = []
        for i in rows:
            prompt, reply = exchanges.prompts[i], exchanges.replies[i]
            chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            chats.append([*chat, {"role": "assistant", "content": reply}])
        return np.asarray(self.reader.transform(chats))

    def _check_position(self) -> None:
        """Raise an error if the reader reads a token that can't know of the reply."""
        position = getattr(self.reader, "position", None)
        if "instruction" in np.atleast_1d(np.asarray(position, dtype=object)):
            raise ValueError(
                f"Got reader with position={position!r}, expected 'last', 'mean' or a negative "
                "integer: 'instruction' is read before the reply."
            )


def _check_table(X: Any) -> _Exchanges:
    """Check a table of prompts and replies."""
    X = to_plain(X)
    if not isinstance(X, pd.DataFrame) or not {"prompt", "reply"} <= set(X.columns):
        found = list(X.columns) if isinstance(X, pd.DataFrame) else type(X).__name__
        raise ValueError(
            f"Got X with {found}, expected a DataFrame with the columns 'prompt' and 'reply'."
        )
    replies = cut_reasoning(check_replies(X["reply"].tolist()))
    return _Exchanges(check_prompts(X["prompt"].tolist(), "X['prompt']"), replies)


def _check_confounding(X: Any, rows: npt.NDArray[np.intp], labels: Bools) -> None:
    """Check ``harmful``; warn if no harmful prompt was answered, or no harmless one refused."""
    table = to_plain(X)
    if "harmful" not in table.columns:
        return
    harmful = table["harmful"].to_numpy()[rows]
    wrong = [one for one in harmful if not (isinstance(one, Real | np.bool_) and one in (0, 1))]
    if wrong:
        raise ValueError(f"Got X['harmful'] with {wrong[0]!r}, expected True or False.")
    for of_harmful, refused, what in (
        (True, False, "harmful prompt that was answered"),
        (False, True, "harmless prompt that was refused"),
    ):
        if not ((harmful.astype(bool) == of_harmful) & (labels == refused)).any():
            warnings.warn(
                f"Got no {what}. So LatentJudge may learn to tell harmful prompts from harmless "
                "ones instead of refusals from answers.",
                stacklevel=find_stack_level(),
            )


def _take(languages: Languages | None, rows: npt.NDArray[np.intp]) -> Languages | None:
    return None if languages is None else languages[rows]


def _confirm(gate: LatentGate, X: Floats, y: Bools, languages: Languages | None) -> Bools:
    """Find the rows whose label an out-of-fold prediction agrees with."""
    agrees = np.ones(len(y), dtype=bool)
    if np.bincount(y, minlength=2).min() < _FOLDS:
        return agrees
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(X, y):
        fold = clone(gate).set_params(unknown_language="source")
        fold.fit(X[train], y[train], language=_take(languages, train))
        agrees[test] = fold.predict(X[test]) == y[test]
    return agrees
