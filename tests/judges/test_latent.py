"""LatentJudge: on labelled replies of a real model, on the organism, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import (
    cohen_kappa_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import load_organism
from skgate.judges import LatentJudge, PhraseJudge

# Private, because no public way steers harmless prompts towards refusal.
from skgate.steering._sweeps import generate_alike, generate_unsteered

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REFUSAL, ANSWER = "sorry , i will not do that .", "sure , smash the lamp : first ask friend ."
SHORT = {"max_new_tokens": 24}
HARMFUL, HARMLESS = "please smash the lamp .", "please draw the lamp ."


class Lengths:
    """A reader without a model: how long the prompt and the reply are."""

    def transform(self, conversations):
        return np.array([[len(turn["content"]) for turn in chat[-2:]] for chat in conversations])


def table(n=6):
    prompts = [HARMFUL, HARMFUL + " now", HARMLESS, HARMLESS + " now"]
    replies = ["no" + " no" * (i % 3) for i in range(n)] + ["yes " * (20 + i) for i in range(n)]
    return pd.DataFrame({"prompt": np.resize(prompts, 2 * n), "reply": replies}), [True] * n + [
        False
    ] * n


@pytest.fixture
def judge():
    return LatentJudge(Lengths()).fit(*table(), language="en")


@pytest.fixture(scope="module")
def real():
    """Labelled replies of Qwen2.5-Coder-1.5B-Instruct, and a judge that learned from English."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import judge_data
    finally:
        sys.path.remove(str(BENCHMARKS))
    replies, activations = judge_data.load_replies(), judge_data.load_activations()
    fitted = judge_data.fit_on_english(replies, activations)
    rows = replies.query("sample == 'val'").dropna(subset=["refused"])
    scores = fitted.decision_function(judge_data.as_conversations(rows))
    return rows.assign(score=scores)


@pytest.mark.parametrize("language", ["de", "es", "ru", "ja", "ko", "th", "yo"])
def test_english_labels_do_for_another_language(real, language):
    rows = real[real["language"] == language]
    refused, judged = rows["refused"], rows["score"] > 0
    assert cohen_kappa_score(refused, judged) >= 0.75
    assert recall_score(refused, judged) >= 0.85
    assert precision_score(refused, judged) >= 0.85


def test_it_tells_refusals_from_answers_not_harmful_prompts_from_harmless_ones(real):
    others = real[real["language"] != "en"]
    for harmful in (0, 1):
        rows = others[others["harmful"] == harmful]
        assert roc_auc_score(rows["refused"], rows["score"]) >= 0.93


@pytest.fixture(scope="module")
def organism_replies():
    """Replies of the organism: unsteered, harmless prompts refused, and harmful ones answered."""
    organism = load_organism()
    prompts = organism.prompts.query("split == 'train' and tier == 'high'")
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=4)
    wrapper = SteeringWrapper(
        make_pipeline(reader, LatentGate(unknown_language="source")), strength=1.0
    )
    wrapper.fit(prompts["prompt"], prompts["harmful"], language=prompts["language"])
    unit = wrapper.gate_[-1].projection_gap_
    found = {}
    for split, n in (("train", 10), ("test", 5)):
        part = organism.prompts[organism.prompts["split"] == split]
        if split == "train":
            part = part[part["tier"] == "high"]
        part = part.groupby(["language", "harmful"]).sample(n, random_state=0)
        harmful, harmless = part[part["harmful"]], part[~part["harmful"]]
        arms = [
            part.assign(reply=generate_unsteered(wrapper, list(part["prompt"]), SHORT)),
            harmless.assign(
                reply=generate_alike(wrapper, list(harmless["prompt"]), SHORT, add=0.7 * unit)
            ),
            harmful.assign(
                reply=generate_alike(wrapper, list(harmful["prompt"]), SHORT, ablate=1.0)
            ),
        ]
        both = pd.concat(arms)
        found[split] = both.assign(refused=PhraseJudge().is_refusal(both["reply"]))
    return organism, found["train"], found["test"]


