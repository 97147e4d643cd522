"""How many models a process keeps, and which tokenizers are the same."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import threading
import weakref

import numpy as np
import pytest
from bare import GREEDY, LANGUAGE, PROMPTS, Y, bare_rows
from folders import make_llama, save
from shifted import pooled_gate
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaModel

import skgate
from skgate import ActivationTransformer, SteeringWrapper

FEW = PROMPTS[:3]


@pytest.fixture(autouse=True)
def registry_as_at_the_start():
    yield
    if hasattr(skgate, "set_max_models"):
        skgate.set_max_models(2)
        skgate.release_models()


@pytest.fixture
def places(tmp_path, tokenizer):
    """Four checkpoints of different weights."""
    import torch

    found = []
    for i in range(4):
        model = make_llama(tokenizer)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(1 + i / 10)
        found.append(save(model, tokenizer, tmp_path / f"model-{i}"))
    return found


@pytest.fixture
def count_loads(monkeypatch):
    """Count how often a Llama is made, whoever does it."""
    made = []
    start = LlamaModel.__init__

    def counting(self, *args, **kwargs):
        made.append(1)
        start(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "__init__", counting)
    return made


def alive(path):
    """The models of a folder that somebody still holds."""
    gc.collect()
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is LlamaForCausalLM and thing.name_or_path == str(path)
    ]


def transform(path, **params):
    return ActivationTransformer(str(path), layer=1, **params).transform(FEW)


def test_release_models_frees_what_was_loaded_by_path(places):
    """The model goes, and a later call loads it anew and gives the same."""
    reader = ActivationTransformer(places[0], layer=1, store=False)
    first = reader.transform(FEW)
    (loaded,) = [weakref.ref(model) for model in alive(places[0])]
    skgate.release_models()
    gc.collect()
    assert loaded() is None
    np.testing.assert_array_equal(reader.transform(FEW), first)
    assert len(alive(places[0])) == 1


def test_release_models_loads_anew_only_when_needed(places, count_loads):
    """Releasing what isn't loaded is no error, and nothing is loaded by it."""
    skgate.release_models()
    skgate.release_models()
    assert not count_loads
    transform(places[0])
    transform(places[0])
    assert len(count_loads) == 1
    skgate.release_models()
    transform(places[0])
    assert len(count_loads) == 2


def test_release_models_leaves_live_models_alone(tokenizer):
    """A live model is the caller's."""
    model = make_llama(tokenizer)
    reader = ActivationTransformer(model, tokenizer=tokenizer, layer=1, store=False)
    first = reader.transform(FEW)
    skgate.release_models()
    np.testing.assert_array_equal(reader.transform(FEW), first)


def test_release_models_frees_what_wrappers_used(places):
    """Neither a fitted wrapper nor its shortcuts, hooks and caches keep a model."""

    class Everything:
        def is_refusal(self, replies, prompts=None, language=None):
            return np.ones(len(replies), dtype=bool)

    pipeline = make_pipeline(ActivationTransformer(places[0], layer=1), pooled_gate())
    params = {"generate_kwargs": GREEDY, "strength": 1.0, "judge": Everything()}
    wrapper = SteeringWrapper(pipeline, **params).fit(PROMPTS, Y, language=LANGUAGE)
    replies = wrapper.generate(FEW)
    wrapper.score(PROMPTS[::7], Y[::7])
    skgate.release_models()
    assert alive(places[0]) == []
    assert wrapper.generate(FEW) == replies


def test_four_models_one_after_the_other(places):
    """Loaded and released in turn, never more than one is alive."""
    for path in places:
        transform(path)
        assert sum(len(alive(place)) for place in places) == 1
        skgate.release_models()
    assert sum(len(alive(place)) for place in places) == 0


def test_two_models_are_kept_unless_told_otherwise(places):
    """The registry is bounded, and the least recently used goes first."""
    first, second, third, _ = places
    transform(first, store=False)
    transform(second, store=False)
    transform(first, store=False)
    transform(third, store=False)
    assert [len(alive(place)) for place in places] == [1, 0, 1, 0]


@pytest.mark.parametrize("n", [1, 3])
def test_set_max_models(places, n):
    """The bound can be set; a smaller one takes effect at once."""
    skgate.set_max_models(n)
    for path in places:
        transform(path)
    kept = [0] * (4 - n) + [1] * n
    assert [len(alive(place)) for place in places] == kept
    skgate.set_max_models(1)
    assert [len(alive(place)) for place in places] == [0, 0, 0, 1]


def test_a_search_over_several_models_never_reloads(places, count_loads):
    """A grid with several models stays within the bound that is set for it."""
    skgate.set_max_models(3)
    pipeline = make_pipeline(ActivationTransformer(places[0], layer=1, store=False), pooled_gate())
    grid = {"activationtransformer__model": places[:3], "latentgate__rank": [1, 2]}
    GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(PROMPTS, Y)
    assert len(count_loads) == 3


@pytest.mark.parametrize("n", [0, -1, 1.5, "two", None, True])
def test_bad_numbers_of_models(n):
    """At least one."""
    with pytest.raises((ValueError, TypeError), match=r"max_models|n="):
        skgate.set_max_models(n)


# The bound must not make it worse.
def test_a_grid_search_over_a_wrapper_loads_its_model_once(places, count_loads):
    """``n_jobs=1``, a path-based wrapper, three candidates, two folds and a refit."""

    class Words:
        def is_refusal(self, replies, prompts=None, language=None):
            return np.array(["who" in reply for reply in replies])

    pipeline = make_pipeline(ActivationTransformer(places[0], layer=1), pooled_gate())
    wrapper = SteeringWrapper(
        pipeline, judge=Words(), generate_kwargs={"max_new_tokens": 2}, strength=1.0
    )
    search = GridSearchCV(wrapper, {"strength": [0.5, 1.0, 2.0]}, cv=2, error_score="raise")
    search.fit(PROMPTS, Y)
    assert len(count_loads) == 1
    search.best_estimator_.generate(FEW)
    assert len(count_loads) == 1


