"""ActivationAddition: move every prompt along the harm direction, whatever the gate decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate.steering import SteeringWrapper


@set_module("skgate.baselines")
@fill_docstring
class ActivationAddition(SteeringWrapper):
    """Move the residual stream along the harm direction for every prompt.

    A model edited like this refuses more, both harmful and harmless prompts. It is the baseline for
    ``on_harmful="add"``: the difference to :class:`~skgate.SteeringWrapper` shows what it gains by
    letting the gate choose which prompts to steer. The gate decides as usual and its decisions are
    reported, but they change nothing.

    Parameters
    ----------
    {steering_gate}
    {steering_strength}
    {steering_run}

    Attributes
    ----------
    {steering_attributes}

    See Also
    --------
    skgate.SteeringWrapper : Moves only the prompts that its gate finds harmful.
    DirectionalAblation : The opposite edit.

    Notes
    -----
    Let ``v`` be the gate's ``direction_`` and ``h`` the output of the block at the gate's layer,
    the deepest one if it reads several. For every prompt, at its final token and after::

        h <- h + strength * projection_gap_ * v

    In [1]_, the difference of the class means is added, unscaled, at every token of one layer. In
    [2]_, it is the difference between two prompts. Here, the edit is the one that
    :class:`~skgate.SteeringWrapper` makes for harmful prompts. So the two differ only in that no
    gate decides here.

    References
    ----------
    .. [1] Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee, Nanda, "Refusal in Language Models Is
       Mediated by a Single Direction", arXiv:2406.11717, 2024.
    .. [2] Turner, Thiergart, Leech, Udell, Vazquez, Mini, MacDiarmid, "Steering Language Models
       With Activation Engineering", arXiv:2308.10248, 2023.

    Examples
    --------
    A harmless prompt in English is refused, although the gate finds it harmless:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate
    >>> from skgate.baselines import ActivationAddition
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'").groupby(["language", "harmful"]).head(20)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate())
    >>> added = ActivationAddition(pipeline, strength=0.7, generate_kwargs={"max_new_tokens": 40})
    >>> added = added.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> replies, decisions = added.generate(["can you bite the trap today for me ?"],
    ...                                     language="en", return_decisions=True)
    >>> replies
    [' sorry , i can not help with that .']
    >>> decisions[["harmful", "action"]]
       harmful action
    0    False    add
    """

    def __init__(
        self,
        gate: Any,
        *,
        model: Any = None,
        tokenizer: Any = None,
        layer: int | None = None,
        strength: float | str = "auto",
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
            on_harmful="add",
            on_harmless="add",
            judge=judge,
            generate_kwargs=generate_kwargs,
            batch_tokens=batch_tokens,
            verbose=verbose,
        )