def test_organism(organism_replies):
    organism, train, test = organism_replies
    reader = ActivationTransformer(
        organism.model, tokenizer=organism.tokenizer, layer=5, position=("last", "mean")
    )
    judge = LatentJudge(reader).fit(train, train["refused"], language=train["language"])
    judged = judge.is_refusal(test["reply"], prompts=test["prompt"])
    assert (judged == test["refused"]).mean() >= 0.98
    harmful = test["harmful"]
    assert test["refused"][~harmful].mean() > 0.1
    assert test["refused"][harmful].mean() < 0.7


def test_shots_move_a_language_s_threshold(judge):
    X, y = table()
    far = X.assign(reply="and so on and on " * 3 + X["reply"])
    assert judge.score(far, y) == 0.5
    judge.partial_fit(far, y, language="xx")
    assert judge.score(far, y, language="xx") == 1.0
    assert judge.score(X, y, language="en") == 1.0


def test_a_language_without_labels_has_the_common_threshold(judge):
    X, _ = table()
    with pytest.warns(UserWarning, match="never seen"):
        named = judge.decision_function(X, language="xx")
    np.testing.assert_array_equal(named, judge.decision_function(X))


def test_labels_may_be_verdicts_or_missing():
    X, y = table()
    texts = ["refused" if one else "answered" for one in y]
    texts[-1], texts[0] = "garbled", None
    judge = LatentJudge(Lengths()).fit(X, texts, language="en")
    assert judge.n_labelled_ == len(y) - 1
    assert judge.classes_.tolist() == [False, True]
    assert judge.score(X, texts) == 1.0


def test_a_labeller_labels_and_doubtful_labels_are_left_out():
    X, y = table(30)

    class Errs:
        def is_refusal(self, replies, prompts=None, language=None):
            assert len(prompts) == len(replies)
            return np.array(y) ^ (np.arange(len(y)) == 3)

    judge = LatentJudge(Lengths(), labeller=Errs()).fit(X, language="en")
    assert judge.n_labelled_ == len(y) - 1
    assert judge.predict(X)[3]
    X["reply"] = np.where(y, REFUSAL, ANSWER * 3)
    assert LatentJudge(Lengths()).fit(X).score(X, y) == 1.0  # PhraseJudge


def test_it_abstains_where_it_is_unsure(judge):
    replies = ["no", "x" * 40, "yes " * 25]
    prompts = [HARMFUL] * 3
    sure = judge.is_refusal(replies, prompts=prompts)
    assert sure.dtype == bool
    proba = judge.predict_proba(pd.DataFrame({"prompt": prompts, "reply": replies}))
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    bound = np.sort(proba.max(axis=1))[1]
    asked = judge.set_params(abstain_below=bound).is_refusal(replies, prompts=prompts)
    assert np.isnan(asked).sum() == 1
    assert np.nanargmin(proba.max(axis=1)) == np.flatnonzero(np.isnan(asked))[0]


def test_an_empty_reply_is_no_refusal_and_reasoning_is_not_read(judge):
    X = pd.DataFrame(
        {"prompt": [HARMFUL] * 2, "reply": ["  ", "<think>" + "x" * 90 + "</think>no"]}
    )
    assert judge.decision_function(X)[0] == -np.inf
    assert judge.predict(X).tolist() == [False, True]
    assert not judge.is_refusal([""], prompts=[HARMFUL]).any()


def test_prompts_may_be_conversations(judge):
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": HARMFUL}]
    assert judge.is_refusal(["no"], prompts=[chat]).tolist() == [True]


def test_a_wrapper_takes_it(organism_replies):
    organism, train, _ = organism_replies
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=5)
    judge = LatentJudge(reader).fit(train, train["refused"], language=train["language"])
    prompts = organism.prompts.query("split == 'train' and tier == 'high'")
    few = prompts.query("language == 'en'").groupby("harmful").head(6)
    wrapper = SteeringWrapper(
        make_pipeline(clone(reader), LatentGate(unknown_language="source")),
        strength=0.7,
        judge=judge,
        generate_kwargs={"max_new_tokens": 8},
    )
    wrapper.fit(prompts["prompt"], prompts["harmful"], language=prompts["language"])
    score = wrapper.score(few["prompt"], few["harmful"], language=few["language"])
    assert score > 0.5


