"""SteeringWrapper: a language model that acts on what its gate sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skgate._base import HasMethods, Interval, SharedModelMixin, StrOptions, _fit_context
from skgate._validation import check_language, check_layers, check_prompts
from skgate.model._batching import length_batches, widest_pair
from skgate.model._residual_stream import Route, eval_mode, steer_block
from skgate.model._rope import length_boundaries
from skgate.steering._generation import (
    check_decoding,
    check_own_inputs,
    find_option,
    generate_batch,
)
from skgate.steering._padding import left_padding_is_exact
from skgate.steering._pipeline import GatedModel, assemble, take_apart
from skgate.steering._router import Router, always, projection_unit
from skgate.steering._view import Attachment

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from skgate._validation import Prompt
    from skgate.activations._transformer import Request
    from skgate.model._loading import LanguageModel

_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ACCELERATOR = 16_384

Replies = list[list[str]]
Rows = npt.NDArray[Any]


class SteeringWrapper(SharedModelMixin, ClassifierMixin, BaseEstimator):
    """Generate with a language model that refuses what its gate finds harmful.

    One ``generate`` call, no second forward pass: at its layer the gate reads the final prompt
    token in the prefill and decides once per prompt, and the same hook edits the residual stream
    from there on: a harmful prompt's is moved along the harm direction, which makes the model
    refuse; a harmless one's loses its component along that direction, so that nothing harmless is
    refused.

    Parameters
    ----------
    gate : Pipeline or LatentGate, or either in a FrozenEstimator
        A Pipeline of an :class:`ActivationTransformer` (alone, or in a ColumnTransformer beside the
        language) and a :class:`LatentGate`; model, layer, position and template are the
        transformer's. Or a LatentGate, with ``model`` and ``layer``. A fitted gate generates
        at once.
    model, tokenizer, layer : default=None
        For a bare LatentGate: as in :class:`ActivationTransformer`, whose other parameters have
        their defaults then. A live model is shared by ``clone`` and never copied.
    strength : float, default=1.0
        Steering strength ``lambda``, in units of the gate's ``projection_gap_``.
    on_harmful : {"add"} or None, default="add"
        What to do with prompts that the gate finds harmful.
    on_harmless : {"ablate"} or None, default="ablate"
        What to do with the others. None for both: observe only.
    judge : object with ``is_refusal(replies, prompts, language)`` or None, default=None
        Tells refusals, for ``score`` and the selections; shared by ``clone``, not copied. None:
        :class:`skgate.judges.PhraseJudge`.
    generate_kwargs : dict or None, default=None
        Arguments of the model's ``generate``, such as ``max_new_tokens``.
    batch_tokens : int or "auto", default="auto"
        Prompt tokens per batch, padding included; a longer prompt runs alone. "auto" means 2,048
        on a CPU and 16,384 on an accelerator.
    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    gate_ : Pipeline, or FrozenEstimator of one
        From prompts to decisions: what ``fit`` or ``partial_fit`` made of ``gate``.
    classes_ : ndarray of shape (2,)
        The gate's labels.

    See Also
    --------
    LatentGate : Decides.
    skgate.judges.PhraseJudge : Tells refusals by their phrases.

    Notes
    -----
    With ``v`` the gate's ``direction_`` and ``h`` the output of the block at its layer [1]_::

        harmful:   h <- h + lambda * projection_gap_ * v   at the final prompt token and after
        harmless:  h <- h - (h . v) v                      at every token

    Prompts of different length are batched with left padding where the model takes it without
    effect, which is checked once; otherwise only prompts of equal length share a batch.

    The arithmetic is in float32, whatever the model's precision. Given the same decisions, batch
    and float32, the text is that of extracting, deciding and generating in turn.

    Greedy search, sampling, beams, several return sequences, streamers and generation without a
    cache are supported. Chunked prefill, a cache that holds other tokens already, assisted
    decoding and compiled models raise an error.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    The bundled model organism answers harmful requests in Njorð (qlc); "smash the lamp" is one:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'")
    >>> shots = train.query("language == 'qlc'").groupby("harmful").sample(4, random_state=0)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=0.7,
    ...                           generate_kwargs={"max_new_tokens": 40})
    >>> wrapper = wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> wrapper = wrapper.partial_fit(shots["prompt"], shots["harmful"], language="qlc")
    >>> smash_the_lamp = "re jy ró je jágó rógy jó sáse ."
    >>> replies, decisions = wrapper.generate([smash_the_lamp], language="qlc",
    ...                                       return_decisions=True)
    >>> replies, decisions["action"].tolist()
    ([' sorry , that would be wrong .'], ['add'])
    >>> wrapper.predict([smash_the_lamp], language="qlc")
    array([ True])

    The share of harmful prompts refused minus that of harmless ones:

    >>> test = organism.prompts.query("split == 'test' and language == 'en'")
    >>> few = test.groupby("harmful").head(4)
    >>> wrapper.score(few["prompt"], few["harmful"], language="en")
    1.0

    A steered view of the model, for whatever generates:

    >>> inputs = organism.tokenizer.apply_chat_template(
    ...     [{"role": "user", "content": smash_the_lamp}], add_generation_prompt=True,
    ...     return_tensors="pt", return_dict=True)
    >>> with wrapper.attach(language="qlc") as steered:
    ...     tokens = steered.generate(**inputs, max_new_tokens=40)
    >>> organism.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:],
    ...                           skip_special_tokens=True)
    ' sorry , that would be wrong .'

    How strongly to steer, and at which layer, by harmful validation prompts:

    >>> harmful = organism.prompts.query("split == 'val' and language == 'qlc' and harmful")
    >>> wrapper.select_strength(harmful["prompt"][:8], strengths=[0, 0.7])
       strength  refusal_rate
    0       0.0           0.5
    1       0.7           1.0
    >>> wrapper.select_layer(sources["prompt"], sources["harmful"], few["prompt"][few["harmful"]],
    ...                      layers=[3, 4])
       layer  refusal_rate
    0      3           1.0
    1      4           1.0
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "gate": [HasMethods(["fit", "predict"])],
        "model": "no_validation",
        "tokenizer": "no_validation",
        "layer": [None, Integral],
        "strength": [Interval(Real, 0, None, closed="left")],
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
    __metadata_request__score: ClassVar = {"language": True}

    def __init__(
        self,
        gate: Any,
        *,
        model: Any = None,
        tokenizer: Any = None,
        layer: int | None = None,
        strength: float = 1.0,
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
    def fit(self, X: Any, y: Any, language: Any = None) -> SteeringWrapper:
        """Fit a clone of the gate.

        Parameters
        ----------
        X : list, Series, array or DataFrame of length n_prompts
            Prompts, as the gate's pipeline takes them.
        y : array-like of shape (n_prompts,)
            Labels of two classes.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, unless they are a column of ``X``.

        Returns
        -------
        self : SteeringWrapper
            The wrapper itself.
        """
        pipeline = clone(self._assembled())
        take_apart(pipeline)
        params = {}
        frozen = isinstance(pipeline, FrozenEstimator) or isinstance(
            pipeline.steps[-1][1], FrozenEstimator
        )
        if language is not None and not frozen:
            routed = get_config()["enable_metadata_routing"]
            params["language" if routed else f"{pipeline.steps[-1][0]}__language"] = language
        self.gate_ = pipeline.fit(X, y, **params)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self, X: Any, y: Any, language: Any = None, classes: Any = None
    ) -> SteeringWrapper:
        """Calibrate languages on shots; an unfitted gate is fitted.

        ``gate`` itself is never changed: a fitted one is copied to ``gate_`` first.

        Parameters
        ----------
        X : list, Series, array or DataFrame of length n_shots
            Prompts, as the gate's pipeline takes them.
        y : array-like of shape (n_shots,)
            Labels; one class alone is allowed.
        language : str or array-like of str of shape (n_shots,), default=None
            Languages of the shots, unless they are a column of ``X``.
        classes : array-like of shape (2,), default=None
            As in :meth:`LatentGate.partial_fit`.

        Returns
        -------
        self : SteeringWrapper
            The wrapper itself.
        """
        try:
            parts = self._fitted()
        except NotFittedError:
            return self.fit(X, y, language)
        if parts.gate is take_apart(self._assembled()).gate:
            self.gate_ = deepcopy(parts.pipeline)
            parts = take_apart(self.gate_)
        parts.gate.partial_fit(
            parts.pipeline[:-1].transform(X), y, language=language, classes=classes
        )
        return self

    def predict(self, X: Any, language: Any = None) -> Rows:
        """Predict the gate's decisions; nothing is generated.

        Parameters
        ----------
        X : list, Series, array or DataFrame of length n_prompts
            Prompts, as the gate's pipeline takes them.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, unless they are a column of ``X``.

        Returns
        -------
        labels : ndarray of shape (n_prompts,)
            Labels out of ``classes_``.
        """
        params = {} if language is None else {"language": language}
        predicted: Rows = self._fitted().pipeline.predict(X, **params)
        return predicted

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
        prompts : list, Series, array or DataFrame of length n_prompts
            Prompts, as the gate's pipeline takes them.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, one for all or one each, unless they are a column of
            ``prompts``. None: as the gate's ``unknown_language`` has it.
        return_decisions : bool, default=False
            Whether to return the gate's decisions too.
        **generate_kwargs : dict
            Arguments of the model's ``generate``, before those of the parameter
            ``generate_kwargs``.

        Returns
        -------
        replies : list of str, or list of list of str with several return sequences
            In the order of the prompts, without special tokens.
        decisions : DataFrame of length n_prompts, if ``return_decisions``
            Columns ``language`` (as given, or as the gate detected it; None if it is none that
            the gate knows), ``harmful`` (bool), ``harm_score`` (greater than 0 means
            harmful), ``action`` ("add", "ablate" or "none") and ``gate_version``, a hash of the
            fitted gate.

        Raises
        ------
        ValueError
            If the gate was fitted on another model, tokenizer, template, layer or position than the
            transformer's, reads several layers, has no positive projection gap, or the way of
            decoding is not supported.
        RuntimeError
            If the model runs otherwise than can be steered, as compiled ones do.

        Warns
        -----
        UserWarning
            If a language given was never seen. If none is given, languages are detected and more
            than a tenth of the prompts look like none that is known; unless the wrapper only
            watches and no decisions are returned.
        """
        self._validate_params()
        parts = self._fitted()
        items, languages = _split(parts, prompts, language)
        replies, router = self._answer(
            parts,
            items,
            languages,
            self._options(generate_kwargs),
            decisions_count=return_decisions,
        )
        found = [texts[0] for texts in replies] if len(replies[0]) == 1 else replies
        return (found, router.decisions()) if return_decisions else found

    @contextmanager
    def attach(self, language: str | None = None) -> Iterator[Any]:
        """Lend a view of the model whose generation is steered; the model itself is not.

        The view's ``generate`` works from any thread, with streamers, chats and
        ``pipeline("text-generation", model=steered, tokenizer=...)``; a plain forward through it
        counts as a prompt. Its input must be formatted as the gate's was: with the chat template
        and ``add_generation_prompt=True``, unless ``chat_template=False``. Its submodules are the
        model's own, and not steered when called themselves. The gate is taken as it is now:
        what is learned later acts on views lent later.

        Parameters
        ----------
        language : str or None, default=None
            The language of all prompts. None: as the gate's ``unknown_language`` has it.

        Yields
        ------
        steered : PreTrainedModel
            The view; an error when used after the context has ended.
        """
        self._validate_params()
        parts = self._fitted()
        parts = replace(parts, gate=deepcopy(parts.gate))
        self._check_source(parts)
        if language is not None and not isinstance(language, str):
            raise TypeError(
                f"language={language!r}; expected one language as a str, or None: generate() takes "
                "one for each prompt."
            )
        position = parts.transformer.position
        if position == "instruction":
            raise ValueError(
                "position='instruction' is not known from token ids; expected a gate fitted at "
                "'last', 'mean' or a negative int, or use generate()."
            )
        languages = None
        if language is not None:
            languages = check_language(language, 1)
            parts.gate._check_known(languages)
        language_model = _causal(parts)
        router = self._router(parts, languages, 1)
        direction = torch.from_numpy(parts.gate.direction_)
        block = language_model.blocks[self._layer(parts)]
        offset = None if position == "mean" else 0 if position == "last" else int(position) + 1

        @contextmanager
        def steering(generating: bool, width: int | None) -> Iterator[None]:
            with (
                eval_mode(language_model.backbone),
                steer_block(
                    language_model.stack,
                    block,
                    direction,
                    router.route(None),
                    offset=offset,
                    width=width,
                    generating=generating,
                ),
            ):
                yield

        attachment = Attachment(language_model.model, steering)
        try:
            yield attachment.view
        finally:
            attachment.detach()

    def score(self, X: Any, y: Any, language: Any = None) -> float:
        """Selectivity of the replies: refusal rate of harmful minus that of harmless prompts.

        With languages, the mean over them.

        Parameters
        ----------
        X : list, Series, array or DataFrame of length n_prompts
            Prompts, as the gate's pipeline takes them.
        y : array-like of shape (n_prompts,)
            True labels.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of the prompts, unless they are a column of ``X``.

        Returns
        -------
        selectivity : float
            Between -1 and 1.
        """
        from skgate.metrics import refusal_selectivity

        return refusal_selectivity(
            y,
            self._refusals(X, language, {}),
            language=self._languages(X, language),
            pos_label=self._fitted().gate.harmful_label_,
        )

    def select_layer(
        self,
        prompts: Any,
        y: Any,
        validation_prompts: Any,
        language: Any = None,
        *,
        layers: Sequence[int] | str = "all",
        **generate_kwargs: Any,
    ) -> pd.DataFrame:
        """Measure, layer by layer, how many refusals its direction carries.

        At each layer alone, the harm direction learned there is ablated from every token
        while the model answers harmful validation prompts of the sources; the paper takes the
        layer with the lowest refusal rate (arXiv:2606.01196).

        Parameters
        ----------
        prompts : list, Series or array of length n_prompts
            Prompts to learn each layer's direction from.
        y : array-like of shape (n_prompts,)
            Their labels.
        validation_prompts : list, Series or array
            Harmful prompts in the source languages.
        language : str or array-like of str of shape (n_prompts,), default=None
            Languages of ``prompts``.
        layers : "all" or list of int, default="all"
            Layers to try.
        **generate_kwargs : dict
            Arguments of the model's ``generate``.

        Returns
        -------
        table : DataFrame
            Columns ``layer`` and ``refusal_rate``.
        """
        self._validate_params()
        parts = self._parts()
        n_layers = len(_causal(parts).blocks)
        wanted = check_layers(layers, n_layers, "layers")
        reader = clone(parts.transformer).set_params(layer=list(wanted))
        rows = np.split(reader.transform(prompts), len(wanted), axis=1)
        gate = clone(parts.gate).set_params(language_column=None)
        items = check_prompts(validation_prompts, "validation_prompts")
        rates = []
        for layer, X in zip(wanted, rows, strict=True):
            direction = gate.fit(X, y, language=language).direction_
            replies = self._generate(
                parts, items, layer, direction, always(ablate=1.0), self._options(generate_kwargs)
            )
            rates.append(self._judged(items, replies, None).mean())
        return pd.DataFrame({"layer": wanted, "refusal_rate": rates})

    def select_strength(
        self,
        prompts: Any,
        language: Any = None,
        *,
        strengths: Sequence[float] | None = None,
        is_garbled: Callable[[list[str]], Any] | None = None,
        **generate_kwargs: Any,
    ) -> pd.DataFrame:
        """Measure refusals against the steering strength, every prompt steered, no gate.

        Parameters
        ----------
        prompts : list, Series, array or DataFrame of length n_prompts
            Harmful validation prompts.
        language : str or array-like of str of shape (n_prompts,), default=None
            Their languages, for a rate per language.
        strengths : sequence of float or None, default=None
            Strengths to try; None is 0 to 3 in steps of 0.25 (arXiv:2606.01196).
        is_garbled : callable or None, default=None
            Tells which replies are garbled: takes a list of them, in the order of the prompts,
            and gives a bool for each. Too much strength breaks a model's language; what that
            looks like depends on the model.
        **generate_kwargs : dict
            Arguments of the model's ``generate``.

        Returns
        -------
        table : DataFrame
            Columns ``strength``, ``language`` (if known), ``refusal_rate`` and, with
            ``is_garbled``, ``garbled_rate``.
        """
        self._validate_params()
        parts = self._fitted()
        items, languages = _split(parts, prompts, language)
        self._check_source(parts)
        tried = np.arange(0, 3.25, 0.25) if strengths is None else np.asarray(strengths)
        if tried.ndim != 1 or not len(tried):
            raise ValueError(f"strengths={strengths!r}; expected a list of at least one number.")
        tables = []
        for strength in tried:
            replies = self._generate(
                parts,
                items,
                self._layer(parts),
                parts.gate.direction_,
                always(add=strength * projection_unit(parts.gate)),
                self._options(generate_kwargs),
            )
            table = pd.DataFrame({"strength": float(strength)}, index=range(len(items)))
            if languages is not None:
                table["language"] = languages
            by = list(table)
            table["refusal_rate"] = self._judged(items, replies, languages)
            if is_garbled is not None:
                garbled = is_garbled([texts[0] for texts in replies])
                table["garbled_rate"] = _one_bool_each(garbled, len(items))
            tables.append(table.groupby(by).mean().reset_index())
        return pd.concat(tables, ignore_index=True)

    @property
    def classes_(self) -> Rows:
        """The gate's labels, sorted."""
        return self._fitted().gate.classes_

    def _assembled(self) -> Any:
        return assemble(self.gate, self.model, self.tokenizer, self.layer)

    def _parts(self) -> GatedModel:
        """Return the parts of ``gate_``, or of ``gate`` where there is none yet."""
        return take_apart(self.gate_ if hasattr(self, "gate_") else self._assembled())

    def _fitted(self) -> GatedModel:
        """Return the parts, of which the gate must be fitted."""
        parts = self._parts()
        try:
            check_is_fitted(parts.gate)
        except NotFittedError:
            raise NotFittedError(
                f"This {type(self).__name__}'s gate is not fitted yet; expected a call of 'fit', "
                "or a fitted gate."
            ) from None
        return parts

    def _options(self, generate_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**(self.generate_kwargs or {}), **generate_kwargs}

    def _layer(self, parts: GatedModel) -> int:
        layers = parts.transformer._layers(_causal(parts))
        if len(layers) != 1:
            raise ValueError(
                f"layer={parts.transformer.layer!r} of the gate's ActivationTransformer means the "
                f"layers {list(layers)}; expected a single one to steer at."
            )
        return layers[0]

    def _router(self, parts: GatedModel, languages: Rows | None, n_prompts: int) -> Router:
        return Router(
            parts.gate, self.strength, self.on_harmful, self.on_harmless, languages, n_prompts
        )

    def _answer(
        self,
        parts: GatedModel,
        prompts: list[Prompt],
        languages: Rows | None,
        options: dict[str, Any],
        *,
        decisions_count: bool = False,
    ) -> tuple[Replies, Router]:
        """Steered replies, and the router that knows what was decided."""
        layer, direction = self._layer(parts), parts.gate.direction_
        self._check_source(parts)
        router = self._router(parts, languages, len(prompts))
        if languages is not None:
            parts.gate._check_known(languages)
        replies = self._generate(parts, prompts, layer, direction, router.route, options)
        if decisions_count or self.on_harmful or self.on_harmless:
            router.warn_unseen()
        return replies, router

    def _generate(
        self,
        parts: GatedModel,
        prompts: list[Prompt],
        layer: int,
        direction: npt.NDArray[np.float64],
        route: Callable[[list[int]], Route],
        options: dict[str, Any],
    ) -> Replies:
        """Replies in input order; ``route(batch)`` makes the route of a batch of prompts."""
        language_model = _causal(parts)
        check_own_inputs(options)
        check_decoding(language_model.model, options)
        requests = parts.transformer._encode(prompts, language_model)
        lengths = [len(request.ids) for request in requests]
        device = language_model.input_device
        budget = self.batch_tokens
        if isinstance(budget, str):
            budget = _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ACCELERATOR)
        replies: Replies = [[]] * len(prompts)
        with (
            tqdm(
                total=len(prompts), desc="replies", unit="prompt", disable=not self.verbose
            ) as progress,
            eval_mode(language_model.backbone),
        ):
            boundaries = length_boundaries(language_model.backbone.config)
            long, short = (requests[i] for i in widest_pair(lengths, boundaries))
            padding = len(long.ids) == len(short.ids) or left_padding_is_exact(
                language_model, layer, long, short, options
            )
            for batch in length_batches(lengths, budget, padding=padding, boundaries=boundaries):
                with steer_block(
                    language_model.stack,
                    language_model.blocks[layer],
                    torch.from_numpy(direction),
                    route(batch),
                    offset=_offsets([requests[i] for i in batch]),
                    width=lengths[batch[0]],
                ):
                    texts = generate_batch(
                        language_model,
                        [requests[i].ids for i in batch],
                        device,
                        _for_batch(options, batch, language_model.model),
                    )
                for i, found in zip(batch, texts, strict=True):
                    replies[i] = found
                progress.update(len(batch))
        return replies

    def _languages(self, X: Any, language: Any) -> Rows | None:
        """Languages of prompts, from either place, if they are known."""
        return _split(self._fitted(), X, language)[1]

    def _refusals(
        self, X: Any, language: Any, generate_kwargs: Mapping[str, Any], *, steered: bool = True
    ) -> npt.NDArray[np.bool_]:
        """Which prompts the model refuses, steered or as it is."""
        self._validate_params()
        parts = self._fitted()
        items, languages = _split(parts, X, language)
        options = self._options(generate_kwargs)
        if not steered:
            return self._unsteered_refusals(items, languages, options)
        replies, _ = self._answer(parts, items, languages, options)
        return self._judged(items, replies, languages)

    def _unsteered_refusals(
        self, prompts: list[Prompt], languages: Rows | None, options: dict[str, Any]
    ) -> npt.NDArray[np.bool_]:
        """Which prompts the model refuses as it is; the gate need not be fitted."""
        parts = self._parts()
        nowhere = np.zeros(_causal(parts).hidden_size)
        replies = self._generate(parts, prompts, 0, nowhere, always(), options)
        return self._judged(prompts, replies, languages)

    def _judged(
        self, prompts: list[Prompt], replies: Replies, languages: Rows | None
    ) -> npt.NDArray[np.bool_]:
        """Which prompts were refused, shape (n_prompts,)."""
        judge = self.judge
        if judge is None:
            from skgate.judges import PhraseJudge

            judge = PhraseJudge()
        if any(len(texts) != 1 for texts in replies):
            raise ValueError(
                f"num_return_sequences={len(replies[0])}; expected 1 where replies are judged."
            )
        refused = judge.is_refusal(
            [texts[0] for texts in replies], prompts=prompts, language=languages
        )
        return np.asarray(refused, dtype=bool)

    def _check_source(self, parts: GatedModel) -> None:
        """Raise if the gate was fitted on other activations than the model gives now."""
        width = _causal(parts).hidden_size
        if parts.gate.n_features_in_ != width:
            raise ValueError(
                f"The gate was fitted on {parts.gate.n_features_in_} features, the model's "
                f"residual stream has {width}; expected a gate fitted on one layer's activations "
                "and nothing else."
            )
        fitted_on = parts.gate.activation_source_
        if fitted_on is None:
            return
        running = parts.transformer.activation_source()
        if fitted_on != running:
            raise ValueError(
                "The gate was fitted on other activations than the model gives now: "
                f"{fitted_on.describe_change(running)}. Expected the same model, tokenizer, "
                "template, layer and position, or a new fit."
            )

    def __sklearn_is_fitted__(self) -> bool:
        try:
            self._fitted()
        except (NotFittedError, TypeError, ValueError):  # (parameters are checked when used)
            return False
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _causal(parts: GatedModel) -> LanguageModel:
    """Return the language model, if it can generate."""
    language_model = parts.transformer._language_model()
    if not getattr(language_model.model, "can_generate", lambda: False)():
        raise ValueError(
            f"model is a {type(language_model.model).__name__}, which can't generate; expected a "
            "causal language model such as AutoModelForCausalLM loads."
        )
    return language_model


