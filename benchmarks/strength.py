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
from pathlib import Path
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
CHOSEN = "chosen"
COMMON = {"generate_kwargs": {"max_new_tokens": 24, "do_sample": False}, "batch_tokens": 2048}


def answer(
    wrapper: SteeringWrapper, prompts: pd.DataFrame, judge: Any, path: Path | None
) -> pd.DataFrame:
    """Answer at each strength; prompts found harmless are ablated, and answered only once."""
    models = {
        f"{strength:g}": SteeringWrapper(wrapper.gate_, strength=float(strength), **COMMON)
        for strength in GRID
    }
    models[CHOSEN] = wrapper
    flagged = wrapper.predict(prompts["prompt"], language=prompts["language"]) == 1
    found = []
    for name, part, asked in (
        ("harmful", prompts[flagged], models),
        ("harmless", prompts[~flagged], {CHOSEN: wrapper}),
    ):
        file = None if path is None else path.with_name(f"{path.name}-{name}.jsonl")
        found.append(evaluate_refusal(asked, part, judge, path=file))
    steered, others = found
    return pd.concat([steered, *(others.assign(model=name) for name in models)])


def measure(
    wrapper: SteeringWrapper, prompts: pd.DataFrame, judge: Any, n_swept: int, path: Path | None
) -> None:
    """Print the selectivity at each strength, and how the chosen one compares with the best."""
    results = answer(wrapper, prompts, judge, path)
    options = {"resample_languages": False, "random_state": 0}
    rates = compare(results, CHOSEN, **options).xs("all", level="language")["selectivity"]
    best = rates.drop(CHOSEN).idxmax()
    table = compare(results, best, **options).xs("all", level="language")
    print((rates * 100).round(0).to_dict())
    row = table.loc[CHOSEN] * 100
    low, high = row["difference_low"], row["difference_high"]
    print(f"chosen {wrapper.strength_:g} {wrapper.language_strengths_}, best {best}")
    print(f"difference {row['difference']:.1f} ({low:.1f} to {high:.1f}) points")
    n_tokens = wrapper.strength_search_.attrs["n_tokens"]
    print(f"{n_tokens} tokens to choose it, {n_tokens / n_swept:.2f} of select_strength's\n")


def count_swept_tokens(wrapper: SteeringWrapper, sources: pd.DataFrame) -> int:
    """Count the tokens of select_strength: 13 strengths, as many prompts as the choice took."""
    n_prompts = wrapper.strength_search_.attrs["n_prompts"]
    reader = find_fitted_parts(wrapper).open_reader()
    some = reader.encode(sources["prompt"].sample(64, random_state=0).tolist())
    mean_length = np.mean([len(request.ids) for request in some])
    return int(13 * n_prompts * (mean_length + COMMON["generate_kwargs"]["max_new_tokens"]))


def load_prompts(model: str | None, languages: list[str], n: int) -> tuple[pd.DataFrame, ...]:
    """Load the sources, the shots and n validation prompts of each language and class."""
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
    val = evenly_spaced(val, n)
    numbers = np.arange(len(val))
    val = val.assign(id=numbers, group=val["pair" if model is None else "row_id"])
    return sources, shots, val[["id", "prompt", "language", "harmful", "group"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--languages", nargs="+", default=["de", "ru"])
    parser.add_argument("--n", type=int, default=30, help="prompts per language and class")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--folder", type=Path, help="keep the verdicts there, and go on from them")
    args = parser.parse_args()
    sources, shots, val = load_prompts(args.model, args.languages, args.n)
    judge = None
    if args.model:
        judge = fit_on_english(load_replies(), load_activations())
        judge.reader = ActivationTransformer(
            args.model, layer=15, position="last", dtype=args.dtype, store=False
        )
    for layer in args.layers:
        model = args.model or load_organism().path
        reader = ActivationTransformer(model, layer=layer, dtype=args.dtype)
        wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), **COMMON)
        wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
        if len(shots):
            wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
        print(f"layer {layer}")
        path = args.folder and args.folder / f"strength-layer{layer}"
        measure(wrapper, val, judge, count_swept_tokens(wrapper, sources), path)


if __name__ == "__main__":
    main()
