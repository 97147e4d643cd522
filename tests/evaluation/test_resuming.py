"""evaluate_refusal with a file: interrupted, resumed, extended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import evaluated
import pandas as pd
import pytest
from evaluated import Judge, Model, make_models, make_prompts
from transformers import GenerationConfig

from skgate.evaluation import evaluate_refusal
from skgate.evaluation._journal import Journal

pytestmark = pytest.mark.filterwarnings("ignore:Judge abstained:UserWarning")


def run(path, models=None, prompts=None, judge=None, **options):
    options = {"batch_size": 3, "verbose": False, **options}
    models = make_models() if models is None else models
    prompts = make_prompts() if prompts is None else prompts
    return evaluate_refusal(
        models, prompts, Judge() if judge is None else judge, path=path, **options
    )


def n_calls(models):
    return {name: len(model.calls) for name, model in models.items()}


@pytest.mark.parametrize("last", [1, 3, 6])
def test_a_killed_run_goes_on(last, tmp_path):
    """Batches of 3, 3, 3 and 1 prompts for each of two models; SIGKILL within one of them."""
    path, calls = tmp_path / "folder" / "run.jsonl", tmp_path / "calls"
    program = [sys.executable, evaluated.__file__, path, calls, str(last)]
    killed = subprocess.run(program, timeout=300, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    assert len(calls.read_text().splitlines()) == last
    models = make_models()
    resumed = run(path, models)
    assert sum(n_calls(models).values()) == 8 - (last - 1)
    whole = run(tmp_path / "whole.jsonl")
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)
    pd.testing.assert_frame_equal(run(None), whole, check_exact=True)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_run_goes_on_from_any_cut(tmp_path):
    """Wherever a write ended, the file and the frame become those of a whole run."""
    path = tmp_path / "run.jsonl"
    whole = run(path, prompts=make_prompts(4))
    content = path.read_bytes()
    ends = [i + j for i, byte in enumerate(content) if byte == ord("\n") for j in (0, 1)]
    for cut in sorted({*range(0, len(content), 37), *ends}):
        path.write_bytes(content[:cut])
        resumed = run(path, prompts=make_prompts(4))
        assert path.read_bytes() == content
        pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_a_finished_run_generates_nothing(tmp_path):
    models = make_models()
    first = run(tmp_path / "run.jsonl")
    content = (tmp_path / "run.jsonl").read_bytes()
    pd.testing.assert_frame_equal(run(tmp_path / "run.jsonl", models), first)
    assert n_calls(models) == {"a": 0, "b": 0}
    assert (tmp_path / "run.jsonl").read_bytes() == content


def test_models_and_prompts_are_added(tmp_path):
    path = tmp_path / "run.jsonl"
    run(path, {"a": Model(2)}, make_prompts(4))
    models = make_models()
    results = run(path, models)  # 6 more prompts
    assert n_calls(models) == {"a": 2, "b": 4}
    batches = [prompts for prompts, _, _ in models["b"].calls]
    assert [len(batch) for batch in batches] == [3, 1, 3, 3]
    pd.testing.assert_frame_equal(results, run(None))
    shuffled = make_prompts().iloc[::-1]
    reordered = run(path, {"b": Model(3)}, shuffled)
    assert reordered["id"].tolist() == shuffled["id"].tolist()


def test_labels_may_be_corrected(tmp_path):
    path = tmp_path / "run.jsonl"
    run(path)
    corrected = run(path, prompts=make_prompts().assign(harmful=True))
    assert corrected["harmful"].all()


def changed(**columns):
    return make_prompts().assign(**columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": changed(prompt="request 1")}, "with id='p0' with another text than"),
        ({"prompts": changed(language="en")}, "with id='p1' with another language than"),
        ({"prompts": make_prompts(8)}, "without 2 of the 10 in path=.*id='p8'"),
        ({"max_new_tokens": 8}, "Got max_new_tokens=8 instead of nothing"),
        ({"batch_size": 4}, "Got batch_size=4 instead of 3"),
        ({"texts": True}, "Got texts=True instead of False"),
        ({"models": {"a": Model(5)}}, r"Got models\['a'\] with every=5 instead of 2"),
    ],
)
def test_another_run_is_an_error_that_changes_nothing(options, message, tmp_path):
    path = tmp_path / "run.jsonl"
    run(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        run(path, **options)
    assert path.read_bytes() == content


def test_another_judge_is_an_error(tmp_path):
    class Other(Judge):
        pass

    run(tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="Got judge='Other' instead of 'Judge'"):
        run(tmp_path / "run.jsonl", judge=Other())


@pytest.mark.filterwarnings("ignore:Stern abstained")
def test_parameters_of_the_judge_count_if_they_change_verdicts(tmp_path):
    class Stern(Judge):
        def __init__(self, model="small", timeout=60):
            self.model, self.timeout = model, timeout

        def get_params(self, deep=True):
            return {"model": self.model, "timeout": self.timeout}

    path = tmp_path / "run.jsonl"
    run(path, judge=Stern())
    run(path, judge=Stern(timeout=5))
    with pytest.raises(ValueError, match="Got judge__model='large' instead of 'small'"):
        run(path, judge=Stern("large"))


def test_what_a_generation_config_says_counts(tmp_path):
    path = tmp_path / "run.jsonl"
    run(path, generation_config=GenerationConfig(max_new_tokens=16))
    run(path, generation_config=GenerationConfig(max_new_tokens=16))
    with pytest.raises(ValueError, match="'max_new_tokens': 256"):
        run(path, generation_config=GenerationConfig(max_new_tokens=256))


@pytest.mark.parametrize("is_open", [True, False])
def test_two_processes_at_a_time_are_an_error(is_open, tmp_path):
    """Nothing that the other one has written is lost."""
    path = tmp_path / "run.jsonl"
    with ExitStack() as stack:

        class Slow(Model):
            def generate(self, *args, **kwargs):  # in the meantime, the other one writes
                other = stack.enter_context(Journal(path, {}, 1))
                other.add_prompts([{"id": "p0"}])
                other.add_rows([{"model": "b", "id": "p0"}])
                if not is_open:
                    stack.close()
                return super().generate(*args, **kwargs)

        with pytest.raises(RuntimeError, match="to which another process writes"):
            run(path, {"a": Slow(2)}, make_prompts(2))
    assert len(path.read_text().splitlines()) == 3


def test_prompts_that_json_cannot_hold_are_named_before_anything_runs(tmp_path):
    chat = [{"role": "user", "content": "request 1", "time": datetime(2026, 1, 1)}]
    prompts = make_prompts(2)
    prompts["prompt"] = pd.Series([prompts["prompt"][0], chat], dtype=object)
    models = {"a": Model(2)}
    with pytest.raises(ValueError, match="Got the prompt with id='p1' and texts=True"):
        run(tmp_path / "run.jsonl", models, prompts, texts=True)
    assert not models["a"].calls


def test_another_gate_version_is_found_when_it_generates(tmp_path):
    path = tmp_path / "run.jsonl"
    run(path, {"a": Model(2)}, make_prompts(4))
    content = path.read_bytes()
    with pytest.raises(ValueError, match="with gate_version='v2' instead of 'v1'"):
        run(path, {"a": Model(2, version="v2")})
    assert path.read_bytes() == content


@pytest.mark.parametrize("texts", [False, True])
def test_the_file_has_texts_only_if_asked(texts, tmp_path):
    path = tmp_path / "run.jsonl"
    run(path, texts=texts)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert ("request" in path.read_text()) == texts
    assert [line["reply"] for line in lines if "reply" in line][:2] == (
        ["hm", "yes"] if texts else []
    )


def test_what_is_no_such_file(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("Buy milk")
    with pytest.raises(ValueError, match="expected a new file or one of evaluate_refusal"):
        run(notes)
    assert notes.read_text() == "Buy milk"
    with pytest.raises(ValueError, match="expected a file"):
        run(tmp_path)


@pytest.mark.parametrize("damage", ['{"id": "p0"}', "{", '{"model": "a"}'])
def test_a_damaged_line_is_named(damage, tmp_path):
    path = tmp_path / "run.jsonl"
    run(path)
    lines = path.read_text().splitlines()
    lines[4] = damage
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="damaged line 5"):
        run(path)
