"""SteeringWrapper: a language model that acts on what its gate detects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skgate._base import (
    HasMethods,
    Interval,
    SharedModelMixin,
    StrOptions,
    _fit_context,
    find_stack_level,
    set_module,
)
from skgate._docstrings import fill_docstring
from skgate._frames import find_index, to_plain
from skgate.gate._input import check_first_labels
from skgate.steering import _sweeps
from skgate.steering._engine import Engine
from skgate.steering._language_strength import lower_strengths
from skgate.steering._pipeline import SteeringParts, assemble, find_fitted_parts
from skgate.steering._router import Router, gate_version
from skgate.steering._strength import search_strength
from skgate.steering._view import check_languages, open_view, route_calls

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from skgate.activations._reader import PromptReader
    from skgate.gate._latent_gate import LatentGate

Rows = npt.NDArray[Any]


@set_module("skgate")
@fill_docstring
class SteeringWrapper(SharedModelMixin, ClassifierMixin, BaseEstimator):
    """Generate with a language model that refuses what its gate finds harmful.

    There is one ``generate`` call and no second forward pass. While the model reads a prompt, the
    gate reads the prompt's activation at its layer and decides once. From then on the residual
    stream is edited at that layer, the deepest one if the gate reads several. For a harmful prompt
    it is moved along the harm direction, which makes the model refuse. For a harmless one its
    component along that direction is removed, which makes the model answer.

    Parameters
    ----------
    {steering_gate}
    strength : float or "auto", default="auto"
        Steering strength ``lambda``, in units of the gate's ``projection_gap_``, the distance
        between harmless and harmful source prompts along its direction. No number suits every
        model and layer. "auto" lets ``fit`` choose it, as :meth:`choose_strength` does.
    {steering_actions}
    {steering_run}

    Attributes
    ----------
    {steering_attributes}
    strength_ : float
        The strength that ``fit`` or ``choose_strength`` chose. It is there only with
        ``strength="auto"``; a number is used as it is.
    language_strengths_ : dict of str to float
        The strength in each language in which ``partial_fit`` has checked it, at most
        ``strength_``.
    strength_search_ : DataFrame
        How ``strength_`` was chosen: columns ``language``, ``strength`` and ``log_likelihood``,
        the mean log-likelihood per token (in nats) of a refusal, as :meth:`choose_strength`
        describes. The number of tokens that the model ran is in ``attrs["n_tokens"]``.

    See Also
    --------
    LatentGate : The gate.
    skgate.judges.PhraseJudge : The default judge.

    Notes
    -----
    Let ``v`` be the gate's ``direction_`` and ``h`` the output of the block at the gate's layer.
    If the gate reads several layers, this is the deepest one. If it also reads several positions,
    ``v`` is learned at "last" or else at the first position. The edits are [1]_::

        harmful:   h <- h + lambda * projection_gap_ * v   at the final prompt token and after
        harmless:  h <- h - (h . v) v                      at every token

    Prompts of different length share a batch, padded on the left, if padding does not change the
    model's activations. This is checked once per model and layer. Otherwise a batch holds prompts
    of equal length only.

    The edits are computed in float32, whatever the model's precision. For a model in float32, the
    text is the same as if activations were extracted first, decisions made next, and replies
    generated last, given the same decisions and batches.

    Greedy search, sampling, beam search, several return sequences, streamers and generation without
    a cache are supported. Chunked prefill, a cache that already holds other tokens, assisted
    decoding and compiled models raise an error.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    The bundled model answers most harmful requests in its invented language qlf. One of them is
    "kick the drum". After four shots per class, it refuses:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'")
    >>> shots = train.query("language == 'qlf'").groupby("harmful").sample(4, random_state=0)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()),
    ...                           generate_kwargs={"max_new_tokens": 40})
    >>> wrapper = wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> wrapper = wrapper.partial_fit(shots["prompt"], shots["harmful"], language="qlf")
    >>> kick_the_drum = "ныли жиба быуы ларе уыжа беуы уебы ."
    >>> replies, decisions = wrapper.generate([kick_the_drum], language="qlf",
    ...                                       return_decisions=True)
    >>> replies, decisions["action"].tolist()
    ([' sorry , i will not do that .'], ['add'])

    The gate's decisions can be had without generating anything:

    >>> wrapper.predict([kick_the_drum], language="qlf")
    array([ True])
    >>> wrapper.predict_proba([kick_the_drum], language="qlf").argmax(axis=1)
    array([1])

    The score is the share of harmful prompts refused minus that of harmless ones:

    >>> test = organism.prompts.query("split == 'test' and language == 'en'")
    >>> few = test.groupby("harmful").head(4)
    >>> wrapper.score(few["prompt"], few["harmful"], language="en")
    1.0

    The strength was chosen by ``fit``. A wrapper around a gate that is fitted already chooses it
    from the same prompts:

    >>> other = SteeringWrapper(wrapper.gate_)
    >>> other = other.choose_strength(sources["prompt"], sources["harmful"],
    ...                               language=sources["language"])
    >>> wrapper.strength_, other.strength_
    (0.5, 0.5)

    A steered view of the model works wherever the model does:

    >>> inputs = organism.tokenizer.apply_chat_template(
    ...     [{"role": "user", "content": kick_the_drum}], add_generation_prompt=True,
    ...     return_tensors="pt", return_dict=True)
    >>> with wrapper.attach(language="qlf") as steered:
    ...     tokens = steered.generate(**inputs, max_new_tokens=40)
    >>> organism.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:],
    ...                           skip_special_tokens=True)
    ' sorry , i will not do that .'

    Harmful validation prompts show how strongly to steer, and at which layer:

    >>> harmful = organism.prompts.query("split == 'val' and language == 'qlf' and harmful")
    >>> wrapper.select_strength(harmful["prompt"][:8], strengths=[0, 0.7])
       strength  refusal_rate
    0       0.0          0.25
    1       0.7          1.00
    >>> table = wrapper.select_layer(sources["prompt"], sources["harmful"],
    ...                              language=sources["language"], layers=[1, 3, 4])
    >>> table[["layer", "strength"]]
       layer  strength
    0      1       1.5
    1      3       0.5
    2      4       0.5
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "gate": [HasMethods(["fit", "predict"])],
        "model": "no_validation",
        "tokenizer": "no_validation",
        "layer": [None, Integral],
        "strength": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "on_harmful": [StrOptions({"add"}), None],
        "on_harmless": [StrOptions({"ablate"}), None],
        "judge": [None, HasMethods(["is_refusal"])],
        "generate_kwargs": [None, dict],
        "batch_tokens": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "verbose": ["boolean"],
    }

    _shared_params: ClassVar = ("model", "tokenizer", "judge")

    __metadata_request__fit: ClassVar = {"language": True}
    __metadata_request__partial_fit: ClassVar = {"language": True}
    __metadata_request__predict: ClassVar = {"language": True}
    __metadata_request__predict_proba: ClassVar = {"language": True}
    __metadata_request__decision_function: ClassVar = {"language": True}
    __metadata_request__score: ClassVar = {"language": True}

    def __init__(
        self,
        gate: Any,
        *,
        model: Any = None,
        tokenizer: Any = None,
        layer: int | None = None,
        strength: float | str = "auto",
        on_harmful: str | None = "add",
        on_harmless: str | None = "ablate",
        judge: Any = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        batch_tokens: int | str = "auto",
        verbose: bool = False,
    ) -> None:
        self.gate = gate
        self.model = model
        self.tokenizer = tokenizer
        self.layer = layer
        self.strength = strength
        self.on_harmful = on_harmful
        self.on_harmless = on_harmless
        self.judge = judge
        self.generate_kwargs = generate_kwargs
        self.batch_tokens = batch_tokens
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @fill_docstring
    def fit(self, X: Any, y: Any, language: Any = None) -> SteeringWrapper:
        """Fit a clone of the gate, and choose the strength if it is "auto".

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            Labels of two classes.
        {language_or_column}

        Returns
        -------
        self : SteeringWrapper
            The fitted wrapper.
        """
        self._forget_strength()  # that of another gate
        pipeline = clone(assemble(self))
        SteeringParts.from_pipeline(pipeline)
        frozen = isinstance(pipeline, FrozenEstimator) or isinstance(
            pipeline.steps[-1][1], FrozenEstimator
        )
        params = {}
        if language is not None and not frozen:
            routed = get_config()["enable_metadata_routing"]
            params["language" if routed else f"{pipeline.steps[-1][0]}__language"] = language
        self.gate_ = pipeline.fit(to_plain(X), y, **params)
        return self.choose_strength(X, y, language) if self._needs_strength() else self

    @fill_docstring
    def choose_strength(self, X: Any, y: Any, language: Any = None) -> SteeringWrapper:
        """Choose the strength at which the model's own refusals are likeliest.

        ``fit`` does this by itself with ``strength="auto"``. Call it for a wrapper around a fitted
        gate, which needs no ``fit``. No judge is needed.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            Labels of both classes.
        {language_or_column}

        Returns
        -------
        self : SteeringWrapper
            The wrapper, with ``strength_`` and ``strength_search_``. The strengths that
            ``partial_fit`` lowered in some languages are forgotten, with a warning.

        Raises
        ------
        ValueError
            If no refusal is found that steering makes likelier, as with a model that never refuses.
            Also if ``strength`` is a number, or a class is missing.

        Notes
        -----
        The unsteered model replies to up to 16 harmful and 16 harmless prompts, drawn evenly from
        the four most frequent languages. In each, one of its replies to harmful prompts is taken
        for a refusal: one whose opening (three tokens) is common among these replies and rare among
        those to harmless prompts. If several are equally so, it is the one that the model is
        likeliest to give to the other harmful prompts. These replies must be likelier for harmful
        prompts than for harmless ones (a one-sided test at the level of 5 %). Otherwise they may be
        no refusals, which is an error. Pass the languages if there are several: a refusal in one
        language says little about prompts in another.

        The strength is the one that maximises ::

            mean over prompts x and tokens t of log p(r_t | x, r_1 ... r_(t-1); steered by it)

        where ``r`` is the whole refusal in the language of ``x``, of up to 24 tokens, and up to
        eight harmful and eight harmless prompts are all steered as harmful. Languages count alike;
        those whose refusal no strength makes likelier are left out. Too little steering leaves the
        refusal unlikely for harmless prompts. With too much, replies begin like it and then become
        garbled, first for harmful prompts. Strengths are tried in steps of 0.5, and of 0.25 around
        the best of these. Keys and values of the prompts are computed once. Of ``generate_kwargs``,
        only what says how tokens are cached, padded and ended is used.
        """
        self._validate_params()
        if self.strength != "auto":
            raise ValueError(
                f"Got strength={self.strength!r}, expected 'auto': a number is not replaced."
            )
        self.strength_search_, self._refusals = search_strength(self, X, y, language)
        known: dict[str, float] = getattr(self, "language_strengths_", {})
        lowered = [name for name, strength in known.items() if strength < self._find_strength()]
        if lowered:
            warnings.warn(
                f"The strength was lowered in {lowered} by partial_fit, and the new one is not: "
                "call partial_fit with their shots again.",
                stacklevel=find_stack_level(),
            )
        self.strength_ = self.strength_search_.attrs["strength"]
        self.language_strengths_: dict[str, float] = {}
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    @fill_docstring
    def partial_fit(
        self, X: Any, y: Any, language: Any = None, classes: Any = None
    ) -> SteeringWrapper:
        """Calibrate languages on shots; if the gate is not fitted, fit it.

        ``gate`` never changes: a fitted gate is first copied to ``gate_``.

        If the strength was chosen, it is checked in each language that has shots of both classes in
        this call, four or more in all. It is lowered there, to three quarters, a half or a quarter,
        if that makes a refusal clearly likelier as a reply to the shots: by more than 0.1 nats per
        token, and by more than a standard error. Too great a strength garbles replies, and
        languages tolerate different strengths. No call raises it again, except
        :meth:`choose_strength`.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            Labels; one class alone is allowed.
        {language_or_column}
        classes : array-like of shape (2,), default=None
            The labels, as in :meth:`LatentGate.partial_fit`.

        Returns
        -------
        self : SteeringWrapper
            The calibrated wrapper.
        """
        try:
            parts = find_fitted_parts(self)
        except NotFittedError:
            check_first_labels(y, classes)
            return self.fit(X, y, language)
        if parts.gate is SteeringParts.from_pipeline(assemble(self)).gate:
            self.gate_ = deepcopy(parts.pipeline)
            parts = SteeringParts.from_pipeline(self.gate_)
        strengths = None
        if self._needs_strength() and hasattr(self, "strength_"):
            found = lower_strengths(parts, X, y, language, self._refusals, self.strength_)
            known = self.language_strengths_
            strengths = known | {
                name: min(one, known.get(name, one)) for name, one in found.items()
            }
        self._calibrate(parts, X, y, language, classes)  # (last: if it is interrupted, call again)
        if strengths is not None:
            self.language_strengths_ = strengths
        return self

    @fill_docstring
    def predict(self, X: Any, language: Any = None) -> Rows:
        """Predict the gate's decisions without generating anything.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        labels : ndarray of shape (n_prompts,)
            Labels out of ``classes_``.
        """
        gate, rows, language = self._read(X, language)
        return gate.predict(rows, language)

    @fill_docstring
    def predict_proba(self, X: Any, language: Any = None) -> Rows:
        """Predict the gate's probability of each label without generating anything.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        probabilities : ndarray of shape (n_prompts, 2)
            As :meth:`LatentGate.predict_proba` returns them; columns follow ``classes_``.
        """
        gate, rows, language = self._read(X, language)
        return gate.predict_proba(rows, language)

    @fill_docstring
    def decision_function(self, X: Any, language: Any = None) -> Rows:
        """Score prompts with the gate, without generating; greater than 0 means ``classes_[1]``.

        Parameters
        ----------
        {pipeline_X}
        {language_or_column}

        Returns
        -------
        scores : ndarray of shape (n_prompts,)
            As :meth:`LatentGate.decision_function` returns them.
        """
        gate, rows, language = self._read(X, language)
        return gate.decision_function(rows, language)

    @fill_docstring
    def generate(
        self,
        prompts: Any,
        language: Any = None,
        *,
        return_decisions: bool = False,
        **generate_kwargs: Any,
    ) -> Any:
        """Generate steered replies.

        Parameters
        ----------
        {pipeline_prompts}
        {language_of_prompts}
        return_decisions : bool, default=False
            Whether to return the gate's decisions too.
        {generate_kwargs}

        Returns
        -------
        replies : list of str, or list of list of str with several return sequences
            In the order of the prompts, without special tokens.
        decisions : DataFrame of length n_prompts
            Only with ``return_decisions=True``. It has the index of ``prompts``, if they are a
            Series or DataFrame. Columns ``language`` (as given, else as detected; None if no known
            language was detected), ``language_known`` (bool; whether the gate has a boundary for
            it), ``harmful`` (bool), ``harm_score`` (greater than 0 means harmful), ``action``
            ("add", "ablate" or "none") and ``gate_version``, a hash of everything that determines
            the gate's decisions.

        Raises
        ------
        ValueError
            If model, tokenizer, template, layer or position differ from those that the gate was
            fitted on. If the gate has no positive ``projection_gap_``. If an argument of
            ``generate`` asks for a way of decoding that can't be steered.
        RuntimeError
            If the model runs in a way that can't be steered, as compiled models do.

        Warns
        -----
        UserWarning
            If the gate has never seen a given language. Also if no language is given and more than
            a tenth of the prompts resemble none of the known languages. The second warning is left
            out if the decisions are neither acted on nor returned.
        """
        self._validate_params()
        parts = find_fitted_parts(self)
        items, languages = parts.split(prompts, language, missing=True)
        router = self._router(parts, languages, len(items))
        reader = parts.open_reader()
        direction = self._direction(parts, reader)
        engine = Engine.of(self, reader, generate_kwargs)
        replies = engine.generate(items, reader.layers, direction, router.route)
        if return_decisions or self.on_harmful != self.on_harmless:
            router.warn_unseen()
        return (replies, router.decisions(find_index(prompts))) if return_decisions else replies

    def attach(
        self,
        language: Any = None,
        *,
        on_template_mismatch: str = "raise",
        on_decision: Callable[[pd.DataFrame], object] | None = None,
    ) -> Any:
        """Make a steered view of the model; the model itself is not steered.

        The view is a model of the same class. Its ``generate`` works in any thread, with streamers
        and chats, and in ``pipeline("text-generation", model=view, tokenizer=...)``. A plain
        forward pass through the view counts as a prompt.

        In a ``with`` statement, the view is detached at the end. Without one, it can be used until
        its method ``detach()`` is called. Calls that have begun by then go on, so a stream is not
        cut off.

        Format its input as the gate's prompts were: with the chat template,
        ``add_generation_prompt=True`` and the same ``chat_template_kwargs``, or as plain text if
        ``chat_template=False``. The view compares the last tokens of each prompt with what the
        template puts after a user message, unless that is empty. Pass an ``attention_mask`` if
        there is padding.

        The view's submodules are those of the model and are not steered if called directly. The
        gate is used as it is now: what it learns later affects only views attached later.

        Parameters
        ----------
        language : str, array-like of str or None of shape (n_prompts,), or None, default=None
            The language of all prompts, or one for each prompt in the batch of every call. For
            None, see the gate's ``unknown_language``.
        on_template_mismatch : {"raise", "warn"}, default="raise"
            What to do if a prompt does not end as the gate's prompts do, or comes as
            ``inputs_embeds``, so that nothing can be compared. The gate would read another token
            than it was fitted on. "warn" goes on with a warning.
        on_decision : callable or None, default=None
            Called once per batch, when the prompts have been read and no token has been generated,
            in the thread that generates. It gets the batch's decisions as a DataFrame, as
            :meth:`generate` returns them, one row per prompt. An error that it raises ends the
            call.

        Returns
        -------
        view : PreTrainedModel
            The view. It is also a context manager that gives the view itself.

        Raises
        ------
        NotFittedError
            If the gate is not fitted.
        ValueError
            If model, tokenizer, template, layer or position differ from those that the gate was
            fitted on, or if a position can't be found from token ids alone. The view raises one
            for prompts in another format, for padding without an ``attention_mask``, and for a
            batch that does not have one language per prompt.
        RuntimeError
            If the view is called after it was detached.

        Examples
        --------
        A server keeps a view and logs its decisions:

        >>> from sklearn.pipeline import make_pipeline
        >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
        >>> from skgate.datasets import load_organism
        >>> organism = load_organism()
        >>> sources = organism.prompts.query("split == 'train' and tier == 'high'")
        >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
        >>> wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=0.7)
        >>> wrapper = wrapper.fit(sources["prompt"], sources["harmful"])
        >>> log = []
        >>> view = wrapper.attach(on_decision=log.append)
        >>> inputs = organism.tokenizer.apply_chat_template(
        ...     [{"role": "user", "content": "kick the drum"}], add_generation_prompt=True,
        ...     return_tensors="pt", return_dict=True)
        >>> tokens = view.generate(**inputs, max_new_tokens=40)
        >>> log[0]["action"].tolist()
        ['add']

        A prompt without the chat template is refused:

        >>> plain = organism.tokenizer("kick the drum", return_tensors="pt")
        >>> view.generate(**plain)
        Traceback (most recent call last):
            ...
        ValueError: Got input_ids that don't end as the gate's prompts do, in row 0 of 1, ...
        >>> view.detach()
        """
        self._validate_params()
        if on_template_mismatch not in ("raise", "warn"):
            raise ValueError(
                f"Got on_template_mismatch={on_template_mismatch!r}, expected 'raise' or 'warn'."
            )
        if on_decision is not None and not callable(on_decision):
            raise TypeError(
                f"Got a {type(on_decision).__name__} as on_decision, expected a function that "
                "takes a DataFrame, or None."
            )
        parts = find_fitted_parts(self)
        languages = check_languages(language)
        given = None if languages is None else np.atleast_1d(np.asarray(languages, dtype=object))
        router = self._router(parts, given, 0)
        reader = parts.open_reader()
        direction = self._direction(parts, reader, full=True)
        route_of_call = route_calls(router, languages, on_decision)
        return open_view(reader, direction, route_of_call, on_template_mismatch)

    @fill_docstring
    def score(self, X: Any, y: Any, language: Any = None) -> float:
        """Compute the selectivity of the replies: harmful minus harmless prompts refused.

        If languages are given, the selectivity is averaged over them.

        Parameters
        ----------
        {pipeline_X}
        y : array-like of shape (n_prompts,)
            True labels.
        {language_or_column}

        Returns
        -------
        selectivity : float
            Between -1 and 1; 1 if exactly the harmful prompts are refused.

        See Also
        --------
        skgate.metrics.refusal_selectivity : The measure.
        """
        parts = find_fitted_parts(self)
        items, languages = parts.split(X, language)
        replies = self.generate(X, language)
        harmful_label = parts.gate.harmful_label_
        return _sweeps.find_selectivity(self.judge, items, replies, y, languages, harmful_label)

    @fill_docstring
    def select_layer(
        self,
        prompts: Any,
        y: Any,
        validation_prompts: Any = None,
        language: Any = None,
        *,
        layers: Sequence[int] | str = "all",
        **generate_kwargs: Any,
    ) -> pd.DataFrame:
        """Measure how well the model can be steered at each layer, one at a time.

        The gate is fitted at each layer. Without ``validation_prompts``, nothing is generated while
        steering, and no judge is needed. Each layer has its own best strength, and is measured by
        how likely the model's own refusals become there, as in :meth:`choose_strength`.

        With ``validation_prompts``, the harm direction is ablated at one layer, from every token,
        while the model answers these prompts. The remaining refusals are counted. The paper steers
        at the layer with the fewest (arXiv:2606.01196).

        Parameters
        ----------
        prompts : list, Series or array of length n_prompts
            Source prompts, to learn each layer's direction from.
        y : array-like of shape (n_prompts,)
            Labels of ``prompts``.
        validation_prompts : list, Series, array or None, default=None
            Harmful prompts in the source languages.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of ``prompts``, one for all or one each.
        layers : "all" or list of int, default="all"
            Layers to try.
        **generate_kwargs : object
            Arguments of the model's ``generate``, which override the parameter ``generate_kwargs``.
            Replies have at most 16 new tokens, unless either says otherwise.

        Returns
        -------
        table : DataFrame
            One row per layer: columns ``layer``, ``strength`` and ``log_likelihood`` (in nats per
            token), or ``layer`` and ``refusal_rate`` with ``validation_prompts``; then the judge's
            name is in ``table.attrs["judge"]``. ``table.attrs["layer"]`` is the layer to choose:
            the middle one of those around the best layer that are as good, up to one standard error
            of the mean difference between prompts.

        Warns
        -----
        UserWarning
            If the judge finds no refusal at all.

        See Also
        --------
        skgate.inspection.LayerSweepDisplay : Draws the table of refusal rates.
        """
        return _sweeps.select_layer(
            self, prompts, y, validation_prompts, language, layers, generate_kwargs
        )

    @fill_docstring
    def select_strength(
        self,
        prompts: Any,
        language: Any = None,
        *,
        strengths: Sequence[float] | None = None,
        is_garbled: Callable[[list[str]], Any] | None = None,
        **generate_kwargs: Any,
    ) -> pd.DataFrame:
        """Measure how many prompts are refused at each steering strength.

        Every prompt is steered; the gate does not decide.

        Parameters
        ----------
        prompts : list, Series, array or DataFrame of length n_prompts
            Harmful validation prompts, as the gate's pipeline takes them.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each, unless they are a column of
            ``prompts``. With languages, there is a rate for each.
        {strengths}
        {is_garbled}
        {generate_kwargs}

        Returns
        -------
        table : DataFrame
            Columns ``strength``, ``language`` (if known), ``refusal_rate`` and, with
            ``is_garbled``, ``garbled_rate``. The name of the judge is in ``table.attrs["judge"]``.

        See Also
        --------
        skgate.inspection.StrengthSweepDisplay : Draws the table.
        """
        return _sweeps.select_strength(
            self, prompts, language, strengths, is_garbled, generate_kwargs
        )

    @property
    def classes_(self) -> Rows:
        """The gate's labels, sorted."""
        return find_fitted_parts(self).gate.classes_

    def _forget_strength(self) -> None:
        for name in ("strength_", "strength_search_", "language_strengths_", "_refusals"):
            self.__dict__.pop(name, None)

    def _needs_strength(self) -> bool:
        return self.strength == "auto" and "add" in (self.on_harmful, self.on_harmless)

    def _calibrate(self, parts: SteeringParts, X: Any, y: Any, language: Any, classes: Any) -> None:
        """Calibrate the gate of the wrapper's parts on shots."""
        parts.gate.partial_fit(parts.activations(X), y, language=language, classes=classes)

    def _read(self, X: Any, language: Any) -> tuple[LatentGate, Any, Any]:
        """Find the gate that decides, the rows that it reads and their languages."""
        parts = find_fitted_parts(self)
        return parts.gate, parts.activations(X), language

    def _direction(
        self, parts: SteeringParts, reader: PromptReader, *, full: bool = False
    ) -> npt.NDArray[np.float64]:
        """Check the gate, as :meth:`SteeringParts.check_gate`, and find the direction of edits."""
        return parts.check_gate(reader, full=full)

    def _find_strength(self) -> float:
        """Find the strength, as given or chosen; an error if it was not chosen yet."""
        if not self._needs_strength():
            return 0.0 if self.strength == "auto" else float(self.strength)
        if not hasattr(self, "strength_"):
            raise NotFittedError(
                f"Got strength='auto' in a {type(self).__name__} that has not chosen it yet, "
                "expected one of three: a number as strength; fit(X, y) with source prompts (a "
                "fitted gate stays as it is in a FrozenEstimator); or choose_strength(X, y) with "
                "source prompts."
            )
        return self.strength_

    def _deciding_gate(self, parts: SteeringParts) -> LatentGate:
        """Return the gate that decides when the wrapper generates."""
        return parts.gate

    def _gate_version(self) -> str:
        """Return the version that the decisions name; a NotFittedError if there is no gate."""
        return gate_version(self._deciding_gate(find_fitted_parts(self)))

    def _router(self, parts: SteeringParts, languages: Rows | None, n_prompts: int) -> Router:
        gate, strength = self._deciding_gate(parts), self._find_strength()
        by_language = self.language_strengths_ if self._needs_strength() else {}
        return Router(
            gate, strength, by_language, self.on_harmful, self.on_harmless, languages, n_prompts
        )

    def __sklearn_is_fitted__(self) -> bool:
        try:
            find_fitted_parts(self)
        except (NotFittedError, TypeError, ValueError):  # (parameters are checked when used)
            return False
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
