"""Threads and nested calls on one model: each gets what it would get alone."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from bare import GREEDY, LANGUAGE, PROMPTS, Y, bare_ids, let_harmful_words_share
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shifted import pooled_gate
from sklearn.pipeline import make_pipeline
from tiny import make_model

from skgate import ActivationTransformer, SteeringWrapper

# SKGATE_INTERLEAVINGS=500 tries more of them.
N_INTERLEAVINGS = int(os.environ.get("SKGATE_INTERLEAVINGS", "25"))
FEW = ["kill egg", "the cat sat on the mat and then it ran away", "boil who", "ran", "stop it now"]
SETTINGS = [(1, 2.0, "add"), (1, 4.0, "add"), (2, 3.0, "add"), (1, 2.0, None)]
PATIENCE = 60  # seconds, before a thread that waits for its turn gives up


def make_wrappers(tokenizer):
    """One model, and gates of other layers, strengths, actions and languages."""
    model = let_harmful_words_share(make_model("llama"), tokenizer)
    wrappers = []
    for layer, strength, on_harmful in SETTINGS:
        reader = ActivationTransformer(model, tokenizer=tokenizer, layer=layer)
        wrapper = SteeringWrapper(
            make_pipeline(reader, pooled_gate(calibration="threshold")),
            strength=strength,
            on_harmful=on_harmful,
            generate_kwargs=GREEDY,
        )
        wrapper.fit(PROMPTS, Y, language=LANGUAGE)
        wrappers.append(wrapper.partial_fit(PROMPTS[10:20], 1 - Y[10:20], language="sw"))
    return model, wrappers


@pytest.fixture(scope="module")
def shared(request):
    tokenizer = request.getfixturevalue("tokenizer")
    model, wrappers = make_wrappers(tokenizer)
    return Jobs(model, wrappers, tokenizer)


class Jobs:
    """What a thread may do with the model; what it gives alone is remembered."""

    def __init__(self, model, wrappers, tokenizer):
        self.model, self.wrappers, self.tokenizer = model, wrappers, tokenizer
        self.alone = {}

    def run(self, job):
        kind, gate, language, rows, beams = job
        wrapper, options = self.wrappers[gate], {"num_beams": beams}
        prompts = [FEW[row] for row in rows]
        if kind == "wrapper":
            replies, decisions = wrapper.generate(
                prompts, language, return_decisions=True, **options
            )
            return replies, decisions["harm_score"].round(3).tolist()
        ids = bare_ids(self.tokenizer, prompts[0])
        options |= {**GREEDY, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
        if kind == "model":
            return self.model.generate(ids, **options).tolist()
        with wrapper.attach(language) as steered:
            if kind == "view":
                return steered.generate(ids, **options).tolist()
            with torch.no_grad():
                return [round(x, 3) for x in steered(ids).logits[0, -1].tolist()]

    def run_alone(self, job):
        if job not in self.alone:
            self.alone[job] = self.run(job)
        return self.alone[job]


class Turns:
    """Lets threads enter the model's blocks in a given order."""

    def __init__(self, order, n_threads):
        self.order = itertools.cycle([*order, *range(n_threads)])
        self.threads, self.active = {}, set(range(n_threads))
        self.changed = threading.Condition()
        self.next = next(self.order)

    def _advance(self):
        if self.active:
            self.next = next(i for i in self.order if i in self.active)
        self.changed.notify_all()

    def take(self, module, args):
        me = self.threads.get(threading.get_ident())
        if me is None:
            return
        with self.changed:
            if not self.changed.wait_for(lambda: self.next == me, timeout=PATIENCE):
                raise TimeoutError(f"thread {me} never got its turn")
            self._advance()

    def work(self, me, run, job):
        self.threads[threading.get_ident()] = me
        try:
            return run(job)
        finally:
            with self.changed:
                del self.threads[threading.get_ident()]
                self.active.discard(me)
                if self.next == me:
                    self._advance()


jobs_of_threads = st.lists(
    st.tuples(
        st.sampled_from(["wrapper", "wrapper", "view", "forward", "model"]),
        st.integers(0, len(SETTINGS) - 1),
        st.sampled_from([None, "de", "en", "sw"]),
        st.lists(st.integers(0, len(FEW) - 1), min_size=1, max_size=4).map(tuple),
        st.sampled_from([1, 1, 2]),
    ),
    min_size=2,
    max_size=4,
)


