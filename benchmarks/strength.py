"""The strength that fit chooses, against every strength of a grid.

    python benchmarks/strength.py                                    # the bundled model
    python benchmarks/strength.py MODEL --layers 13 15 --languages de ru

The gate is fitted on train prompts, calibrated with four shots per class, and steers validation
prompts at each strength. Printed are the selectivity (harmful minus harmless refused, mean over
languages) at each strength, and for the chosen one the difference from the best, with a 95 %
interval by a paired bootstrap over prompts. The best is the best on these prompts, which favours it
by chance. MODEL is the folder of a chat model; its prompts are
PolyRefuse's, and its replies are judged by LatentJudge.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
from judge_data import fit_on_english, load_activations, load_replies
from real_model_data import SOURCES, evenly_spaced
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import fetch_polyrefuse, load_organism
from skgate.evaluation import compare, evaluate_refusal
from skgate.steering._pipeline import find_fitted_parts

GRID = np.arange(0.25, 2.75, 0.25)
OPTIONS = {"max_new_tokens": 24, "do_sample": False}


def measure(wrapper: SteeringWrapper, prompts: pd.DataFrame, judge: Any, n_swept: int) -> None:
    """Print the selectivity at each strength, and how the chosen one compares with the best."""
    tried = sorted({*GRID.tolist(), wrapper.strength_})
    grid = {f"{strength:g}": strength for strength in tried}
    models = {
        name: SteeringWrapper(wrapper.gate_, strength=strength, batch_tokens=8192)
        for name, strength in grid.items()
    }
    results = evaluate_refusal(models, prompts, judge, batch_size=256, verbose=False, **OPTIONS)
    chosen = f"{wrapper.strength_:g}"
    options = {"resample_languages": False, "random_state": 0}
    rates = compare(results, next(iter(grid)), **options).xs("all", level="language")["selectivity"]
    best = rates.idxmax()
    table = compare(results, best, **options).xs("all", level="language")
    print((rates * 100).round(0).to_dict())
    row = table.loc[chosen] * 100
    print(
        f"chosen {chosen}, best {best}; difference {row['difference']:.1f} "
        f"({row['difference_low']:.1f} to {row['difference_high']:.1f}) points"
    )
    n_tokens = wrapper.strength_search_.attrs["n_tokens"]
    print(f"{n_tokens} tokens to choose it, {n_tokens / n_swept:.2f} of select_strength's\n")


def count_swept_tokens(wrapper: SteeringWrapper, sources: pd.DataFrame) -> int:
    """Count the tokens of select_strength: 13 strengths, as many prompts as the choice took."""
    n_prompts = wrapper.strength_search_.attrs["n_prompts"]
    reader = find_fitted_parts(wrapper).open_reader()
    some = reader.encode(sources["prompt"].sample(64, random_state=0).tolist())
    mean_length = np.mean([len(request.ids) for request in some])
    return int(13 * n_prompts * (mean_length + OPTIONS["max_new_tokens"]))


def load_prompts(model: str | None, languages: list[str]) -> tuple[pd.DataFrame, ...]:
    """Load the sources, the shots and the validation prompts."""
    if model is None:
        frame = load_organism().prompts
        languages = frame["language"].unique().tolist()
        sources = frame[(frame["split"] == "train") & (frame["tier"] == "high")]
    else:
        frame = fetch_polyrefuse(
            languages=sorted({*SOURCES, *languages}), split=["train", "val"]
        ).frame
        in_train = (frame["split"] == "train") & frame["language"].isin(SOURCES)
        sources = evenly_spaced(frame[in_train], 40)
    new = (frame["split"] == "train") & ~frame["language"].isin(sources["language"].unique())
    by = ["language", "harmful"]
    shots = frame[new & frame["language"].isin(languages)]
    shots = shots.groupby(by).sample(4, random_state=0) if len(shots) else shots
    val = frame[(frame["split"] == "val") & frame["language"].isin(languages)]
    val = evenly_spaced(val, 30)
    val = val.assign(group=val["row_id"] if "row_id" in val else np.arange(len(val)))
    return sources, shots, val[["prompt", "language", "harmful", "group"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--languages", nargs="+", default=["de", "ru"])
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    sources, shots, val = load_prompts(args.model, args.languages)
    judge = None
    if args.model:
        judge = fit_on_english(load_replies(), load_activations())
        judge.reader = ActivationTransformer(
            args.model, layer=15, position="last", dtype=args.dtype, store=False
        )
    for layer in args.layers:
        model = args.model or load_organism().path
        reader = ActivationTransformer(model, layer=layer, dtype=args.dtype)
        wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), batch_tokens=8192)
        wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
        if len(shots):
            wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
        print(f"layer {layer}")
        measure(wrapper, val, judge, count_swept_tokens(wrapper, sources))


if __name__ == "__main__":
    main()
