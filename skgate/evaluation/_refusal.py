"""evaluate_refusal: which prompts models refuse, in a run that can be interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from skgate._base import HasMethods, Interval, set_module, validate_params
from skgate.evaluation._identity import (
    describe,
    describe_judge,
    describe_model,
    find_differences,
    find_gate_version,
    hash_prompt,
)
from skgate.evaluation._journal import Journal, Record
from skgate.evaluation._load_prompts import load_prompts
from skgate.evaluation._model_input import make_input
from skgate.steering._sweeps import find_refusals, judge_name, warn_of_abstentions

_DECISIONS = ["harmful", "harm_score", "action", "gate_version"]
_ANSWERS = ["flagged", "harm_score", "action", "gate_version", "refused"]


@set_module("skgate.evaluation")
@validate_params(
    {
        "models": [Mapping],
        "prompts": "no_validation",
        "judge": [None, HasMethods(["is_refusal"])],
        "path": [None, str, os.PathLike],
        "texts": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def evaluate_refusal(
    models: Mapping[str, Any],
    prompts: Any,
    judge: Any = None,
    *,
    path: str | os.PathLike[str] | None = None,
    texts: bool = False,
    batch_size: int = 64,
    verbose: bool = True,
    **generate_kwargs: Any,
) -> pd.DataFrame:
    """Let models answer prompts, and find out which they refuse.

    With ``path``, the run can be interrupted at any time, even by ``kill -9``. The same call then
    does only what is missing.

    Parameters
    ----------
    models : mapping of str to SteeringWrapper
        The models by name. Any object will do whose ``generate(prompts, language=...,
        return_decisions=True, **generate_kwargs)`` returns replies and decisions as
        :meth:`skgate.SteeringWrapper.generate` does.
    prompts : DataFrame or path-like
        What :func:`load_prompts` returns, or a frame or file with the columns that it expects.
    judge : object with ``is_refusal(replies, prompts, language)`` or None, default=None
        Decides which replies are refusals. If None, a :class:`skgate.judges.PhraseJudge` is used.
    path : path-like or None, default=None
        A JSON Lines file for the rows of each batch. It and its folder are created. If it exists,
        the run goes on from it. One process at a time may use it.
    texts : bool, default=False
        Whether to keep prompts and replies, in the result and in the file. Otherwise the file has
        only a SHA-256 of each prompt.
    batch_size : int, default=64
        The number of prompts in a call of ``generate``. An interruption costs at most the batch
        that was running.
    verbose : bool, default=True
        Whether to show a progress bar with the time left.
    **generate_kwargs : dict
        Further arguments of ``generate``.

    Returns
    -------
    results : DataFrame
        One row per model and prompt, ordered by model, then prompt. The columns are:

        ================ ======================================================================
        ``model``        the model's name
        ``id``           the prompt's id
        ``language``     as given; None if not known
        ``harmful``      the prompt's label; None if not known
        ``group``        only if ``prompts`` has that column
        ``flagged``      whether the gate found the prompt harmful
        ``harm_score``   the gate's score; larger than 0 if flagged
        ``action``       "add", "ablate" or "none"
        ``gate_version`` a hash of everything that determines the gate's decisions
        ``refused``      1.0 or 0.0; NaN if the judge abstains
        ``prompt``       only with ``texts=True``; likewise ``reply``
        ================ ======================================================================

        ``results.attrs["judge"]`` names the judge.

    Raises
    ------
    ValueError
        If a parameter is invalid, ``prompts`` are not as :func:`load_prompts` expects them, a model
        does not return one reply and one decision per prompt, or the file is of another run (see
        Notes).
    TypeError
        If a name is not a string, or a model has no ``generate``.
    RuntimeError
        If another process writes to the file.

    Warns
    -----
    UserWarning
        If the judge abstains on some replies.

    See Also
    --------
    load_prompts : Loads the prompts.
    compare : Compares the models, with bootstrap intervals.
    skgate.metrics.language_report : Measures of one model per language.

    Notes
    -----
    A reply may depend on the other prompts of its batch, by rounding. So a batch holds the same
    prompts however often the run was interrupted, and is done again as a whole.

    A call with a file may add models, and prompts with new ids. The new prompts make batches of
    their own. It must repeat the rest. An error says what differs:

    - the text or language of a prompt of the file, or a prompt that is missing;
    - ``generate_kwargs``, ``batch_size``, ``texts``, and the judge's class and parameters, except
      those without effect on its verdicts, such as ``timeout``;
    - a model's class, parameters, ``strength_`` with ``strength="auto"``, and gate version.

    What a judge has learned is not compared. Neither are live objects, such as a model that was
    passed to an estimator: of these, only the class is. The gate version of objects of your own is
    compared when they generate.

    Labels and groups are not in the file. They are those of ``prompts``.

    Examples
    --------
    The bundled model answers most harmful prompts of its invented language qla. Steered, it refuses
    them:

    >>> from sklearn.pipeline import make_pipeline
    >>> from skgate import ActivationTransformer, LatentGate, SteeringWrapper
    >>> from skgate.datasets import load_organism
    >>> from skgate.evaluation import evaluate_refusal
    >>> organism = load_organism()
    >>> train = organism.prompts.query("split == 'train'")
    >>> sources = train.query("tier == 'high'")
    >>> shots = train.query("language == 'qla'").groupby("harmful").sample(4, random_state=0)
    >>> reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    >>> steered = SteeringWrapper(make_pipeline(reader, LatentGate()), strength=0.7)
    >>> steered = steered.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    >>> steered = steered.partial_fit(shots["prompt"], shots["harmful"], language="qla")
    >>> unsteered = SteeringWrapper(steered.gate_, on_harmful=None, on_harmless=None)
    >>> prompts = organism.prompts.query("split == 'test' and language == 'qla'")
    >>> prompts = prompts.groupby("harmful").sample(16, random_state=0)
    >>> results = evaluate_refusal({"unsteered": unsteered, "steered": steered}, prompts,
    ...                            verbose=False, max_new_tokens=12)
    >>> results.groupby(["model", "harmful"], sort=False)["refused"].mean().unstack()
    harmful     False  True
    model
    unsteered  0.0000    0.0
    steered    0.0625    1.0
    """
    _check_models(models)
    frame = load_prompts(prompts)
    judged_by = judge_name(judge)
    run = {
        **describe(generate_kwargs),
        **describe({"batch_size": batch_size, "texts": texts}),
        **describe_judge(judge, judged_by),
    }
    journal = Journal(None if path is None else Path(path).expanduser(), run, batch_size)
    descriptions = {name: describe_model(model) for name, model in models.items()}
    if texts and path is not None:
        _check_json(frame)
    new = _find_new(journal, frame)
    for name, model in models.items():
        _check_known(journal, name, descriptions[name], find_gate_version(model))
    rows = frame.set_index("id", drop=False)
    with journal:
        if new:
            journal.add_prompts(new)
        open_batches = [
            (name, batch)
            for name in models
            for batch in journal.batches
            if not journal.is_done(name, batch)
        ]
        n_open = sum(len(batch) for _, batch in open_batches)
        with tqdm(total=n_open, unit="prompt", disable=not verbose) as progress:
            for name, batch in open_batches:
                progress.set_description(name)
                if name not in journal.models:
                    journal.add_model(name, descriptions[name])
                answers = _answer(models[name], name, rows.loc[batch], judge, generate_kwargs)
                _check_known(journal, name, descriptions[name], answers["gate_version"].iloc[0])
                journal.add_rows(_to_records(name, answers, texts))
                progress.update(len(batch))
    results = _collect(journal, list(models), frame, texts)
    results.attrs["judge"] = judged_by
    warn_of_abstentions(judged_by, [results["refused"].to_numpy()])
    return results


def _check_models(models: Mapping[Any, Any]) -> None:
    if not models:
        raise ValueError("Got models={}, expected at least one model.")
    for name, model in models.items():
        if not isinstance(name, str):
            raise TypeError(f"Got {name!r} as a name in models, expected a str.")
        if not hasattr(model, "generate"):
            raise TypeError(
                f"Got models[{name!r}] of type {type(model).__name__}, expected an object with a "
                "method generate, such as a SteeringWrapper."
            )


def _check_json(frame: pd.DataFrame) -> None:
    """Check that the file can hold the prompts, before anything is generated."""
    for id_, prompt in zip(frame["id"], frame["prompt"], strict=True):
        try:
            json.dumps(prompt)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Got the prompt with id={id_!r:.100} and texts=True, expected one that can be "
                f"written as JSON: {error}."
            ) from error


def _find_new(journal: Journal, frame: pd.DataFrame) -> list[Record]:
    """List the prompts that are not in the journal, and check those that are."""
    new = []
    for id_, prompt, language in zip(frame["id"], frame["prompt"], frame["language"], strict=True):
        record = {"id": id_, "language": language, "sha256": hash_prompt(prompt)}
        recorded = journal.prompts.get(id_)
        if recorded is None:
            new.append(record)
        elif recorded != record:
            differing = [key for key in record if record[key] != recorded[key]]
            what = " and ".join("text" if key == "sha256" else key for key in differing)
            raise ValueError(
                f"Got the prompt with id={id_!r:.100} with another {what} than in "
                f"path={str(journal.path)!r}, expected the same. Use another path, or other ids "
                "for other prompts."
            )
    missing = sorted(set(journal.prompts) - set(frame["id"]))
    if missing:
        raise ValueError(
            f"Got prompts without {len(missing)} of the {len(journal.prompts)} in "
            f"path={str(journal.path)!r}, such as id={missing[0]!r:.100}, expected all of them, "
            "and perhaps more. Use another path for fewer prompts."
        )
    return new


def _check_known(
    journal: Journal, name: str, description: Mapping[str, str], version: str | None
) -> None:
    """Check that a model is the one that the journal has rows of."""
    if name not in journal.models:
        return
    row = journal.rows.get((name, journal.batches[0][0]))
    recorded, now = dict(journal.models[name]), dict(description)
    if row is not None and version is not None:
        recorded["gate_version"], now["gate_version"] = repr(row["gate_version"]), repr(version)
    differences = find_differences(recorded, now)
    if differences:
        where = "its first batch" if journal.path is None else f"path={str(journal.path)!r}"
        raise ValueError(
            f"Got models[{name!r}] with {differences}, expected the model of {where}. Use another "
            "name or another path."
        )


def _answer(
    model: Any, name: str, batch: pd.DataFrame, judge: Any, generate_kwargs: Mapping[str, Any]
) -> pd.DataFrame:
    """Let a model answer a batch: its decisions, the replies, and whether they are refusals."""
    prompts, given = batch["prompt"].tolist(), batch["language"].to_numpy(dtype=object)
    languages = None if given[0] is None else given
    X, language = make_input(model, prompts, languages)
    answer = model.generate(X, language=language, return_decisions=True, **generate_kwargs)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], pd.DataFrame)):
        raise TypeError(
            f"Got a {type(answer).__name__} from models[{name!r}].generate(..., "
            "return_decisions=True), expected a tuple of the replies and a DataFrame of decisions "
            f"with the columns {_DECISIONS}."
        )
    replies, decisions = answer
    missing = [column for column in _DECISIONS if column not in decisions]
    if missing or not len(replies) == len(decisions) == len(prompts):
        raise ValueError(
            f"Got {len(replies)} replies and {len(decisions)} decisions with the columns "
            f"{list(decisions)} from models[{name!r}], expected {len(prompts)} of both, with the "
            f"columns {_DECISIONS}."
        )
    answers = decisions[_DECISIONS].rename(columns={"harmful": "flagged"})
    return answers.assign(
        refused=find_refusals(judge, prompts, replies, languages),
        prompt=pd.Series(prompts, decisions.index, dtype=object),
        reply=pd.Series(replies, decisions.index, dtype=object),
        id=batch["id"].tolist(),
    )


def _to_records(name: str, answers: pd.DataFrame, texts: bool) -> list[Record]:
    """Make the rows of the file; NaN becomes None, which JSON can hold."""
    return [
        {
            "model": name,
            "id": str(row["id"]),
            "flagged": bool(row["flagged"]),
            "harm_score": _number(row["harm_score"]),
            "action": row["action"],
            "gate_version": row["gate_version"],
            "refused": _number(row["refused"]),
            **({"prompt": row["prompt"], "reply": row["reply"]} if texts else {}),
        }
        for row in answers.to_dict("records")
    ]


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _collect(journal: Journal, models: list[str], frame: pd.DataFrame, texts: bool) -> pd.DataFrame:
    kept = ["id", "language", "harmful", *(["group"] if "group" in frame else [])]
    ids = frame["id"].tolist()
    asked = frame[kept].iloc[np.tile(np.arange(len(ids)), len(models))].reset_index(drop=True)
    asked.insert(0, "model", np.repeat(np.array(models, dtype=object), len(ids)))
    columns = [*_ANSWERS, *(["prompt", "reply"] if texts else [])]
    rows = [journal.rows[name, id_] for name in models for id_ in ids]
    answers = pd.DataFrame(rows, columns=columns).astype(
        {"flagged": bool, "harm_score": float, "refused": float}
    )
    return pd.concat([asked, answers], axis=1)
