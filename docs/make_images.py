"""Draw each Display from the model organism: ``python docs/make_images.py``."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import load_organism
from skgate.inspection import (
    BudgetCurveDisplay,
    LayerSweepDisplay,
    ProjectionDisplay,
    RefusalGapDisplay,
    SeparabilityDisplay,
    StrengthSweepDisplay,
)
from skgate.judges import PhraseJudge

IMAGES = Path(__file__).with_name("images")


def draw_all() -> Iterator[tuple[str, Any]]:
    """Give a file's name and a display at a time."""
    organism = load_organism()
    tier = dict(zip(organism.languages["language"], organism.languages["tier"], strict=True))
    split = dict(iter(organism.prompts.groupby("split")))
    train = split["train"]
    sources, pool = train[train["tier"] == "high"], train[train["tier"] != "high"]
    test = split["test"].groupby(["language", "harmful"]).sample(40, random_state=0)
    of_sources = {"language": sources["language"]}

    reader = ActivationTransformer(
        organism.model,
        tokenizer=organism.tokenizer,
        layer=organism.steering["layer"],
        cache_layers="all",
    )
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate()),
        generate_kwargs={"do_sample": False, "max_new_tokens": 40},
        batch_tokens=8192,
    )
    wrapper.fit(sources["prompt"], sources["harmful"], **of_sources)
    uncalibrated = deepcopy(wrapper)
    uncalibrated.gate_[-1].set_params(unknown_language="source")
    shots = pool.groupby(["language", "harmful"]).sample(4, random_state=0)
    two = shots.groupby(["language", "harmful"]).head(2)  # four would move the probe, too
    with_two = deepcopy(wrapper)
    with_two.partial_fit(two["prompt"], two["harmful"], language=two["language"])
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])

    yield (
        "projection",
        ProjectionDisplay.from_estimator(
            with_two, test["prompt"], test["harmful"], language=test["language"], tier=tier
        ),
    )
    observer = SteeringWrapper(
        wrapper.gate_, on_harmful=None, on_harmless=None, generate_kwargs=wrapper.generate_kwargs
    )
    replies = {
        "as it is": observer.generate(test["prompt"]),
        "steered, no examples": uncalibrated.generate(test["prompt"]),
        "steered, 4 per class": wrapper.generate(test["prompt"], language=test["language"]),
    }
    judged = {name: PhraseJudge().is_refusal(texts) for name, texts in replies.items()}
    refused = judged["as it is"]
    # The front page's picture: narrow enough to be read on a phone.
    _, ax = plt.subplots(figsize=(7.6, 3.6), layout="constrained")
    gap = RefusalGapDisplay.from_predictions(
        test["harmful"], judged, language=test["language"], tier=tier, ax=ax
    )
    yield "refusal_gap", gap

    yield (
        "separability",
        SeparabilityDisplay.from_estimator(
            ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer="all"),
            sources["prompt"],
            sources["harmful"],
            test["prompt"],
            test["harmful"],
            language_test=test["language"],
            refused=refused,
            tier=tier,
        ),
    )

    val = split["val"][split["val"]["harmful"]].groupby("language").head(16)
    high = val[val["tier"] == "high"]
    yield (
        "layer_sweep",
        LayerSweepDisplay.from_estimator(
            wrapper, sources["prompt"], sources["harmful"], high["prompt"], **of_sources
        ),
    )

    def is_garbled(replies: list[str]) -> np.ndarray:
        """Tell what neither refuses nor restates the request."""
        return ~PhraseJudge().is_refusal(replies) & ~restates(organism, val, replies)

    yield (
        "strength_sweep",
        StrengthSweepDisplay.from_estimator(
            wrapper,
            val["prompt"],
            language=val["language"],
            strengths=np.arange(0, 1.55, 0.1),
            is_garbled=is_garbled,
            tier=tier,
        ),
    )

    X_pool, X_test = reader.transform(pool["prompt"]), reader.transform(split["test"]["prompt"])
    other = (split["test"]["tier"] != "high").to_numpy()
    gates = {
        name: LatentGate(calibration=name).fit(
            reader.transform(sources["prompt"]), sources["harmful"], **of_sources
        )
        for name in ("shrinkage", "refit", "threshold")
    }
    yield (
        "budget_curve",
        BudgetCurveDisplay.from_estimator(
            gates,
            X_pool,
            pool["harmful"],
            X_test[other],
            split["test"]["harmful"][other],
            language_pool=pool["language"],
            language_test=split["test"]["language"][other],
            n_draws=20,
            random_state=0,
            tier=tier,
        ),
    )


def restates(organism: Any, prompts: pd.DataFrame, replies: list[str]) -> np.ndarray:
    """Tell which replies say the verb and the object that were asked about."""
    return np.array(
        [
            {organism.words.at[word, row.language] for word in (row.verb, row.object)}
            <= set(reply.split())
            for row, reply in zip(prompts.itertuples(), replies, strict=True)
        ]
    )


if __name__ == "__main__":
    plt.switch_backend("Agg")
    IMAGES.mkdir(exist_ok=True)
    for name, display in draw_all():
        path = IMAGES / f"{name}.png"
        # Twice the pixels that docs/conf.py gives it on the page, for screens that show them.
        display.figure_.savefig(path, dpi=200, pil_kwargs={"optimize": True})
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
