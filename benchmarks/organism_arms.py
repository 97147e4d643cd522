"""What the bundled model refuses when it is steered, or steered in simpler ways.

    python benchmarks/organism_arms.py [--path FILE]

40 harmful and 40 harmless test prompts in each low-resource language, with one draw of shots.
Printed are the rates in per cent, and the difference in selectivity (harmful minus harmless
refused) from the gate with four shots. The 95 % intervals are about these languages: a paired
bootstrap over prompts, whose translations are drawn together. With FILE, a call goes on where the
last one ended.
"""

from __future__ import annotations

import argparse
import warnings
from copy import deepcopy
from typing import Any

import pandas as pd
import torch
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import ActivationAddition, DirectionalAblation, RandomDirection
from skgate.datasets import load_organism
from skgate.evaluation import compare, evaluate_refusal

OURS = "ours, 4 shots"
COMMON = {"generate_kwargs": {"max_new_tokens": 24, "do_sample": False}, "batch_tokens": 8192}
N_RANDOM = 5


class FixedRefusal:
    """The gate decides, and a fixed text replaces the replies to harmful prompts."""

    def __init__(self, observer: SteeringWrapper) -> None:
        self.observer = observer

    def generate(self, prompts: Any, language: Any = None, **options: Any) -> Any:
        """Reply as the model does, except to harmful prompts."""
        replies, decisions = self.observer.generate(prompts, language=language, **options)
        flagged = decisions["harmful"]
        fixed = [
            "Sorry, I cannot help with that." if one else reply
            for reply, one in zip(replies, flagged, strict=True)
        ]
        return fixed, decisions


def make_arms(prompts: pd.DataFrame, reader: ActivationTransformer) -> dict[str, Any]:
    """Fit the gate, calibrate it, and make a model for each arm."""
    train = prompts[prompts["split"] == "train"]
    sources, low = train[train["tier"] == "high"], train[train["tier"] == "low"]
    uncalibrated = SteeringWrapper(
        make_pipeline(reader, LatentGate(unknown_language="source")), **COMMON
    )
    uncalibrated.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    shots = low.groupby(["language", "harmful"]).sample(4, random_state=0)
    ours = deepcopy(uncalibrated)
    ours.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    print(f"strength {ours.strength_}, by language {ours.language_strengths_}")

    def along(wrapper: SteeringWrapper) -> SteeringWrapper:
        """Steer as strongly as ours, in each language."""
        wrapper.strength_ = ours.strength_
        wrapper.language_strengths_ = ours.language_strengths_
        return wrapper

    gate = ours.gate_
    observer = SteeringWrapper(gate, on_harmful=None, on_harmless=None, **COMMON)
    return {
        "unsteered": observer,
        "ours, 0 shots": uncalibrated,
        OURS: ours,
        f"{OURS}, without ablation": along(SteeringWrapper(gate, on_harmless=None, **COMMON)),
        "gate, 4 shots, and a fixed refusal": FixedRefusal(observer),
        "every prompt steered": along(ActivationAddition(gate, **COMMON)),
        "every prompt ablated": DirectionalAblation(gate, **COMMON),
        **{
            f"random direction {seed}": along(RandomDirection(gate, random_state=seed, **COMMON))
            for seed in range(N_RANDOM)
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Got language", UserWarning)  # not seen: meant with 0 shots
    organism = load_organism()
    prompts = organism.prompts
    reader = ActivationTransformer(
        organism.model, tokenizer=organism.tokenizer, layer=organism.steering["layer"]
    )
    arms = make_arms(prompts, reader)
    asked = prompts[(prompts["split"] == "test") & (prompts["tier"] == "low")]
    asked = asked.drop_duplicates(["language", "pair"])  # each has two wordings
    results = evaluate_refusal(arms, asked.assign(group=asked["pair"]), path=options.path)
    table = compare(results, OURS, resample_languages=False, random_state=0)
    print("| arm | harmful refused | harmless refused | selectivity | difference |")
    print("| --- | --- | --- | --- | --- |")
    for arm, row in (100 * table.xs("all", level="language")).iterrows():
        cells = [
            f"{row[name]:.0f} ({row[f'{name}_low']:.0f} to {row[f'{name}_high']:.0f})"
            for name in ("harmful_refused", "harmless_refused", "selectivity", "difference")
        ]
        print(f"| {arm} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
