"""The pipeline that a SteeringWrapper is built on, taken apart and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline

from skgate._frames import find_column, to_plain
from skgate._provenance import check_same_source, find_steered_place
from skgate._validation import check_language, check_prompts
from skgate.activations._reader import open_reader
from skgate.activations._transformer import ActivationTransformer
from skgate.gate._latent_gate import LatentGate
from skgate.steering._engine import EngineParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from skgate._messages import Prompt
    from skgate.activations._reader import PromptReader

_DIRECTION = "the gate's direction would not be one of the residual stream"


class BuildParams(Protocol):
    """The parameters of a SteeringWrapper that say what it is built on."""

    gate: Any
    model: Any
    tokenizer: Any
    layer: int | None


@dataclass(frozen=True)
class SteeringParts:
    """The parts of a pipeline from prompts to decisions.

    Attributes
    ----------
    pipeline : Pipeline
        From prompts (or rows with a prompt column and a language column) to decisions.
    transformer : ActivationTransformer
        The step that reads the activations.
    gate : LatentGate
        The last step.
    prompt_column : str, int or None
        Where ``X`` holds the prompts; None if ``X`` is the prompts.
    language_column : str, int or None
        Where ``X`` holds the languages; None if the gate reads them from no column.
    """

    pipeline: Pipeline
    transformer: ActivationTransformer
    gate: LatentGate
    prompt_column: str | int | None
    language_column: str | int | None

    @classmethod
    def from_pipeline(cls, estimator: Any) -> SteeringParts:
        """Find the parts of a pipeline.

        Parameters
        ----------
        estimator : Pipeline, or one in a FrozenEstimator
            An ActivationTransformer (alone or in a ColumnTransformer) directly followed by a
            LatentGate.

        Returns
        -------
        parts : SteeringParts
            The pipeline's own objects, not copied.

        Raises
        ------
        ValueError
            If the pipeline has other steps. The gate's direction would then not be one of the
            residual stream.
        """
        pipeline = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
        steps = [step for _, step in pipeline.steps if step not in (None, "passthrough")]
        gate = steps[-1].estimator if isinstance(steps[-1], FrozenEstimator) else steps[-1]
        reader, prompt_column, language_column = steps[0], None, None
        if isinstance(reader, ColumnTransformer):
            reader, prompt_column, language_column = _find_in_columns(reader)
        if (
            len(steps) != 2
            or not isinstance(reader, ActivationTransformer)
            or not isinstance(gate, LatentGate)
        ):
            raise ValueError(
                f"Got a Pipeline of {[type(step).__name__ for step in steps]} as gate, expected an "
                "ActivationTransformer (alone, or in a ColumnTransformer beside the language) "
                f"directly followed by a LatentGate: with another step between, {_DIRECTION}."
            )
        if gate.language_column is None:
            language_column = None
        elif language_column is None:
            language_column = gate.language_column
        return cls(pipeline, reader, gate, prompt_column, language_column)

    def split(
        self, X: Any, language: Any, *, missing: bool = False
    ) -> tuple[list[Prompt], npt.NDArray[np.object_] | None]:
        """Split what the pipeline is given into prompts and languages.

        Parameters
        ----------
        X : list, Series, array or DataFrame of length n_prompts
            Prompts, or a DataFrame with a column of prompts.
        language : str, array-like of str of shape (n_prompts,) or None
            Languages, unless they are a column of ``X``.
        missing : bool, default=False
            Whether the language of a prompt may be missing.

        Returns
        -------
        prompts : list of length n_prompts
            The prompts, checked.
        languages : ndarray of str of shape (n_prompts,) or None
            Their languages; None if they are not known.
        """
        if self.prompt_column is not None:
            kind, X = type(X).__name__, to_plain(X)
            if not isinstance(X, pd.DataFrame):
                raise ValueError(
                    f"Got prompts as a {kind}, expected a DataFrame with the column "
                    f"{self.prompt_column!r} that the gate's ColumnTransformer reads."
                )
            if self.prompt_column not in X.columns:
                raise ValueError(
                    f"Got prompts with the columns {list(X.columns[:5])}, expected the column "
                    f"{self.prompt_column!r} that the gate's ColumnTransformer reads."
                )
            if self.language_column is not None:
                language = _find_language(X, language, self.language_column)
            X = X[self.prompt_column]
        prompts = check_prompts(X, "prompts")
        if language is not None:
            language = check_language(language, len(prompts), missing=missing)
        return prompts, language

    def join(self, prompts: Sequence[Prompt], languages: Any) -> tuple[Any, Any]:
        """Make what the pipeline is given of prompts and languages: the reverse of :meth:`split`.

        Parameters
        ----------
        prompts : sequence of length n_prompts
            The prompts.
        languages : array-like of str of shape (n_prompts,) or None
            Their languages.

        Returns
        -------
        X : list or DataFrame of length n_prompts
            A frame if the pipeline reads columns.
        language : array-like of str or None
            None if they are a column of ``X``.
        """
        if self.prompt_column is None:
            return list(prompts), languages
        frame = pd.DataFrame({self.prompt_column: pd.Series(list(prompts), dtype=object)})
        if self.language_column is None:
            return frame, languages
        name = self.language_column
        if isinstance(name, str):
            name = name.rpartition("__")[2]  # (as a ColumnTransformer's input has it)
        frame[name] = languages
        return frame, None

    def activations(self, X: Any) -> Any:
        """Compute the rows that the gate reads: activations, with the language beside them or not.

        Parameters
        ----------
        X : list, column or frame of length n_prompts
            Prompts, as the pipeline takes them.

        Returns
        -------
        rows : ndarray or DataFrame of length n_prompts
            What the step before the gate returns.
        """
        return self.pipeline[:-1].transform(to_plain(X))

    def open_reader(self) -> PromptReader:
        """Load the model and resolve what is read from it.

        Returns
        -------
        reader : PromptReader
            Reads a model that can generate.

        Raises
        ------
        ValueError
            If the model has no language-model head.
        """
        reader = open_reader(self.transformer)
        model = reader.language_model.model
        if not getattr(model, "can_generate", lambda: False)():
            raise ValueError(
                f"Got a {type(model).__name__} as model, which can't generate, expected a causal "
                "language model such as AutoModelForCausalLM loads."
            )
        return reader

    def check_gate(self, reader: PromptReader, *, full: bool = False) -> npt.NDArray[np.float64]:
        """Check that the gate was fitted on what is read now, and find the direction to steer in.

        Parameters
        ----------
        reader : PromptReader
            The opened reader.
        full : bool, default=False
            Whether to read all weights of the model, rather than take a cheap look.

        Returns
        -------
        direction : ndarray of shape (d,)
            The part of the gate's direction for the deepest layer, at which the model is steered.

        Raises
        ------
        ValueError
            If the gate was fitted on other activations.
        """
        gate, n_places = self.gate, len(reader.places)
        width = n_places * reader.language_model.hidden_size
        if gate.n_features_in_ != width:
            raise ValueError(
                f"Got a gate fitted on {gate.n_features_in_} features, expected one fitted on the "
                f"{width} activations that its ActivationTransformer reads and nothing else: "
                f"{reader.language_model.hidden_size} at each of {n_places} places (layer and "
                "position)."
            )
        if gate.activation_source_ is not None:
            found = reader.source(reader.fingerprint(full=full))
            check_same_source(gate.activation_source_, found)
        return steered_part(gate, reader.places)


class SweepParams(BuildParams, EngineParams, Protocol):
    """The parameters of a SteeringWrapper that say what is generated, and who judges it."""

    judge: Any

    def _validate_params(self) -> None: ...

    def _direction(self, parts: SteeringParts, reader: PromptReader) -> npt.NDArray[np.float64]: ...


def assemble(params: BuildParams) -> BaseEstimator:
    """Make the pipeline that a SteeringWrapper's parameters describe.

    Parameters
    ----------
    params : SteeringWrapper
        Only its parameters ``gate``, ``model``, ``tokenizer`` and ``layer`` are used.

    Returns
    -------
    pipeline : Pipeline, or one in a FrozenEstimator
        Made of the same objects, not of copies.
    """
    given = {name: getattr(params, name) for name in ("model", "tokenizer", "layer")}
    gate = params.gate
    inner = gate.estimator if isinstance(gate, FrozenEstimator) else gate
    if isinstance(inner, Pipeline):
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"Got {name}={value!r} and a Pipeline as gate, expected {name}=None: the "
                    "Pipeline's ActivationTransformer has a value of its own."
                )
        return gate
    if not isinstance(inner, LatentGate):
        raise TypeError(
            f"Got a {type(inner).__name__} as gate, expected a Pipeline that ends in a LatentGate, "
            "or a LatentGate with model and layer."
        )
    for name in ("model", "layer"):
        if given[name] is None:
            raise ValueError(f"Got {name}=None and a bare LatentGate as gate, expected a {name}.")
    reader = ActivationTransformer(
        given["model"], tokenizer=given["tokenizer"], layer=given["layer"]
    )
    source = getattr(inner, "activation_source_", None)
    if source is not None:
        reader.set_params(position=source.position)
    return make_pipeline(reader, gate)


def find_parts(wrapper: BuildParams) -> SteeringParts:
    """Find the parts of a SteeringWrapper's ``gate_`` or, before ``fit``, of its ``gate``."""
    fitted = getattr(wrapper, "gate_", None)
    return SteeringParts.from_pipeline(assemble(wrapper) if fitted is None else fitted)


