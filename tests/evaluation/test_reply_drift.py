"""reply_drift against distributions computed by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from steered import LANGUAGE, PROMPTS, Y, make_telling_model, make_wrapper

from skgate import SteeringWrapper
from skgate.evaluation import reply_drift

PROMPT = "kill egg"


@pytest.fixture
def steered(tokenizer):
    model = make_telling_model("llama", tokenizer)
    return make_wrapper(model, tokenizer, strength=4.0).fit(PROMPTS, Y, language=LANGUAGE)


@pytest.fixture
def unsteered(steered):
    return SteeringWrapper(steered.gate_, on_harmful=None, on_harmless=None)


def as_frame(prompts):
    return pd.DataFrame({"prompt": prompts, "language": "en", "harmful": False})


def test_a_model_does_not_drift_from_itself(unsteered):
    drift = reply_drift(
        unsteered, unsteered, as_frame(PROMPTS[:3]), verbose=False, max_new_tokens=6
    )
    assert list(drift) == ["id", "language", "identical", "kl", "loss"]
    assert drift["identical"].all()
    assert drift[["kl", "loss"]].abs().to_numpy().max() < 1e-6


def test_it_is_measured_along_the_reply_of_the_reference(steered, unsteered):
    (row,) = reply_drift(
        steered, unsteered, as_frame([PROMPT]), verbose=False, max_new_tokens=6
    ).to_dict("records")
    logits = {}
    for name, wrapper in (("reference", unsteered), ("model", steered)):
        with wrapper.attach(language=None) as view:
            tokenizer = steered.gate_[0].tokenizer
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": PROMPT}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            forced = logits.get("tokens")

            def force(ids, scores, forced=forced, start=inputs["input_ids"].shape[1]):
                if forced is None:
                    return scores
                only = torch.full_like(scores, -torch.inf)
                only[0, forced[ids.shape[1] - start]] = 0
                return only

            output = view.generate(
                **inputs,
                max_new_tokens=6,
                do_sample=False,
                logits_processor=[force],
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits[name] = torch.cat(output.logits).double().log_softmax(-1)
        logits.setdefault("tokens", output.sequences[0, inputs["input_ids"].shape[1] :])
    q, p, tokens = logits["reference"], logits["model"], logits["tokens"]
    steps = range(len(tokens))
    assert row["loss"] == pytest.approx(float((q - p)[steps, tokens].mean()), abs=1e-5)
    assert row["kl"] == pytest.approx(float((q.exp() * (q - p)).sum(-1).mean()), abs=1e-5)
    assert row["kl"] > 0.01
    replies = [one.generate([PROMPT], max_new_tokens=6)[0] for one in (steered, unsteered)]
    assert row["identical"] == (replies[0] == replies[1])


def test_a_model_that_ignores_the_processor_is_an_error():
    class Mute:
        def generate(self, prompts, language=None, **kwargs):
            return [""] * len(prompts)

    with pytest.raises(RuntimeError, match="Got 0 steps of the logits_processor from a Mute"):
        reply_drift(Mute(), Mute(), as_frame(["boil egg"]), verbose=False)


@pytest.mark.parametrize("own", [False, True])
def test_the_callers_processors_run_too(own, steered, unsteered):
    def only(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([9]), 0)

    given = {"logits_processor": [only]}
    if own:
        steered.set_params(generate_kwargs=given)
        unsteered.set_params(generate_kwargs=given)
    drift = reply_drift(
        steered,
        unsteered,
        as_frame([PROMPT]),
        verbose=False,
        max_new_tokens=2,
        **({} if own else given),
    )
    assert drift[["identical", "kl", "loss"]].values.tolist() == [[True, 0, 0]]


def test_a_device_without_float64():
    class Scores(torch.Tensor):
        def double(self):
            raise TypeError("MPS has no float64")

        def cpu(self):
            return self.as_subclass(torch.Tensor)

    class Model:
        def generate(self, prompts, language=None, *, logits_processor, **kwargs):
            logits_processor[-1](None, torch.zeros(1, 4).as_subclass(Scores))

    (row,) = reply_drift(Model(), Model(), as_frame([PROMPT]), verbose=False).to_dict("records")
    assert (row["kl"], row["loss"]) == (0, 0)


def test_no_reply_is_lost(steered, unsteered):
    drift = reply_drift(steered, unsteered, as_frame(PROMPTS[:2]), verbose=False, max_new_tokens=2)
    assert drift["id"].tolist() == ["0", "1"]
    assert np.isfinite(drift[["kl", "loss"]]).all().all()
