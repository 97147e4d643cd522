"""DirectionalAblation: remove the harm direction from every prompt, whatever the gate decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skgate._base import set_module
from skgate._docstrings import fill_docstring
from skgate.steering import SteeringWrapper


@set_module("skgate.baselines")
@fill_docstring
class DirectionalAblation(SteeringWrapper):
    """Remove the harm direction from the residual stream for every prompt.

    A model edited like this refuses less, both harmful and harmless prompts. It is the baseline for
    ``on_harmless="ablate"``: the difference to :class:`~skgate.SteeringWrapper` shows what it gains
    by letting the gate choose which prompts to ablate. The gate decides as usual and its decisions
    are reported, but they change nothing.

    Parameters
    ----------
    {steering_gate}
    {steering_run}

    Attributes
    ----------
    {steering_attributes}

    See Also
    --------
    skgate.SteeringWrapper : Ablates only the prompts that its gate finds harmless.
    ActivationAddition : The opposite edit.

    Notes
    -----
    Let ``v`` be the gate's ``direction_`` and ``h`` the output of the block at the gate's layer,
    the deepest one if it reads several. For every prompt and at every token::

        h <- h - (h . v) v

    Directional ablation in [1]_ does this at every layer. Here it is done at the gate's layer
    alone, where :class:`~skgate.SteeringWrapper` does it, so that the two differ in one thing.
    There is no strength.

    References
    ----------
    .. [1] Arditi, Obeso, Syed, Paleka, Panickssery, Gurnee, Nanda, "Refusal in Language Models Is
       Mediated by a Single Direction", arXiv:2406.11717, 2024.

    Examples
    --------
    The bundled model refuses most harmful prompts in its invented language qmb. Without the harm
    direction, it answers them:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.baselines import DirectionalAblation
    >>> from skgate.datasets import load_organism
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'").groupby(["language", "harmful"]).head(20)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> pipeline = make_pipeline(reader, LatentGate())
    >>> options = {"generate_kwargs": {"max_new_tokens": 40}}
    >>> ablated = DirectionalAblation(pipeline, **options)
    >>> ablated = ablated.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> val = organism.prompts.query("split == 'val' and language == 'qmb'")
    >>> few = val.groupby("harmful").head(8)
    >>> unsteered = SteeringWrapper(ablated.gate_, on_harmful=None, on_harmless=None, **options)
    >>> unsteered.score(few["prompt"], few["harmful"])
    0.75
    >>> ablated.score(few["prompt"], few["harmful"])
    0.125
    """

    def __init__(
        self,
        gate: Any,
        *,
        model: Any = None,
        tokenizer: Any = None,
        layer: int | None = None,
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
            strength=0.0,  # nothing is added
            on_harmful="ablate",
            on_harmless="ablate",
            judge=judge,
            generate_kwargs=generate_kwargs,
            batch_tokens=batch_tokens,
            verbose=verbose,
        )