def find_fitted_parts(wrapper: BuildParams) -> SteeringParts:
    """Find the parts of a SteeringWrapper; raise a NotFittedError if its gate is not fitted."""
    parts = find_parts(wrapper)
    if not hasattr(parts.gate, "classes_"):
        raise NotFittedError(
            f"The gate of this {type(wrapper).__name__} is not fitted yet. Call 'fit', or pass a "
            "fitted gate."
        )
    return parts


def steered_part(
    gate: LatentGate, places: Sequence[tuple[int, str | int]]
) -> npt.NDArray[np.float64]:
    """Take the part of a gate's direction for the place at which the model is steered.

    Parameters
    ----------
    gate : LatentGate
        A fitted gate. Its direction is 0 at all other places.
    places : sequence of (int, str or int)
        The (layer, position) pairs that it was fitted on, in the order of their columns.

    Returns
    -------
    direction : ndarray of shape (d,)
        The unit direction in the residual stream of the steered layer.

    Raises
    ------
    ValueError
        If the gate's direction is not 0 at the other places, or is no unit vector.
    """
    d = len(gate.direction_) // len(places)
    start = d * find_steered_place(places)
    if gate.direction_[:start].any() or gate.direction_[start + d :].any():
        raise ValueError(
            f"Got a gate fitted on activations of {len(places)} places without knowing so, whose "
            "direction_ is not that of one place, expected one fitted on what the "
            "ActivationTransformer returned, or with fit(..., activation_source=)."
        )
    norm = np.linalg.norm(gate.direction_)
    if not np.isclose(norm, 1.0, rtol=1e-3):
        raise ValueError(
            f"Got a gate whose direction_ has the norm {norm:.4g}, expected 1: the strength says "
            "how far the model is steered. Set direction_ to the direction divided by its norm."
        )
    return gate.direction_[start : start + d]


