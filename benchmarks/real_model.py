"""What a real chat model refuses, unsteered, steered, and steered in simpler ways.

    python benchmarks/real_model.py MODEL FOLDER [--swahili FILE]

MODEL is the folder of a chat model (the stored figures are of Qwen2.5-Coder-1.5B-Instruct in
float32 on two CPU cores, about 80 minutes in all). Layer and strength are chosen on PolyRefuse's
train prompts. Then 30 harmful and 30 harmless test prompts in six languages are answered, and 30
harmful ones of MultiJail in five. Everything that has run is kept in FOLDER; a call goes on where
the last one ended, even if it was killed. FOLDER must be outside of the repository, because it
holds replies to harmful prompts. ``real_model.csv`` in it, without texts, is the result.

A prompt's reply depends on its own edit only (up to rounding). So each prompt is answered once
under each edit, and the arms that differ by their decisions alone take their verdicts from these.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from judge_data import fit_on_english, load_activations, load_replies
from real_model_data import load_elsewhere, load_shots, load_sources, load_swahili, load_test
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import (
    ActivationAddition,
    DirectionalAblation,
    RandomDirection,
    SharedThreshold,
    TargetDirection,
)
from skgate.evaluation import evaluate_refusal
from skgate.steering._pipeline import find_fitted_parts

OPTIONS = {"max_new_tokens": 24, "do_sample": False}
SHOTS = [0, 1, 4, 16]
N_DRAWS = 10
JUDGE_LAYER = 15


def prepare(model: str, folder: Path, layers: list[int]) -> SteeringWrapper:
    """Choose the layer and the strength on source prompts, and fit the gate."""
    tried = "-".join(map(str, layers))
    path = folder / f"wrapper-{Path(model).name}-{tried}.joblib"
    if path.exists():
        return joblib.load(path)
    sources = load_sources(40)
    reader = ActivationTransformer(
        model, layer=15, dtype="float32", store=str(folder / "activations"), cache_layers=layers
    )
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate()), generate_kwargs=OPTIONS, batch_tokens=8192
    )
    X, y, language = sources["prompt"], sources["harmful"], sources["language"]
    table = wrapper.select_layer(X, y, language=language, layers=layers)
    print(table.to_string(index=False))
    reader.set_params(layer=table.attrs["layer"])
    wrapper.fit(X, y, language=language)
    print(f"layer {table.attrs['layer']}, strength {wrapper.strength_}")
    search = wrapper.strength_search_.pivot(
        index="language", columns="strength", values="log_likelihood"
    )
    print(search.round(2).to_string(), wrapper.strength_search_.attrs)
    joblib.dump(wrapper, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return wrapper


def draw_shots(n: int, seed: int) -> pd.DataFrame:
    """Draw n prompts per class in each language that is no source."""
    shots = load_shots(40).query("language not in ['en', 'de']")
    return shots.groupby(["language", "harmful"]).sample(n, random_state=seed)


def make_edits(wrapper: SteeringWrapper) -> dict[str, Any]:
    """Make a model for each edit of the residual stream."""
    gate, common = wrapper.gate_, {"generate_kwargs": OPTIONS, "batch_tokens": 8192}
    steered = {"strength": wrapper.strength_, **common}
    shots = load_shots(40).groupby(["language", "harmful"]).sample(4, random_state=0)
    target = TargetDirection(wrapper.gate, **steered)
    target.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    few = draw_shots(4, 0)
    calibrated = deepcopy(wrapper)
    calibrated.partial_fit(few["prompt"], few["harmful"], language=few["language"])
    print(f"strengths by language {calibrated.language_strengths_}")
    added = ActivationAddition(gate, **common)  # as strongly as ours, in each language
    added.strength_, added.language_strengths_ = wrapper.strength_, calibrated.language_strengths_
    random = RandomDirection(calibrated.gate_, **steered)
    return {
        "unsteered": SteeringWrapper(gate, on_harmful=None, on_harmless=None, **common),
        "activation addition": added,
        "directional ablation": DirectionalAblation(gate, **common),
        "target direction": target,
        "random direction": random,
    }


def decide(wrapper: SteeringWrapper, prompts: pd.DataFrame) -> pd.DataFrame:
    """Decide which prompts are harmful: one row for each prompt, arm and draw of shots."""
    rows = []

    def add(arm: str, draw: int, model: Any) -> None:
        flagged = model.predict(prompts["prompt"], language=prompts["language"])
        rows.append(
            pd.DataFrame({"arm": arm, "draw": draw, "id": prompts["id"], "flagged": flagged})
        )

    for draw in range(N_DRAWS):
        for n in SHOTS:
            ours = deepcopy(wrapper).set_params(strength=1.0)  # (only decides)
            if n:
                few = draw_shots(n, draw)
                ours.partial_fit(few["prompt"], few["harmful"], language=few["language"])
            add(f"ours, {n} shots", draw, ours)
        pooled, few = SharedThreshold(wrapper.gate_, strength=1.0), draw_shots(4, draw)
        add("one threshold, of the sources", draw, pooled)
        pooled.partial_fit(few["prompt"], few["harmful"], language=few["language"])
        add("one threshold, of pooled shots", draw, pooled)
    return pd.concat(rows, ignore_index=True)


def compose(decisions: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Take the verdict on each decision's edit, and those on edits that decide nothing."""
    flagged = decisions["flagged"].astype(bool)
    edits = np.where(flagged, "activation addition", "directional ablation")
    by_edit = verdicts.set_index(["id", "model"])["refused"]  # (NaN where the judge abstains)
    refused = by_edit.loc[list(zip(decisions["id"], edits, strict=True))].to_numpy()
    gated = decisions.assign(refused=refused)
    alone = verdicts.rename(columns={"model": "arm"})[["arm", "id", "flagged", "refused"]]
    return pd.concat([gated, alone.assign(draw=0)], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[13, 15, 17, 19])
    parser.add_argument("--n", type=int, default=30, help="prompts per language and class")
    parser.add_argument("--swahili", help="file with harmless Swahili prompts, one a line")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    wrapper = prepare(args.model, args.folder, args.layers)
    judge = fit_on_english(load_replies(), load_activations())
    judge.reader = ActivationTransformer(
        args.model, layer=JUDGE_LAYER, position="last", dtype="float32", store=False
    )
    test, elsewhere = load_test(args.n), load_elsewhere(args.n)
    if args.swahili:
        elsewhere = pd.concat([elsewhere, load_swahili(args.swahili)], ignore_index=True)
    edits = make_edits(wrapper)
    kept = {"texts": True, "batch_size": 60}
    verdicts = [
        evaluate_refusal(edits, test, judge, path=args.folder / "test.jsonl", **kept),
        evaluate_refusal(
            {
                name: edits[name]
                for name in ("unsteered", "activation addition", "directional ablation")
            },
            elsewhere,
            judge,
            path=args.folder / "elsewhere.jsonl",
            **kept,
        ),
    ]
    prompts = pd.concat([test, elsewhere], ignore_index=True)
    decisions = decide(wrapper, prompts)
    results = compose(decisions, pd.concat(verdicts, ignore_index=True))
    results = results.merge(prompts.drop(columns="prompt"), on="id", validate="many_to_one")
    results.to_csv(args.folder / "real_model.csv", index=False)
    parts = find_fitted_parts(wrapper)
    print(f"{len(results)} rows; layer {parts.transformer.layer}, strength {wrapper.strength_}")


if __name__ == "__main__":
    main()