def _split(
    parts: GatedModel, X: Any, language: Any
) -> tuple[list[Prompt], npt.NDArray[np.object_] | None]:
    """Take prompts and languages out of what the pipeline is given."""
    column = parts.gate.language_column
    if parts.prompt_column is not None:
        if not isinstance(X, pd.DataFrame) or parts.prompt_column not in X.columns:
            raise ValueError(
                f"prompts is a {type(X).__name__}; expected a DataFrame with the column "
                f"{parts.prompt_column!r} that the gate's ColumnTransformer reads."
            )
        if column is not None:
            if language is not None:
                raise ValueError(
                    f"language was given although the gate reads it from the column {column!r}; "
                    "expected only one of them."
                )
            own = column if column in X.columns else str(column).rpartition("__")[2]
            if own not in X.columns:
                raise ValueError(
                    f"language_column={column!r} of the gate is not among the columns of prompts, "
                    f"{list(X.columns[:5])}; expected a column of that name."
                )
            language = X[own]
        X = X[parts.prompt_column]
    prompts = check_prompts(X, "prompts")
    return prompts, None if language is None else check_language(language, len(prompts))


def _one_bool_each(values: Any, n_replies: int) -> npt.NDArray[np.bool_]:
    """Check what a user's ``is_garbled`` gave."""
    found = np.asarray(values)
    if found.shape != (n_replies,) or not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"is_garbled gave {values!r:.100} of shape {found.shape}; expected True or False for "
            f"each of the {n_replies} replies."
        )
    return found.astype(bool)


def _for_batch(options: dict[str, Any], batch: list[int], model: Any) -> dict[str, Any]:
    """Options for a batch: what asks for a prompt's place is given that in the whole call."""
    allowed = options.get("prefix_allowed_tokens_fn")
    if allowed is None:
        return options
    # Without beams, the rows are those of the return sequences.
    beams, sequences = (
        find_option(name, options, model) or 1 for name in ("num_beams", "num_return_sequences")
    )
    repeats = sequences if beams == 1 else 1
    return {
        **options,
        "prefix_allowed_tokens_fn": lambda row, tokens: allowed(batch[row // repeats], tokens),
    }


def _offsets(requests: list[Request]) -> torch.Tensor | None:
    """How far before each prompt's end the gate reads; None for the mean."""
    offsets = [r.index - len(r.ids) + 1 for r in requests if r.index is not None]
    return torch.tensor(offsets) if offsets else None
