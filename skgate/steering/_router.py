"""From the gate's scores to the edits of the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from skgate.model._fingerprint import digest
from skgate.model._residual_stream import Edit, Route

if TYPE_CHECKING:
    from skgate.gate._latent_gate import LatentGate


class Router:
    """A gate's decision and edit for every prompt of one call.

    Parameters
    ----------
    gate : LatentGate
        A fitted gate.
    strength : float
        In units of its ``projection_gap_``.
    on_harmful, on_harmless : str or None
        As in :class:`skgate.SteeringWrapper`.
    languages : ndarray of str of shape (n_prompts,) or None
        The prompts' languages.
    n_prompts : int
        Number of prompts.
    """

    def __init__(
        self,
        gate: LatentGate,
        strength: float,
        on_harmful: str | None,
        on_harmless: str | None,
        languages: npt.NDArray[Any] | None,
        n_prompts: int,
    ) -> None:
        self._gate = gate
        self._add = strength * projection_unit(gate) if on_harmful else 0.0
        self._ablate = 1.0 if on_harmless else 0.0
        self._actions = on_harmless or "none", on_harmful or "none"
        self._languages = languages
        self._found = np.full(n_prompts, None, dtype=object) if languages is None else languages
        self._scores = np.full(n_prompts, np.nan)

    def route(self, batch: list[int] | None) -> Route:
        """Make the route of a batch.

        Parameters
        ----------
        batch : list of int or None
            The places of the batch's prompts in the call. None: every row of the batch is a
            prompt, in the one language (if any), and no decision is noted down.

        Returns
        -------
        route : callable
            See :func:`skgate.model._residual_stream.steer_block`.
        """

        def decide(rows: torch.Tensor) -> Edit:
            n_prompts = len(rows) if batch is None else len(batch)
            repeats = len(rows) // n_prompts  # beams and return sequences, below each other
            language = self._languages
            if language is not None:
                language = np.repeat(language, n_prompts) if batch is None else language[batch]
            activations = rows[::repeats].double().cpu().numpy()
            scores = self._gate._score(activations, language)
            if not np.isfinite(scores).all():
                raise RuntimeError(
                    "The activations that the gate reads are not finite (an overflow in float16?), "
                    "so that nothing can be decided; expected a model in bfloat16 or float32."
                )
            if batch is not None:
                self._scores[batch] = scores
                if language is None and self._gate._detects():
                    self._found[batch] = self._gate._detected_languages(activations)
            harmful = torch.from_numpy(scores > 0).repeat_interleave(repeats)
            return Edit(add=harmful * self._add, ablate=~harmful * self._ablate)

        return decide

    def warn_unseen(self) -> None:
        """Warn if many prompts were in languages that the gate can't tell."""
        if self._languages is None and self._gate._detects():
            self._gate._warn_unseen(self._found, stacklevel=5)

    def decisions(self) -> pd.DataFrame:
        """Report what was decided: one row per prompt."""
        harmful = self._scores > 0
        return pd.DataFrame(
            {
                "language": [name or None for name in self._found],
                "harmful": harmful,
                "harm_score": self._scores,
                "action": np.array(self._actions, dtype=object)[harmful.astype(int)],
                "gate_version": gate_version(self._gate),
            },
            index=range(len(harmful)),
        )


def always(add: float = 0.0, ablate: float = 0.0) -> Callable[[list[int]], Route]:
    """Make routes that edit every row alike, whatever a gate would say."""

    def decide(rows: torch.Tensor) -> Edit:
        return Edit(torch.full((len(rows),), add), torch.full((len(rows),), ablate))

    return lambda batch: decide


def projection_unit(gate: LatentGate) -> float:
    """Return the gate's projection gap, the unit of steering strength; it must be positive."""
    gap = gate.projection_gap_
    if not (np.isfinite(gap) and gap > 0):
        raise ValueError(
            f"projection_gap_={gap:.3g} of the gate is not positive: harmful and harmless source "
            "prompts overlap along its direction, so that no steering strength follows from it. "
            "Expected a layer at which they are told apart."
        )
    return gap


def gate_version(gate: LatentGate) -> str:
    """Hash what decides about a gate's answers into 12 hexadecimal digits."""
    return digest(gate.direction_.tobytes(), gate._deciding())[:12]
