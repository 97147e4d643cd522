"""The organism, a wrapper around it, and no figure left open."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import load_organism


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def organism():
    return load_organism()


@pytest.fixture(scope="session")
def tier(organism):
    return dict(zip(organism.languages["language"], organism.languages["tier"], strict=True))


@pytest.fixture(scope="session")
def sources(organism):
    """Train prompts of the high-resource languages."""
    return some(organism, "train", 16, tiers=["high"])


@pytest.fixture(scope="session")
def wrapper(organism, sources):
    """Fitted without a shot."""
    reader = ActivationTransformer(
        organism.model, tokenizer=organism.tokenizer, layer=organism.steering["layer"]
    )
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate(unknown_language="error")),
        strength=organism.steering["strength"],
        generate_kwargs={"do_sample": False, "max_new_tokens": 24},
    )
    return wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])


@pytest.fixture
def prompts(organism):
    """Give prompts of a split, a few per language and class."""
    return lambda split, n, **which: some(organism, split, n, **which)


def some(organism, split, n, tiers=("high", "mid", "low"), languages=None):
    found = organism.prompts
    found = found[(found["split"] == split) & found["tier"].isin(tiers)]
    if languages is not None:
        found = found[found["language"].isin(languages)]
    return found.groupby(["language", "harmful"]).sample(n, random_state=0)