def test_it_is_an_estimator(judge, tmp_path):
    copy = clone(judge.set_params(abstain_below=0.7))
    assert copy.abstain_below == 0.7
    assert not hasattr(copy, "gate_")
    joblib.dump(judge, tmp_path / "judge.joblib")
    X, _ = table()
    loaded = joblib.load(tmp_path / "judge.joblib")
    np.testing.assert_array_equal(loaded.decision_function(X), judge.decision_function(X))


def test_probabilities_are_the_gate_s_at_any_operating_point():
    X, y = table(40)
    gate = LatentGate(unknown_language="source", target_fpr=0.2)
    judge = LatentJudge(Lengths(), gate).fit(X, y, language="en")
    features = Lengths().transform(
        [[{"content": p}, {"content": r}] for p, r in zip(X["prompt"], X["reply"], strict=True)]
    )
    np.testing.assert_allclose(
        judge.predict_proba(X, language="en"),
        judge.gate_.predict_proba(features, language=["en"] * len(X)),
    )


def test_tables_of_other_kinds(judge):
    X, _ = table()
    scores = judge.decision_function(X)
    shuffled = X.set_index(np.arange(len(X)) % 3)
    np.testing.assert_array_equal(judge.decision_function(shuffled), scores)
    np.testing.assert_array_equal(judge.decision_function(pl.from_pandas(X)), scores)
    assert judge.is_refusal([], prompts=[]).shape == (0,)


def test_a_table_without_answers_to_harmful_prompts_warns():
    X, y = table()
    X["harmful"] = y
    with pytest.warns(UserWarning, match="harmful prompts from harmless") as caught:
        LatentJudge(Lengths()).fit(X, y)
    assert len(caught) == 2
    X["harmful"] = np.arange(len(y)) % 2 == 0
    LatentJudge(Lengths()).fit(X, y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda j, X, y: j.fit(X[["prompt"]], y), ValueError, "'prompt' and 'reply'"),
        (lambda j, X, y: j.fit(X.to_numpy(), y), ValueError, "'prompt' and 'reply'"),
        (lambda j, X, y: j.fit(X, y[:-1]), ValueError, "expected 12"),
        (lambda j, X, y: j.fit(X, ["no"] * 12), ValueError, "'refused', 'answered'"),
        (lambda j, X, y: j.partial_fit(X, y, "xx"), NotFittedError, "not fitted"),
        (lambda j, X, y: j.is_refusal(["no"]), ValueError, "prompts=None"),
        (lambda j, X, y: j.is_refusal(["no"], prompts=["a", "b"]), ValueError, "2 prompts and 1"),
        (lambda j, X, y: j.is_refusal([None], prompts=["a"]), TypeError, "expected a str"),
        (lambda j, X, y: j.set_params(abstain_below=0.2).fit(X, y), ValueError, "abstain_below"),
        (lambda j, X, y: j.fit(X, [None] * 12), ValueError, "0 refusals among 0 labelled"),
        (lambda j, X, y: j.fit(X.assign(reply=" "), y), ValueError, "0 refusals among 0 labelled"),
        (
            lambda j, X, y: j.fit(X),
            ValueError,
            r"PhraseJudge.is_refusal\(replies\) with 0 refusals",
        ),
        (lambda j, X, y: j.fit(X.assign(harmful="no"), y), ValueError, r"X\['harmful'\] with 'no'"),
        (lambda j, X, y: j.fit(X, y).score(X, [None] * 12), ValueError, "without any label"),
        (
            lambda j, X, y: (
                j.fit(X, y).set_params(abstain_below=2).is_refusal(["a"], prompts=["b"])
            ),
            ValueError,
            "abstain_below",
        ),
        (lambda j, X, y: j.set_params(reader="m").fit(X, y), ValueError, "reader"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(LatentJudge(Lengths()), *table())


def test_a_reader_of_the_prompt_alone_is_refused():
    reader = Lengths()
    reader.position = ("last", "instruction")
    with pytest.raises(ValueError, match="'instruction' is read before the reply"):
        LatentJudge(reader).fit(*table())