def _find_in_columns(columns: ColumnTransformer) -> tuple[Any, Any, Any]:
    """Find a ColumnTransformer's ActivationTransformer, the column that it reads, and another.

    The other is the only one that is passed through: the languages, if anything. None otherwise.
    """
    transformers = getattr(columns, "transformers_", columns.transformers)
    found = [one for one in transformers if isinstance(one[1], ActivationTransformer)]
    if len(found) != 1:
        return columns, None, None
    name, reader, column = found[0]
    weight = (columns.transformer_weights or {}).get(name, 1)
    if weight != 1:
        raise ValueError(
            f"Got transformer_weights={{{name!r}: {weight!r}}} in the ColumnTransformer, expected "
            f"1: with scaled activations, {_DIRECTION}."
        )
    passed = [one[2] for one in columns.transformers if one[1] == "passthrough"]
    return reader, _single(column), _single(passed[0]) if len(passed) == 1 else None


def _single(column: Any) -> Any:
    """Take the column out of a list of one."""
    return column[0] if isinstance(column, list) and len(column) == 1 else column


def _find_language(X: pd.DataFrame, language: Any, column: str | int) -> Any:
    """Take the languages out of the column that the gate reads them from."""
    if language is not None:
        raise ValueError(
            f"Got language= and language_column={column!r} in the gate, expected only one of them."
        )
    own = find_column(X.columns, column)
    if own is None:
        raise ValueError(
            f"Got language_column={column!r} in the gate, expected one of the columns of prompts, "
            f"{list(X.columns[:5])}."
        )
    return X[own]