def test_a_model_in_use_survives_its_release(places):
    """A call that is running goes on, whatever is released or dropped meanwhile."""
    skgate.set_max_models(1)
    expected = [transform(path, store=False) for path in places[:2]]
    found = [[], []]
    failures = []

    def work(i):
        try:
            for _ in range(5):
                found[i].append(transform(places[i], store=False))
                skgate.release_models()
        except BaseException as error:  # reported below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for i in (0, 1):
        for rows in found[i]:
            np.testing.assert_array_equal(rows, expected[i])


# Which tokenizers are the same


def source(path, tokenizer):
    return ActivationTransformer(path, layer=1, tokenizer=tokenizer).activation_source()


COPIES = {
    "loaded_twice": lambda path, tokenizer: AutoTokenizer.from_pretrained(path),
    "deepcopy": lambda path, tokenizer: copy.deepcopy(tokenizer),
    "pickle": lambda path, tokenizer: pickle.loads(pickle.dumps(tokenizer)),
}


@pytest.mark.parametrize("how", COPIES)
def test_equal_tokenizers_share_one_model(how, places, count_loads):
    """Two objects of one tokenizer count as equal: one model is loaded."""
    one = AutoTokenizer.from_pretrained(places[0])
    rows = transform(places[0], tokenizer=one)
    two = COPIES[how](places[0], one)
    np.testing.assert_array_equal(transform(places[0], tokenizer=two), rows)
    assert len(count_loads) == 1
    assert len(alive(places[0])) == 1
    assert source(places[0], one) == source(places[0], two)


def test_a_used_tokenizer_equals_a_fresh_one(places, count_loads):
    """The padding and truncation that a call leaves behind don't count."""
    fresh, used = (AutoTokenizer.from_pretrained(places[0]) for _ in range(2))
    used.pad_token = fresh.pad_token = "<unk>"
    before = source(places[0], used)
    used(["boil", "an egg"], padding=True, truncation=True, max_length=2)
    assert source(places[0], used) == before == source(places[0], fresh)
    transform(places[0], tokenizer=fresh)
    transform(places[0], tokenizer=used)
    assert len(count_loads) == 1


def edited(tokenizer, change):
    """A tokenizer of the same vocabulary whose backend differs in one thing."""
    from tokenizers import Tokenizer

    own = copy.deepcopy(tokenizer)
    state = json.loads(own.backend_tokenizer.to_str())
    change(state)
    own._tokenizer = Tokenizer.from_str(json.dumps(state))  # noqa: SLF001  (no public way)
    return own


def swap_ids(state):
    vocabulary = state["model"]["vocab"]
    vocabulary["boil"], vocabulary["egg"] = vocabulary["egg"], vocabulary["boil"]


def set_normalizer(state):
    state["normalizer"] = {"type": "Replace", "pattern": {"String": "boil"}, "content": "egg"}


def set_post_processor(state):
    state["post_processor"] = None


CHANGES = {"ids": swap_ids, "normalizer": set_normalizer, "post_processor": set_post_processor}


@pytest.mark.parametrize("change", CHANGES)
def test_different_tokenizers_are_never_shared(change, places):
    """Same vocabulary, another backend: rows are each tokenizer's own."""
    one = AutoTokenizer.from_pretrained(places[0])
    two = edited(one, CHANGES[change])
    model = LlamaForCausalLM.from_pretrained(places[0])
    prompts = ["boil an egg", "boil", "egg"]
    for tokenizer in (one, two, one):
        found = ActivationTransformer(places[0], layer=1, tokenizer=tokenizer).transform(prompts)
        np.testing.assert_allclose(found, bare_rows(model, tokenizer, prompts, 1), atol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
def test_different_tokenizers_are_told_apart(change, places):
    """The fingerprint hashes the whole backend, not what it makes of one text."""
    one = AutoTokenizer.from_pretrained(places[0])
    assert source(places[0], one).differences(source(places[0], edited(one, CHANGES[change]))) == [
        "tokenizer"
    ]


def bpe(merges):
    """A BPE tokenizer of one vocabulary, with its merges in an order."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", *"boileg ", "bo", "oi", "il", "eg"]
    backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_other_merges_are_another_tokenizer(places):
    """The same pieces, merged in another order."""
    one, two = bpe([("b", "o"), ("o", "i"), ("i", "l")]), bpe([("o", "i"), ("b", "o"), ("i", "l")])
    assert one("boil").input_ids != two("boil").input_ids
    readers = [
        ActivationTransformer(places[0], layer=1, tokenizer=t, chat_template=False)
        for t in (one, two)
    ]
    rows = [reader.transform(["boil", "egg"]) for reader in readers]
    assert np.abs(rows[0][0] - rows[1][0]).max() > 0.01
    sources = [reader.activation_source() for reader in readers]
    assert sources[0].differences(sources[1]) == ["tokenizer"]


def test_another_template_is_never_shared(places):
    """Equal backends with other chat templates format prompts each in its own way."""
    one, two = (AutoTokenizer.from_pretrained(places[0]) for _ in range(2))
    two.chat_template = two.chat_template.replace("<|end|>", "now")
    model = LlamaForCausalLM.from_pretrained(places[0])
    for tokenizer in (one, two, one):
        np.testing.assert_allclose(
            transform(places[0], tokenizer=tokenizer),
            bare_rows(model, tokenizer, FEW, 1),
            atol=1e-5,
        )
    assert source(places[0], one).differences(source(places[0], two)) == ["template"]
