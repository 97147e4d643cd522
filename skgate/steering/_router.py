"""From the gate's scores to the edits of the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from skgate.gate._languages import check_known, warn_unseen
from skgate.model._fingerprint import digest
from skgate.model._stream_editing import Edit, Route

if TYPE_CHECKING:
    from skgate.gate._latent_gate import LatentGate

RouteOfBatch = Callable[[list[int]], Route]


class Router:
    """A gate's decision and edit for every prompt of one call.

    The gate is read when the router is made; what it learns later has no effect.

    Parameters
    ----------
    gate : LatentGate
        A fitted gate.
    strength : float
        Steering strength, in units of the gate's ``projection_gap_``.
    language_strengths : mapping of str to float
        The strength for prompts in some languages, given or detected.
    on_harmful, on_harmless : {"add", "ablate"} or None
        What to do with the prompts that the gate finds harmful, and with the others: add the
        strength along the direction, remove the component along it, or leave them as they are.
    languages : ndarray of str or None of shape (n_prompts,), or None
        The prompts' languages; None for those that are not known.
    n_prompts : int
        Number of prompts.

    Raises
    ------
    ValueError
        If the gate knows too little of a language (see ``unknown_language``), or an action is
        "add" and ``projection_gap_`` is not positive.
    """

    def __init__(
        self,
        gate: LatentGate,
        strength: float,
        language_strengths: Mapping[str, float],
        on_harmful: str | None,
        on_harmless: str | None,
        languages: npt.NDArray[Any] | None,
        n_prompts: int,
    ) -> None:
        self._book = gate.language_book_
        self._unknown_language = gate.unknown_language
        self._version = gate_version(gate)
        self._actions = on_harmless or "none", on_harmful or "none"
        unit = projection_unit(gate) if "add" in self._actions else 0.0
        self._amount = strength * unit
        self._amounts = {name: one * unit for name, one in language_strengths.items()}
        if languages is not None:
            check_known(self._book, languages, gate.unknown_language)
        self.begin(languages, n_prompts)

    def begin(self, languages: npt.NDArray[Any] | None, n_prompts: int) -> None:
        """Forget the decisions and expect other prompts, in languages that were given before.

        Parameters
        ----------
        languages : ndarray of str or None of shape (n_prompts,), or None
            The prompts' languages.
        n_prompts : int
            Number of prompts.
        """
        self._languages = languages
        self._found = np.full(n_prompts, None, dtype=object)
        self._scores = np.full(n_prompts, np.nan)

    def route(self, batch: list[int]) -> Route:
        """Make the route of a batch.

        Parameters
        ----------
        batch : list of int
            The places of the batch's prompts in the call.

        Returns
        -------
        route : callable
            See :func:`skgate.model._stream_editing.steer_block`.
        """

        def decide(rows: torch.Tensor) -> Edit:
            repeats = len(rows) // len(batch)  # beams and return sequences, below each other
            language = None if self._languages is None else self._languages[batch]
            activations = rows[::repeats].double().cpu().numpy()
            decisions = self._book.decide(
                activations, language, detect=self._unknown_language == "detect"
            )
            scores = decisions.scores
            if not np.isfinite(scores).all():
                raise RuntimeError(
                    "The gate read activations that are not finite, as after an overflow in "
                    "float16. Load the model in bfloat16 or float32."
                )
            self._scores[batch], self._found[batch] = scores, decisions.languages
            actions = self._choose(scores)
            amounts = [self._amounts.get(name, self._amount) for name in decisions.languages]
            edits = np.stack([amounts * (actions == "add"), 1.0 * (actions == "ablate")])
            return Edit(*torch.from_numpy(edits.repeat(repeats, axis=1)))

        return decide

    def warn_unseen(self) -> None:
        """Warn if many prompts are in languages that the gate does not know."""
        if self._book.detects(self._unknown_language):
            warn_unseen(self._book, self._languages, self._found)

    def decisions(self, index: pd.Index | None = None) -> pd.DataFrame:
        """Report the decisions: one row per prompt, numbered unless there is an index."""
        index = pd.RangeIndex(len(self._scores)) if index is None else index
        languages = pd.Series([name or None for name in self._found], index, dtype=object)
        return pd.DataFrame(
            {
                "language": languages,
                "language_known": languages.isin(self._book.languages),
                "harmful": self._scores > 0,
                "harm_score": self._scores,
                "action": self._choose(self._scores),
                "gate_version": self._version,
            },
            index=index,
        )

    def _choose(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
        """Choose the action of each prompt by its score."""
        return np.array(self._actions, dtype=object)[(scores > 0).astype(int)]


def always(add: float = 0.0, ablate: float = 0.0) -> RouteOfBatch:
    """Make routes that edit every row alike, whatever a gate would decide."""

    def decide(rows: torch.Tensor) -> Edit:
        return Edit(torch.full((len(rows),), add), torch.full((len(rows),), ablate))

    return lambda batch: decide


def projection_unit(gate: LatentGate) -> float:
    """Return the gate's projection gap, the unit of steering strength; it must be positive."""
    gap = gate.projection_gap_
    if not (np.isfinite(gap) and gap > 0):
        raise ValueError(
            f"Got projection_gap_={gap:.3g} in the gate, expected a positive number: harmful and "
            "harmless source prompts overlap along its direction, so there is no unit to measure "
            "the steering strength in. Choose a layer at which they are further apart."
        )
    return gap


def gate_version(gate: LatentGate) -> str:
    """Hash everything that determines a gate's decisions into 12 hexadecimal digits."""
    deciding = gate.language_book_.deciding(gate.unknown_language)
    return digest(gate.direction_.tobytes(), deciding)[:12]
