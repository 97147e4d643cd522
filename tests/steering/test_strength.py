"""strength="auto": chosen by how likely the model's own refusals become."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from steered import LANGUAGE, PROMPTS, Y, make_wrapper
from tiny import make_model

from skgate import ActivationTransformer, LatentGate, SteeringWrapper
from skgate.datasets import load_organism
from skgate.judges import PhraseJudge
from skgate.model._loading import find_parts
from skgate.steering._layer import middle_of_plateau
from skgate.steering._reply_likelihood import ReplyLikelihood

LAYER = 4


@pytest.fixture(scope="module")
def organism():
    return load_organism()


@pytest.fixture(scope="module")
def sources(organism):
    train = organism.prompts.query("split == 'train' and tier == 'high'")
    return train.groupby(["language", "harmful"]).head(24)


def steer(organism, layer=LAYER, **params):
    reader = ActivationTransformer(organism.model, tokenizer=organism.tokenizer, layer=layer)
    return SteeringWrapper(make_pipeline(reader, LatentGate()), **params)


@pytest.fixture(scope="module")
def chosen(organism, sources):
    wrapper = steer(organism)
    return wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba", "gemma3"])
def test_likelihoods_are_those_of_generation(architecture, tokenizer):
    model = make_model(architecture)
    language_model = find_parts(model, tokenizer)
    direction = np.random.default_rng(0).normal(size=language_model.hidden_size)
    direction /= np.linalg.norm(direction)
    prompt, reply, amounts = np.array([1, 5, 9, 7, 8]), [4, 6, 3], [0.0, 3.0]
    found = ReplyLikelihood(language_model, prompt).mean_log_likelihoods(
        reply, 1, direction, amounts
    )
    ids = torch.tensor([[*prompt, *reply]])
    for amount, value in zip(amounts, found, strict=True):

        def move(module, args, output, amount=amount):
            hidden = output[0] if isinstance(output, tuple) else output
            shift = torch.zeros(hidden.shape[1])
            shift[len(prompt) - 1 :] = amount
            moved = hidden + shift[:, None] * torch.tensor(direction).float()
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = language_model.blocks[1].register_forward_hook(move)
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        handle.remove()
        expected = logits[range(3), reply].mean()
        assert value == pytest.approx(float(expected), abs=1e-4)


def test_the_chosen_strength_is_as_good_as_the_best(chosen, organism):
    harmful = organism.prompts.query("split == 'val' and tier == 'high' and harmful")
    harmful = harmful.groupby("language").head(6)
    table = chosen.select_strength(
        harmful["prompt"], strengths=np.arange(0.25, 2.25, 0.25), max_new_tokens=24
    ).set_index("strength")["refusal_rate"]
    assert chosen.strength_ in table.index
    assert table[chosen.strength_] >= table.max() - 0.05
    assert table.min() < 0.5  # a strength can be wrong


def test_fit_tells_how_it_chose(chosen):
    table = chosen.strength_search_
    assert list(table) == ["language", "strength", "log_likelihood"]
    assert table["language"].nunique() == 4
    assert table["strength"].min() == 0
    assert table.attrs["n_prompts"] == 32
    assert table.attrs["n_tokens"] > 0
    best = table.groupby("strength")["log_likelihood"].mean().idxmax()
    assert chosen.strength_ == table.attrs["strength"] == best
    assert chosen.strength == "auto"


def test_choosing_takes_a_fraction_of_the_tokens_of_select_strength(chosen, sources):
    few = sources.groupby(["language", "harmful"]).head(4)
    lengths = [len(chosen.gate_[0].tokenizer.encode(one)) for one in few["prompt"]]
    swept = 13 * (sum(lengths) + len(few) * 24)
    assert chosen.strength_search_.attrs["n_tokens"] < swept / 4


def test_a_fitted_gate_gets_a_strength_without_fitting_it_again(chosen, sources):
    given = sources["prompt"], sources["harmful"]
    with pytest.raises(NotFittedError, match="a number as strength; fit"):
        SteeringWrapper(chosen.gate_).generate(["draw the lamp ."])
    one = SteeringWrapper(chosen.gate_).choose_strength(*given, language=sources["language"])
    two = SteeringWrapper(FrozenEstimator(chosen.gate_)).fit(*given, language=sources["language"])
    assert one.strength_ == two.strength_ == chosen.strength_
    assert not hasattr(one, "gate_")
    replies = [wrapper.generate(["smash the lamp ."], max_new_tokens=24) for wrapper in (one, two)]
    assert replies[0] == replies[1]
    assert PhraseJudge().is_refusal(replies[0]).all()


def test_a_wrapper_that_adds_nothing_needs_no_strength(wrapper, model, tokenizer):
    observer = make_wrapper(model, tokenizer, strength="auto", on_harmful=None)
    observer.fit(PROMPTS, Y, language=LANGUAGE)
    assert not hasattr(observer, "strength_")
    assert len(observer.generate(PROMPTS[:2])) == 2


def test_a_model_that_never_refuses_is_an_error(organism, sources):
    wrapper = steer(organism, strength=1.0).fit(sources["prompt"], sources["harmful"])
    harmless = sources.query("not harmful")  # the model answers them, whatever their label
    wrapper.set_params(strength="auto")
    y = np.arange(len(harmless)) % 2
    with pytest.raises(ValueError, match="no refusal was found that steering makes likelier"):
        wrapper.choose_strength(harmless["prompt"], y == 1, language=harmless["language"])
    assert not hasattr(wrapper, "strength_")
    other = steer(organism).set_params(gate__activationtransformer__layer=4)
    with pytest.raises(ValueError, match="no refusal was found that steering makes likelier"):
        other.select_layer(harmless["prompt"], y, language=harmless["language"], layers=[3, 4])


def test_one_class_alone_is_an_error(chosen, sources):
    with pytest.raises(ValueError, match="no language with prompts of both classes"):
        chosen.choose_strength(sources["prompt"][:4], [True] * 4)


@pytest.mark.parametrize("strength", [-1, "car", None])
def test_other_strengths_are_errors(organism, sources, strength):
    with pytest.raises(ValueError, match="strength"):
        steer(organism, strength=strength).fit(sources["prompt"], sources["harmful"])


def test_select_layer_without_validation_prompts(organism):
    sources = organism.prompts.query("split == 'train' and tier == 'high'")
    table = steer(organism).select_layer(
        sources["prompt"], sources["harmful"], language=sources["language"], layers=[0, 3, 4]
    )
    assert list(table) == ["layer", "strength", "log_likelihood"]
    assert table["layer"].tolist() == [0, 3, 4]
    assert table.attrs["layer"] in (3, 4)
    best = table.set_index("layer")["log_likelihood"]
    assert best[0] < best[[3, 4]].min()


def test_the_layer_is_in_the_middle_of_those_that_are_as_good():
    means = np.array([0, 5, 5, 5, 0, 5.0])
    assert middle_of_plateau(means[:, None] + np.zeros((6, 8))) == 2
    assert middle_of_plateau(np.eye(3)[1][:, None] * np.ones((3, 8))) == 1


def test_score_warns_if_nothing_is_refused(wrapper):
    with pytest.warns(UserWarning, match="PhraseJudge found no refusal among 4 replies"):
        assert wrapper.score(PROMPTS[:2] + PROMPTS[-2:], [0, 0, 1, 1]) == 0


def test_a_number_is_not_replaced(organism, sources):
    wrapper = steer(organism).fit(sources["prompt"], sources["harmful"])
    wrapper.set_params(strength=1.0)
    with pytest.raises(ValueError, match=r"Got strength=1.0, expected 'auto'"):
        wrapper.choose_strength(sources["prompt"], sources["harmful"])
    assert not hasattr(wrapper.fit(sources["prompt"], sources["harmful"]), "strength_")


def test_labels_are_those_of_the_gate(chosen, sources):
    with pytest.raises(ValueError, match=r"Got \['bad', 'good'\] in y, expected labels out of"):
        chosen.choose_strength(sources["prompt"], np.where(sources["harmful"], "bad", "good"))


def test_what_is_meant_for_replies_does_not_change_the_choice(organism, sources, chosen):
    from transformers import TextStreamer

    options = {"min_new_tokens": 30, "max_length": 60, "num_return_sequences": 3}
    options["streamer"] = TextStreamer(organism.tokenizer)
    wrapper = steer(organism, generate_kwargs=options)
    wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    assert wrapper.strength_ == chosen.strength_


def test_select_layer_takes_options_of_generate_only_if_it_generates(organism, sources):
    with pytest.raises(TypeError, match=r"Got \['layer'\] without validation_prompts"):
        steer(organism).select_layer(sources["prompt"], sources["harmful"], layer=[3, 4])


@pytest.fixture(scope="module")
def shots(organism):
    train = organism.prompts.query("split == 'train' and language in ['qlb', 'qlf']")
    return train.groupby(["language", "harmful"]).sample(4, random_state=0)


def test_the_strength_is_lowered_where_a_language_bears_less(chosen, organism, shots):
    wrapper = deepcopy(chosen)
    wrapper.strength_ = 1.0  # too great for both languages, as the generated replies show
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert set(wrapper.language_strengths_) == {"qlb", "qlf"}
    assert max(wrapper.language_strengths_.values()) < 1
    harmful = organism.prompts.query("split == 'val' and language == 'qlb' and harmful").head(12)
    rates = {}
    for name, strengths in (("lowered", wrapper.language_strengths_), ("as it was", {})):
        wrapper.language_strengths_ = strengths
        replies = wrapper.generate(harmful["prompt"], language="qlb", max_new_tokens=24)
        rates[name] = PhraseJudge().is_refusal(replies).mean()
    assert rates["lowered"] > rates["as it was"] + 0.2


def test_a_strength_that_a_language_bears_stays(chosen, shots):
    wrapper = deepcopy(chosen)
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert wrapper.language_strengths_ == {"qlb": chosen.strength_, "qlf": chosen.strength_}


def test_no_later_call_raises_a_lowered_strength(chosen, sources, shots):
    wrapper = deepcopy(chosen)
    wrapper.language_strengths_ = {"qlb": 0.25}
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert wrapper.language_strengths_ == {"qlb": 0.25, "qlf": chosen.strength_}
    with pytest.warns(UserWarning, match=r"lowered in \['qlb'\] by partial_fit"):
        wrapper.choose_strength(sources["prompt"], sources["harmful"], language=sources["language"])
    assert wrapper.language_strengths_ == {}


def test_the_first_call_checks_the_classes(organism, sources):
    given = sources["prompt"], sources["harmful"]
    with pytest.raises(ValueError, match=r"Got \['bad', 'good'\] in classes"):
        steer(organism).partial_fit(*given, classes=["good", "bad"])


def test_an_interrupted_call_leaves_the_wrapper_as_it_was(chosen, shots, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    wrapper = deepcopy(chosen)
    monkeypatch.setattr("skgate.steering._wrapper.lower_strengths", interrupt)
    with pytest.raises(KeyboardInterrupt):
        wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    monkeypatch.undo()
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    once = deepcopy(chosen)
    once.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    np.testing.assert_array_equal(wrapper.gate_[-1].n_shots_, once.gate_[-1].n_shots_)


def test_a_strength_that_overflows_is_lowered(chosen, shots, monkeypatch):
    def overflow(self, reply, layer, direction, amounts):
        return np.array([-1.0] * (len(amounts) - 1) + [-np.inf])

    monkeypatch.setattr(ReplyLikelihood, "mean_log_likelihoods", overflow)
    wrapper = deepcopy(chosen)
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert set(wrapper.language_strengths_.values()) == {chosen.strength_ / 4}


@pytest.mark.filterwarnings("ignore:The scores of harmful and harmless")  # unsuited to block 2
def test_a_small_gain_lowers_no_strength(organism, shots):
    sources = organism.prompts.query("split == 'train' and tier == 'high'")
    wrapper = steer(organism, layer=2)  # there, a lower strength gains about 0.05 in qlb
    wrapper.fit(sources["prompt"], sources["harmful"], language=sources["language"])
    wrapper.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert wrapper.language_strengths_ == {"qlb": wrapper.strength_, "qlf": wrapper.strength_}


def test_few_shots_and_given_strengths_are_not_checked(chosen, shots):
    one_each = shots.groupby(["language", "harmful"]).head(1)
    wrapper = deepcopy(chosen)
    wrapper.strength_ = 1.0
    wrapper.partial_fit(one_each["prompt"], one_each["harmful"], language=one_each["language"])
    assert wrapper.language_strengths_ == {}
    given = deepcopy(chosen).set_params(strength=1.0)
    given.partial_fit(shots["prompt"], shots["harmful"], language=shots["language"])
    assert given.language_strengths_ == {}


def test_each_row_of_a_batch_has_the_strength_of_its_language(chosen, organism):
    harmful = organism.prompts.query("split == 'val' and language in ['en', 'qaa'] and harmful")
    harmful = harmful.groupby("language").head(4).sample(frac=1, random_state=0)
    wrapper = deepcopy(chosen)
    wrapper.strength_, wrapper.language_strengths_ = 0.5, {"qaa": 8.0}
    together = wrapper.generate(harmful["prompt"], language=harmful["language"], max_new_tokens=24)
    alone = [
        SteeringWrapper(chosen.gate_, strength=8.0 if language == "qaa" else 0.5).generate(
            [prompt], language=language, max_new_tokens=24
        )[0]
        for prompt, language in zip(harmful["prompt"], harmful["language"], strict=True)
    ]
    assert together == alone
    assert PhraseJudge().is_refusal(alone).tolist() == (harmful["language"] == "en").tolist()
