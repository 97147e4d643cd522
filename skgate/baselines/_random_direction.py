"""RandomDirection: the gate decides, and the model is steered along a random direction."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from skgate._base import Interval, set_module
from skgate._docstrings import fill_docstring
from skgate.steering import SteeringWrapper

if TYPE_CHECKING:
    from skgate.activations._reader import PromptReader
    from skgate.steering._pipeline import SteeringParts


@set_module("skgate.baselines")
@fill_docstring
class RandomDirection(SteeringWrapper):
    """Steer by the gate's decisions, but along a random direction.

    It is the control for the harm direction: the same prompts get edits of the same kind and
    amount. If replies change as much as with :class:`~skgate.SteeringWrapper`, the change is due
    to the size of the edits rather than to their direction.

    Parameters
    ----------
    {steering_gate}
    {steering_strength}
    {steering_actions}
    random_state : int, default=0
        Seed of the direction, from 0. Compare several seeds: single random directions differ.
    {steering_run}

    Attributes
    ----------
    {steering_attributes}

    See Also
    --------
    skgate.SteeringWrapper : Steers along the gate's own direction.

    Notes
    -----
    Let ``u = z / |z|`` with independent standard normal numbers ``z``, which makes every direction
    equally likely, and ``h`` the output of the block at the gate's layer, the deepest one if it
    reads several. The edits are those of :class:`~skgate.SteeringWrapper` with ``u`` for the
    gate's ``direction_``. The amount is still in units of the gate's ``projection_gap_``::

        harmful:   h <- h + strength * projection_gap_ * u   at the final prompt token and after
        harmless:  h <- h - (h . u) u                        at every token

    The added vectors have the same norm as along the harm direction. With ``strength="auto"``, the
    strength is chosen along the harm direction, so that both move the model by the same amount. The
    removed vectors are shorter, because activations have less of a random direction in them. The
    gate itself reads and decides as usual. Random directions are the control of [1]_.

    References
    ----------
    .. [1] Aziz, Hanif, Koto, "Low-Resource Safety Failures Are Action Failures, Not
       Representation Failures", arXiv:2606.01196, 2026.

    Examples
    --------
    The bundled model answers "kick the drum" in its invented language qlf. Steered along the harm
    direction, it refuses (see :class:`~skgate.SteeringWrapper`). Along random ones, it depends:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate
    >>> from skgate.baselines import RandomDirection
    >>> from skgate.datasets import load_organism
    >>> from skgate.judges import PhraseJudge
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'").groupby(["language", "harmful"]).head(20)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate())
    >>> random = RandomDirection(pipeline, strength=0.7, generate_kwargs={"max_new_tokens": 40})
    >>> random = random.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> shots = train.query("language == 'qlf'").groupby("harmful").sample(4, random_state=0)
    >>> random = random.partial_fit(shots["prompt"], shots["harmful"], language="qlf")
    >>> kick_the_drum = "ныли жиба быуы ларе уыжа беуы уебы ."
    >>> for seed in range(3):
    ...     replies = random.set_params(random_state=seed).generate([kick_the_drum], "qlf")
    ...     print(PhraseJudge().is_refusal(replies))
    [ True]
    [False]
    [ True]
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SteeringWrapper._parameter_constraints,  # noqa: SLF001  (scikit-learn's convention)
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }

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
        random_state: int = 0,
        judge: Any = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        batch_tokens: int | str = "auto",
        verbose: bool = False,
    ) -> None:
        super().__init__(
            gate,
            model=model,
            tokenizer=tokenizer,
            layer=layer,
            strength=strength,
            on_harmful=on_harmful,
            on_harmless=on_harmless,
            judge=judge,
            generate_kwargs=generate_kwargs,
            batch_tokens=batch_tokens,
            verbose=verbose,
        )
        self.random_state = random_state

    def _direction(
        self, parts: SteeringParts, reader: PromptReader, *, full: bool = False
    ) -> npt.NDArray[np.float64]:
        harm = super()._direction(parts, reader, full=full)
        drawn = np.random.default_rng(self.random_state).standard_normal(len(harm))
        return drawn / np.linalg.norm(drawn)