@settings(
    max_examples=N_INTERLEAVINGS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(jobs=jobs_of_threads, order=st.lists(st.integers(0, 3), max_size=40))
def test_threads_equal_serial_runs(shared, jobs, order):
    """Other gates, languages and numbers of prompts, block by block in any order."""
    expected = [shared.run_alone(job) for job in jobs]
    turns = Turns([i for i in order if i < len(jobs)], len(jobs))
    handles = [block.register_forward_pre_hook(turns.take) for block in shared.model.model.layers]
    try:
        with ThreadPoolExecutor(len(jobs)) as pool:
            running = [pool.submit(turns.work, i, shared.run, job) for i, job in enumerate(jobs)]
            assert [one.result() for one in running] == expected
    finally:
        for handle in handles:
            handle.remove()


def test_the_jobs_differ(shared):
    """Else the test above could not tell them apart."""
    jobs = [("view", gate, None, (0,), 1) for gate in range(len(SETTINGS))]
    replies = [str(shared.run_alone(job)) for job in [("model", 0, None, (0,), 1), *jobs]]
    assert len(set(replies)) >= 4
    by_language = [shared.run_alone(("wrapper", 0, name, (0,), 1)) for name in ("en", "sw")]
    assert by_language[0] != by_language[1]


def test_a_steering_that_ends_in_the_middle_of_anothers_pass(shared):
    """Torch lists a module's hooks first, and asks later whether one wants keywords."""
    model, wrapper = shared.model, shared.wrappers[0]
    ids = bare_ids(shared.tokenizer, FEW[0])
    with torch.no_grad():
        expected = model(ids).logits
    hooked, entered, ended = (threading.Event() for _ in range(3))
    steering_thread, waiting_thread = [], []

    def wait(module, args):
        if threading.get_ident() in waiting_thread:
            entered.set()
            assert ended.wait(PATIENCE)

    def hold(module, args):
        if threading.get_ident() in steering_thread:
            hooked.set()
            assert entered.wait(PATIENCE)

    handles = [
        model.model.register_forward_pre_hook(wait),  # before skgate's
        model.model.layers[3].register_forward_pre_hook(hold),
    ]

    def steer():
        steering_thread.append(threading.get_ident())
        wrapper.generate([FEW[0]], max_new_tokens=1)
        ended.set()

    def forward():
        waiting_thread.append(threading.get_ident())
        assert hooked.wait(PATIENCE)
        with torch.no_grad():
            return model(ids).logits

    try:
        with ThreadPoolExecutor(2) as pool:
            steering, plain = pool.submit(steer), pool.submit(forward)
            steering.result()
            torch.testing.assert_close(plain.result(), expected)
    finally:
        for handle in handles:
            handle.remove()


# Nested and stacked


def ids_of(steered, shared, prompt, **options):
    ids = bare_ids(shared.tokenizer, prompt)
    mask = torch.ones_like(ids)
    return steered.generate(ids, attention_mask=mask, pad_token_id=0, **GREEDY, **options).tolist()


def test_two_views_at_once(shared):
    """Each steers by its own gate, also after the other is closed."""
    one, two = shared.wrappers[0], shared.wrappers[1]
    with one.attach() as alone:
        first = [ids_of(alone, shared, prompt) for prompt in FEW]
    with two.attach() as alone:
        second = [ids_of(alone, shared, prompt) for prompt in FEW]
    plain = [ids_of(shared.model, shared, prompt) for prompt in FEW]
    assert first != second
    assert plain not in (first, second)
    with one.attach() as outer:
        with two.attach() as inner:
            for i, prompt in enumerate(FEW):
                assert ids_of(inner, shared, prompt) == second[i]
                assert ids_of(outer, shared, prompt) == first[i]
                assert ids_of(shared.model, shared, prompt) == plain[i]
            assert one.generate(FEW[:1]) == shared.run_alone(("wrapper", 0, None, (0,), 1))[0]
        assert [ids_of(outer, shared, prompt) for prompt in FEW] == first
        with pytest.raises(RuntimeError, match="no longer attached"):
            ids_of(inner, shared, FEW[0])


@pytest.mark.parametrize("inside", ["view", "wrapper", "same wrapper"])
def test_steering_inside_of_steering(inside, shared):
    """A criterion that asks another gate, token by token, in the middle of a reply."""
    outer, other = shared.wrappers[0], shared.wrappers[2]
    (expected,) = outer.generate(FEW[:1])
    found = []

    class Asking:
        def __call__(self, ids, scores, **kwargs):
            if inside == "view":
                with other.attach() as steered:
                    found.append(ids_of(steered, shared, FEW[1]))
            else:
                found.extend((other if inside == "wrapper" else outer).generate(FEW[1:2]))
            return torch.zeros(len(ids), dtype=torch.bool)

    assert outer.generate(FEW[:1], stopping_criteria=[Asking()]) == [expected]
    if inside == "view":
        with other.attach() as steered:
            alone = ids_of(steered, shared, FEW[1])
    else:
        (alone,) = (other if inside == "wrapper" else outer).generate(FEW[1:2])
    assert len(found) > 1
    assert all(one == alone for one in found)


def test_a_view_is_not_the_model_of_an_estimator(shared):
    """It would be steered twice, or its activations read as if it were not steered."""
    message = "Got a steered view of a LlamaForCausalLM as model, expected the model itself"
    with shared.wrappers[0].attach() as steered:
        reader = ActivationTransformer(steered, tokenizer=shared.tokenizer, layer=1)
        with pytest.raises(TypeError, match=message):
            reader.transform(FEW)
        pipeline = make_pipeline(reader, shared.wrappers[1].gate_[-1])
        stacked = SteeringWrapper(pipeline, generate_kwargs=GREEDY, strength=1.0)
        with pytest.raises(TypeError, match=message):
            stacked.generate(FEW)
        with pytest.raises(TypeError, match=message), stacked.attach():
            pass
        reader.set_params(model=torch.compile(steered, backend="eager"))
        with pytest.raises(TypeError, match=message):
            stacked.generate(FEW)
