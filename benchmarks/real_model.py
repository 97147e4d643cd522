"""What a real chat model refuses, unsteered, steered, and steered in simpler ways.

    python benchmarks/real_model.py MODEL FOLDER [--swahili FILE]

MODEL is the folder of a chat model (the stored figures are of Qwen2.5-Coder-1.5B-Instruct in
float32 on two CPU cores, where all stages took about three hours). Layer and
strength are chosen on PolyRefuse's train prompts. Then 30 harmful and 30 harmless test prompts in
six languages are answered, and 30 harmful ones of MultiJail in five. Everything that has run is
kept in FOLDER; a call goes on where the last one ended, even if it was killed. FOLDER must be
outside of the repository, because it holds replies to harmful prompts. ``real_model.csv`` in it,
without texts, is the result, rewritten after each stage. At last, ``drift.csv`` says how far the
replies to eight harmless prompts of each language move.

A prompt's reply depends on its own edit only (up to rounding). So each prompt is answered once
under each edit, and the arms that differ by their decisions alone take their verdicts from these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from judge_data import fit_on_english, load_activations, load_replies
from real_model_data import (
    AVERAGED,
    load_elsewhere,
    load_shots,
    load_sources,
    load_swahili,
    load_test,
)
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.baselines import (
    ActivationAddition,
    DirectionalAblation,
    RandomDirection,
    TargetDirection,
)
from skgate.baselines._shared_threshold import share_threshold
from skgate.evaluation import evaluate_refusal, reply_drift
from skgate.steering._pipeline import find_fitted_parts

COMMON = {"generate_kwargs": {"max_new_tokens": 24, "do_sample": False}, "batch_tokens": 2048}
COLUMNS = ["arm", "draw", "id", "flagged", "refused"]
SHOTS = [0, 1, 4, 16]
N_DRAWS = 10
N_DRIFT = 8
JUDGE_LAYER = 15
WITHOUT_ABLATION = "ours, 4 shots, without ablation"
FIXED_REFUSAL = "gate, 4 shots, and a fixed refusal"


def keep(path: Path, make: Callable[[], Any]) -> Any:
    """Load what an earlier call has made, or make it."""
    if not path.exists():
        part = path.with_suffix(".part")
        joblib.dump(make(), part)
        part.replace(path)
    return joblib.load(path)


def prepare(model: str, folder: Path, layers: list[int]) -> SteeringWrapper:
    """Choose the layer and the strength on source prompts, and fit the gate."""
    sources = load_sources(40)
    reader = ActivationTransformer(
        model, layer=15, dtype="float32", store=str(folder / "activations"), cache_layers=layers
    )
    wrapper = SteeringWrapper(make_pipeline(reader, LatentGate()), **COMMON)
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
    return wrapper


def draw_shots(n: int, seed: int) -> pd.DataFrame:
    """Draw n prompts per class in each language that is no source."""
    shots = load_shots(40).query("language not in ['en', 'de']")
    return shots.groupby(["language", "harmful"]).sample(n, random_state=seed)


def calibrate(wrapper: SteeringWrapper) -> SteeringWrapper:
    """Calibrate the gate with four shots per class: the first draw of ``decide``."""
    few = draw_shots(4, 0)
    calibrated = deepcopy(wrapper)
    calibrated.partial_fit(few["prompt"], few["harmful"], language=few["language"])
    print(f"strengths by language {calibrated.language_strengths_}")
    return calibrated


def leave_alone(wrapper: SteeringWrapper) -> SteeringWrapper:
    """Make a model whose residual stream is not edited."""
    return SteeringWrapper(wrapper.gate_, on_harmful=None, on_harmless=None, **COMMON)


def make_edits(wrapper: SteeringWrapper, calibrated: SteeringWrapper) -> dict[str, Any]:
    """Make a model for each edit that a gate chooses from, and one for none."""
    added = ActivationAddition(wrapper.gate_, **COMMON)  # as strongly as ours, in each language
    added.strength_, added.language_strengths_ = wrapper.strength_, calibrated.language_strengths_
    return {
        "unsteered": leave_alone(wrapper),
        "activation addition": added,
        "directional ablation": DirectionalAblation(wrapper.gate_, **COMMON),
    }


def make_pair(wrapper: SteeringWrapper, calibrated: SteeringWrapper) -> dict[str, Any]:
    """Make the model as it is and as it is steered with four shots per class."""
    return {"unsteered": leave_alone(wrapper), "ours, 4 shots": calibrated}


def make_directions(wrapper: SteeringWrapper, calibrated: SteeringWrapper) -> dict[str, Any]:
    """Make the models that steer along another direction."""
    shots = load_shots(40).groupby(["language", "harmful"]).sample(4, random_state=0)
    target = TargetDirection(wrapper.gate, strength=wrapper.strength_, **COMMON)
    target.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    random = RandomDirection(calibrated.gate_, strength=wrapper.strength_, **COMMON)
    return {"target direction": target, "random direction": random}


def decide(wrapper: SteeringWrapper, prompts: pd.DataFrame) -> pd.DataFrame:
    """Decide which prompts are harmful: one row for each prompt, arm and draw of shots."""
    parts = find_fitted_parts(wrapper)
    shots = load_shots(40)
    X, X_shots = parts.activations(prompts["prompt"]), parts.activations(shots["prompt"])
    places = pd.Series(range(len(shots)), index=shots.index)
    rows = []

    def add(arm: str, draw: int, flagged: Any) -> None:
        rows.append(
            pd.DataFrame({"arm": arm, "draw": draw, "id": prompts["id"], "flagged": flagged == 1})
        )

    for draw in range(N_DRAWS):
        for n in SHOTS:
            gate = deepcopy(parts.gate)
            if n:
                few = draw_shots(n, draw)
                gate.partial_fit(X_shots[places[few.index]], few["harmful"], few["language"])
            add(f"ours, {n} shots", draw, gate.predict(X, prompts["language"]))
        pooled, few = share_threshold(deepcopy(parts.gate)), draw_shots(4, draw)
        add("one threshold, of the sources", draw, pooled.predict(X))
        pooled.partial_fit(X_shots[places[few.index]], few["harmful"])
        add("one threshold, of pooled shots", draw, pooled.predict(X))
    return pd.concat(rows, ignore_index=True)


def compose(decisions: pd.DataFrame, edits: pd.DataFrame) -> pd.DataFrame:
    """Take the verdict on the edit that each decision chooses; NaN where that was not asked.

    Besides, the decisions of the gate with four shots are followed in two simpler ways.
    """
    fixed = edits[edits["model"] == "unsteered"].assign(model="fixed refusal", refused=True)
    by_edit = pd.concat([edits, fixed]).set_index(["id", "model"])["refused"]

    def follow(rows: pd.DataFrame, if_harmful: str, if_harmless: str) -> pd.DataFrame:
        chosen = rows["flagged"].map({True: if_harmful, False: if_harmless})
        keys = pd.MultiIndex.from_arrays([rows["id"], chosen])
        return rows.assign(refused=by_edit.reindex(keys).to_numpy())

    few = decisions[(decisions["arm"] == "ours, 4 shots") & decisions["id"].isin(edits["id"])]
    return pd.concat(
        [
            follow(decisions, "activation addition", "directional ablation"),
            follow(few.assign(arm=WITHOUT_ABLATION), "activation addition", "unsteered"),
            follow(few.assign(arm=FIXED_REFUSAL), "fixed refusal", "unsteered"),
        ]
    )


def collect(
    decisions: pd.DataFrame, answers: list[pd.DataFrame], prompts: pd.DataFrame
) -> pd.DataFrame:
    """Put the stages that have run together, without texts; ``answers`` begin with the edits."""
    asked = [one.rename(columns={"model": "arm"}).assign(draw=0) for one in answers]
    results = pd.concat([compose(decisions, answers[0]), *asked])[COLUMNS]
    results = results.drop_duplicates(["arm", "draw", "id"], keep="last")  # asked, not composed
    return results.merge(prompts.drop(columns="prompt"), on="id", validate="many_to_one")


def measure_drift(
    models: dict[str, Any], harmless: pd.DataFrame, folder: Path, name: str
) -> pd.DataFrame:
    """Measure how far steering moves the replies to some harmless prompts of each language."""
    unsteered, steered = models.values()
    few = harmless.groupby("language", sort=False).head(N_DRIFT)
    return pd.concat(
        keep(
            folder / f"drift-{name}-{language}-{len(part)}.joblib",
            lambda part=part: reply_drift(steered, unsteered, part, verbose=False),
        )
        for language, part in few.groupby("language", sort=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[13, 15, 17, 19])
    parser.add_argument(
        "--n",
        type=int,
        default=30,
        help="of each language and class; a greater number adds prompts",
    )
    parser.add_argument("--swahili", help="file with harmless Swahili prompts, one a line")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    name = f"{Path(args.model).name}-{'-'.join(map(str, args.layers))}"
    wrapper = keep(
        args.folder / f"wrapper-{name}.joblib",
        lambda: prepare(args.model, args.folder, args.layers),
    )
    calibrated = keep(args.folder / f"calibrated-{name}.joblib", lambda: calibrate(wrapper))
    judge = fit_on_english(load_replies(), load_activations())
    judge.reader = ActivationTransformer(
        args.model, layer=JUDGE_LAYER, position="last", dtype="float32", store=False
    )
    test, elsewhere = load_test(args.n), load_elsewhere(args.n)
    if args.swahili:
        elsewhere = pd.concat([elsewhere, load_swahili(args.swahili)], ignore_index=True)
    prompts = pd.concat([test, elsewhere], ignore_index=True)
    decisions = decide(wrapper, prompts)
    some = test[test["language"].isin(AVERAGED)]
    stages = {
        "edits": (make_edits(wrapper, calibrated), test),
        "elsewhere": (make_pair(wrapper, calibrated), elsewhere),
        "directions": (make_directions(wrapper, calibrated), some),
    }
    answers: list[pd.DataFrame] = []
    for stage, (models, asked) in stages.items():
        path = args.folder / f"{stage}.jsonl"
        answers.append(evaluate_refusal(models, asked, judge, path=path, texts=True, batch_size=40))
        results = collect(decisions, answers, prompts)
        results.to_csv(args.folder / "real_model.csv", index=False)
    harmless, models = test[~test["harmful"]], make_pair(wrapper, calibrated)
    drift = measure_drift(models, harmless, args.folder, name)
    drift.to_csv(args.folder / "drift.csv", index=False)
    parts = find_fitted_parts(wrapper)
    print(f"{len(results)} rows; layer {parts.transformer.layer}, strength {wrapper.strength_}")


if __name__ == "__main__":
    main()
