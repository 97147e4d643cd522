"""The demo: what the bundled model refuses, unsteered and steered, and a picture of why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from skgate.activations import ActivationTransformer
from skgate.datasets import load_organism
from skgate.gate import LatentGate
from skgate.judges import PhraseJudge
from skgate.metrics import refusal_rate
from skgate.steering import SteeringWrapper
from skgate.steering._pipeline import find_fitted_parts
from skgate.steering._router import projection_unit
from skgate.steering._sweeps import generate_alike

TIERS = ["high", "mid", "low"]
UNSTEERED = "unsteered"
BUDGETS = {"no examples": 0, "1 per class": 1, "4 per class": 4}

Bools = npt.NDArray[np.bool_]


class Demo:
    """Runs the bundled model unsteered and steered, and measures its replies.

    Parameters
    ----------
    organism : Bunch
        The model and its data, from :func:`skgate.datasets.load_organism`.
    prompts : DataFrame
        The prompts to answer, rows of ``organism.prompts``.

    Attributes
    ----------
    wrapper : SteeringWrapper
        Fitted on the train prompts of the high-resource languages.
    prompts : DataFrame
        The prompts to answer.
    """

    def __init__(self, organism: Bunch, prompts: pd.DataFrame) -> None:
        self.organism = organism
        self.prompts = prompts.reset_index(drop=True)
        reader = ActivationTransformer(
            organism.model, tokenizer=organism.tokenizer, layer=organism.steering["layer"]
        )
        self.wrapper = SteeringWrapper(
            # As in the paper: without shots, the boundary of the source languages is used.
            make_pipeline(reader, LatentGate(unknown_language="source")),
            generate_kwargs={"do_sample": False, "max_new_tokens": 40},
            batch_tokens=8192,
        )
        train = organism.prompts[organism.prompts["split"] == "train"]
        sources = train[train["tier"] == "high"]
        self.wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
        self._targets = train[train["tier"] != "high"]
        self._replies: dict[str, list[str | None]] = {}

    def calibrated(self, n_shots: int, seed: int) -> SteeringWrapper:
        """Return a copy of the wrapper, calibrated on shots of every other language.

        Parameters
        ----------
        n_shots : int
            Shots per class and language, from the train prompts.
        seed : int
            Seed of the draw.

        Returns
        -------
        wrapper : SteeringWrapper
            The calibrated copy.
        """
        wrapper = deepcopy(self.wrapper)
        if n_shots:
            shots = self._targets.groupby(["language", "harmful"]).sample(
                n_shots, random_state=seed
            )
            wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
        return wrapper

    def decide(self, n_shots: int, seed: int = 0) -> Bools:
        """Decide with a gate calibrated on shots, or without shots and languages."""
        language = self.prompts["language"] if n_shots else None
        wrapper = self.calibrated(n_shots, seed)
        return wrapper.predict(self.prompts["prompt"], language=language).astype(bool)

    def unsteered(self) -> list[str]:
        """Return the replies of the unchanged model."""
        return self._get("none", np.ones(len(self.prompts), dtype=bool))

    def steered(self, harmful: Bools) -> list[str]:
        """Return the replies of the model steered by these decisions.

        A prompt's reply depends on its own decision only, so each reply is generated once.
        """
        alpha = self.wrapper.strength_ * projection_unit(self.gate)
        added = self._get("add", harmful, add=alpha)
        ablated = self._get("ablate", ~harmful, ablate=1.0)
        return [added[i] if is_harmful else ablated[i] for i, is_harmful in enumerate(harmful)]

    def restates(self, replies: Sequence[str]) -> Bools:
        """Find which replies contain the verb and the object of their prompts."""
        words = self.organism.words
        found = [
            {words.at[row.verb, row.language], words.at[row.object, row.language]}
            <= set(reply.split())
            for row, reply in zip(self.prompts.itertuples(), replies, strict=True)
        ]
        return np.array(found)

    def measure(self, replies: Sequence[str]) -> pd.DataFrame:
        """Measure replies: one row per language."""
        frame = self.prompts.assign(
            refused=PhraseJudge().is_refusal(replies), restated=self.restates(replies)
        )
        rows = {
            language: {
                "tier": part["tier"].iloc[0],
                "harmful refused": refusal_rate(part["harmful"], part["refused"]),
                "harmless refused": refusal_rate(part["harmful"], part["refused"], of="harmless"),
                "harmless answered": part.loc[~part["harmful"], "restated"].mean(),
            }
            for language, part in frame.groupby("language", sort=False)
        }
        return pd.DataFrame(rows).T.rename_axis("language").infer_objects()

    @property
    def gate(self) -> LatentGate:
        """The fitted gate, without shots."""
        return find_fitted_parts(self.wrapper).gate

    def _get(self, action: str, rows: Bools, **edit: float) -> list[Any]:
        """Return the replies under one action; generate those that are wanted and missing."""
        replies = self._replies.setdefault(action, [None] * len(self.prompts))
        wanted = [i for i in np.flatnonzero(rows).tolist() if replies[i] is None]
        if wanted:
            prompts = [self.prompts["prompt"][i] for i in wanted]
            found = generate_alike(self.wrapper, prompts, {}, **edit)
            for i, reply in zip(wanted, found, strict=True):
                replies[i] = str(reply)
        return replies


def run_demo(output: Path, n_draws: int = 10) -> pd.DataFrame:
    """Answer the bundled model's test prompts unsteered and steered; print and draw the results.

    Parameters
    ----------
    output : Path
        The file for the picture.
    n_draws : int, default=10
        Number of draws of examples to average over.

    Returns
    -------
    table : DataFrame
        One row per condition and tier: the mean over the tier's languages.
    """
    start = time.monotonic()
    organism = load_organism()
    seeds = {n_shots: range(n_draws if n_shots else 1) for n_shots in BUDGETS.values()}
    n_runs = 1 + sum(map(len, seeds.values()))
    test = organism.prompts[organism.prompts["split"] == "test"]
    print(_announcement(len(test), n_runs, n_draws), flush=True)
    demo = Demo(organism, test)
    # No estimate of the time left: the first runs take long, the later ones reuse their replies.
    with tqdm(total=n_runs, desc="runs", bar_format="{desc}: {n}/{total} [{elapsed}]") as bar:
        tables = {UNSTEERED: demo.measure(demo.unsteered())}
        bar.write(_first_result(tables[UNSTEERED]))
        bar.update()
        for name, n_shots in BUDGETS.items():
            draws = []
            for seed in seeds[n_shots]:
                draws.append(demo.measure(demo.steered(demo.decide(n_shots, seed))))
                bar.update()
            numbers = [draw.drop(columns="tier") for draw in draws]
            mean = sum(numbers[1:], start=numbers[0]) / len(numbers)
            tables[name] = mean.assign(tier=draws[0]["tier"])
    table = pd.concat(tables, names=["condition"])
    by_tier = table.groupby(["condition", "tier"], sort=False).mean()
    print(_intro(organism))
    shares = pd.DataFrame(100 * by_tier.unstack("tier"))
    shares.index.name, shares.columns.names = None, [None, None]
    print(shares.to_string(float_format="{:.1f}".format))
    print(_explanations(n_draws))
    print(_dialogues(demo))
    print(_false_refusal(demo))
    draw_picture(demo, by_tier, output)
    print(_about_picture(output))
    print(f"\n{time.monotonic() - start:.0f} seconds")
    return by_tier


def _announcement(n_prompts: int, n_runs: int, n_draws: int) -> str:
    lines = [
        f"The model answers {n_prompts} test prompts in {n_runs} runs, unsteered and steered by",
        "gates with different examples. The first two runs take longest.",
    ]
    if n_draws > 1:
        lines[-1] += " For fewer runs: --draws 1"
    return "\n".join(lines)


def _first_result(unsteered: pd.DataFrame) -> str:
    shares = 100 * unsteered.groupby("tier")["harmful refused"].mean()
    listed = ", ".join(f"{shares[tier]:.0f} % {tier}-resource" for tier in TIERS)
    return f"Harmful prompts that the unsteered model refuses: {listed}."


def _intro(organism: Bunch) -> str:
    tiers = organism.languages.groupby("tier")["language"].agg(" ".join)
    lines = [f"  {tier + '-resource':14} {tiers[tier]}" for tier in TIERS]
    return "\n".join(
        [
            "",
            "The bundled model learned in all of its languages which requests are harmful.",
            "But it learned to refuse them mainly in the high-resource languages:",
            *lines,
            'A request is harmful by its verb and object together: "kick the kitten" is harmful,',
            '"kick the bomb" is not.',
            "",
            "A gate decides at one layer which prompts are harmful. Steering makes the model",
            "act on these decisions. These are the results on the test prompts, in per cent:",
            "",
        ]
    )


def _explanations(n_draws: int) -> str:
    draws = f"means over {n_draws} draws" if n_draws > 1 else "one draw"
    return "\n".join(
        [
            "",
            "Columns, as means over the languages of a tier (high-, mid- or low-resource):",
            "  harmful refused    harmful prompts that the model refuses: 100 is best",
            "  harmless refused   harmless prompts that the model refuses: 0 is best",
            "  harmless answered  harmless prompts whose reply names the action and the thing",
            "                     that were asked for: 100 is best",
            "Rows:",
            "  unsteered          the model as it is",
            "  no examples        steered; the gate knows labelled prompts of the",
            "                     high-resource languages only",
            "  1 or 4 per class   steered; the gate also knows this number of harmful and of",
            "                     harmless prompts of each mid- and low-resource language",
            f"                     ({draws})",
        ]
    )


def _dialogues(demo: Demo, n_per_tier: int = 3) -> str:
    """Show some prompts of each tier, with the replies of the model, unsteered and steered."""
    replies = {"unsteered": demo.unsteered(), "steered": demo.steered(demo.decide(4))}
    refused = {who: PhraseJudge().is_refusal(texts) for who, texts in replies.items()}
    lines = [
        "\nSome prompts and replies (steered: 4 per class). = marks a word-by-word translation."
    ]
    for tier in TIERS:
        of = demo.prompts["language"] == "en" if tier == "high" else demo.prompts["tier"] == tier
        rows = demo.prompts.index[of]
        harmful = demo.prompts["harmful"]
        picked = [
            *np.random.default_rng(0).choice(rows[harmful[rows]], n_per_tier - 1, replace=False),
            np.random.default_rng(1).choice(rows[~harmful[rows]]),
        ]
        lines.append(f"\n{tier}-resource")
        for i in picked:
            lines += _prompt_lines(demo, i)
            for who in replies:
                verdict = "refuses" if refused[who][i] else "answers"
                lines += _reply_lines(demo, who, replies[who][i], f"   ({verdict})")
    return "\n".join(lines)


def _prompt_lines(demo: Demo, i: int) -> list[str]:
    prompt, language = str(demo.prompts.at[i, "prompt"]), str(demo.prompts.at[i, "language"])
    kind = "harmful" if demo.prompts.at[i, "harmful"] else "harmless"
    first = f"  [{language}] {prompt}   ({kind})"
    return [first, *_translation(demo, prompt, indent=len(language) + 5)]


def _reply_lines(demo: Demo, who: str, reply: str, verdict: str = "") -> list[str]:
    return [f"    {who + ':':11}{reply.strip()}{verdict}", *_translation(demo, reply, indent=15)]


def _translation(demo: Demo, text: str, indent: int) -> list[str]:
    """Translate a text, unless it is English."""
    english = demo.organism.translate(text)
    return [] if english == text.strip() else [f"{'= ':>{indent}}{english}"]


def _false_refusal(demo: Demo, n_shots: int = 4) -> str:
    """Show a harmless prompt that is refused only because the model is steered, and why."""
    decided = demo.decide(n_shots)
    before, after = (
        PhraseJudge().is_refusal(replies) for replies in (demo.unsteered(), demo.steered(decided))
    )
    harmless = ~demo.prompts["harmful"].to_numpy()
    false = np.flatnonzero(harmless & decided & after & ~before)
    if not len(false):
        return "\nNo harmless prompt is refused because of steering."
    row = demo.prompts.loc[false[0]]
    own = harmless & (demo.prompts["language"] == row["language"]).to_numpy()
    wrapper = demo.calibrated(n_shots, seed=0)
    probability = wrapper.predict_proba([row["prompt"]], language=row["language"])[0, 1]
    return "\n".join(
        [
            "\nA harmless prompt that is refused only because the model is steered",
            *_prompt_lines(demo, false[0]),
            *_reply_lines(demo, "unsteered", demo.unsteered()[false[0]]),
            *_reply_lines(demo, "steered", demo.steered(decided)[false[0]]),
            f"    Why: the gate takes the prompt for harmful (probability {probability:.2f}). "
            "It makes this",
            f"    mistake with {decided[own].sum()} of the {own.sum()} harmless test prompts in "
            f"{row['language']}.",
        ]
    )


def _about_picture(output: Path) -> str:
    return "\n".join(
        [
            f"\nPicture: {output.resolve()}",
            "  Left: the scores of harmful and harmless prompts, the boundary that the",
            "  high-resource languages share, and each language's own boundary (mid- and",
            "  low-resource: after 2 examples per class). The boundary that lies furthest off",
            "  is named. Right: shares of refused prompts.",
        ]
    )


def draw_picture(demo: Demo, by_tier: pd.DataFrame, output: Path) -> None:
    """Draw the scores with their boundaries, and the refusals before and after steering.

    Parameters
    ----------
    demo : Demo
        The demo that was run.
    by_tier : DataFrame
        The results of ``Demo.measure``, by condition and tier.
    output : Path
        The file for the picture.
    """
    from matplotlib.figure import Figure

    from skgate.inspection import ProjectionDisplay, RefusalGapDisplay

    figure = Figure(figsize=(13.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    scores = ProjectionDisplay.from_estimator(
        demo.calibrated(2, seed=0),  # with more, a language has an axis of its own
        demo.prompts["prompt"],
        demo.prompts["harmful"],
        language=demo.prompts["language"],
        tier=dict(zip(demo.prompts["language"], demo.prompts["tier"], strict=True)),
        ax=left,
    )
    own = scores.frame_.drop_duplicates("language").set_index("language")
    furthest = str(own["threshold"].abs().idxmax())
    scores.axes_[TIERS.index(str(own.at[furthest, "tier"]))].annotate(
        f"{furthest},\n2 examples\nper class ",
        (own.at[furthest, "threshold"], 1),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
        fontsize=8,
    )
    names = {name: f"steered, {name}" for name in ("no examples", "4 per class")}
    rows = [
        (title, tier, kind, by_tier.loc[(name, tier), f"{kind} refused"])
        for name, title in {UNSTEERED: UNSTEERED, **names}.items()
        for tier in TIERS
        for kind in ("harmful", "harmless")
    ]
    frame = pd.DataFrame(rows, columns=["model", "tier", "prompts", "refusal_rate"])
    RefusalGapDisplay(frame).plot(right)
    figure.savefig(output, dpi=150)
