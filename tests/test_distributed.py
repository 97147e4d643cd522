"""Extraction, and a grid search, on a real local Ray cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import traceback

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tiny import PROMPTS

from skgate import ActivationStore, ActivationTransformer, LatentGate
from skgate.distributed import _extract, extract
from skgate.distributed._reader import ActivationReader
from skgate.distributed._row_error import RowError, find_message

# Ray warns of its own settings as it makes them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

BATCH = 32


@pytest.fixture
def frame():
    """Twelve batches of rows, whose prompts repeat."""
    n = 12 * BATCH
    return pd.DataFrame(
        {
            "prompt": [PROMPTS[i % len(PROMPTS)] for i in range(n)],
            "id": range(n),
            "language": [("en", "sw")[i % 2] for i in range(n)],
            "harmful": [i % 3 == 0 for i in range(n)],
        }
    )


def read(folder):
    return pd.read_parquet(folder).sort_values("id", ignore_index=True)


def assert_extracted(folder, frame, transformer):
    """Every row is there, once, with its other columns and what ``transform`` gives."""
    found = read(folder)
    assert found.columns.tolist() == [*frame.columns, "activations"]
    pd.testing.assert_frame_equal(found[list(frame)], frame)
    expected = transformer.transform(frame["prompt"].tolist())
    np.testing.assert_allclose(np.stack(found["activations"]), expected, rtol=1e-5, atol=1e-6)


def test_every_row_arrives_once_though_workers_are_killed(
    cluster, frame, checkpoint, tmp_path, monkeypatch
):
    """An actor dies with a batch computed and others waiting, a writer with its file written."""

    def die_once(name):
        try:
            (tmp_path / f"{name}-died").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    # Local classes reach the workers by value.
    class DyingReader(_extract.ActivationReader):
        def __call__(self, batch):
            result = super().__call__(batch)
            if batch["id"][0].as_py() == 6 * BATCH:
                die_once("actor")
            return result

    class DyingParquetDatasink(ray.data.dataset.ParquetDatasink):
        def write(self, blocks, ctx):
            super().write(blocks, ctx)
            if ctx.task_idx == 3:
                die_once("writer")

    monkeypatch.setattr(_extract, "ActivationReader", DyingReader)
    monkeypatch.setattr(ray.data.dataset, "ParquetDatasink", DyingParquetDatasink)
    transformer = ActivationTransformer(checkpoint, layer=[2, -1], position=["mean", "last"])
    rows = ray.data.from_pandas(frame)
    folder = extract(rows, transformer, tmp_path / "out", batch_size=BATCH)
    assert folder == tmp_path / "out"
    assert_extracted(folder, frame, transformer)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tiny-llama",
        "out",
        "actor-died",
        "writer-died",
    }
    column = pq.read_schema(next(folder.iterdir())).field("activations").type
    assert str(column).startswith("fixed_size_list<")
    assert column.list_size == 2 * 2 * 16


def test_parquet_and_what_the_store_holds_is_not_computed_again(
    cluster, frame, checkpoint, tmp_path
):
    conversations = [[{"role": "user", "content": text}] for text in frame["prompt"]]
    frame = frame.drop(columns="prompt").assign(question=conversations)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "README.md").write_text("no rows")
    for half, part in frame.groupby("harmful"):
        part.to_parquet(tmp_path / "in" / f"{half}.PARQUET", index=False)
    transformer = ActivationTransformer(
        checkpoint, layer=1, store=tmp_path / "store", position="last"
    )
    expected = transformer.transform(conversations)
    before = ActivationStore(tmp_path / "store").info()
    folder = extract(
        tmp_path / "in",
        transformer.set_output(transform="pandas"),
        tmp_path / "out",
        prompt_column="question",
        output_column="stream",
        concurrency=(1, 2),
        num_cpus=0.5,
        batch_size=BATCH,
    )
    found = read(folder)
    np.testing.assert_array_equal(np.stack(found["stream"]), expected)
    assert found["language"].tolist() == frame["language"].tolist()
    after = ActivationStore(tmp_path / "store").info()
    assert before.n_rows == len(PROMPTS)
    # What is computed is written to the store at once, and dated.
    pd.testing.assert_frame_equal(after.namespaces, before.namespaces)


def test_bad_prompt_is_an_error_that_names_its_row(cluster, frame, checkpoint, tmp_path):
    frame.loc[250, "prompt"] = None
    transformer = ActivationTransformer(checkpoint, layer=1, position="last")
    row = {"id": 250, "language": "en", "harmful": False}
    with pytest.raises(ValueError, match=f"^column 'prompt' of the row {row} is None, a missing"):
        extract(ray.data.from_pandas(frame), transformer, tmp_path / "out", batch_size=BATCH)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama"]


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("", "is '', an empty prompt"),
        ("knock " * 99, "has 10. tokens, expected at most"),
    ],
)
@pytest.mark.parametrize("known", [{"id": 7, "label": "sw"}, {"hash": 64 * "a"}, {}])
def test_reader_names_a_row_by_ids_and_never_by_texts(checkpoint, prompt, complaint, known):
    texts = {"prompt": prompt, "english": "boil an egg", "native": "\u0e15\u0e49\u0e21"}
    batch = pa.Table.from_pylist([{**texts, "prompt": "knock"} | known, texts | known])
    reader = ActivationReader(
        ActivationTransformer(checkpoint, layer=1, position="last"), "prompt", "activations"
    )
    place = known or "1 of a batch of 2 (no other column identifies it)"
    name = re.escape(f"column 'prompt' of the row {place}")
    with pytest.raises(RowError, match=f"^{name} {complaint}"):
        reader(batch)


def test_the_message_survives_what_ray_does_to_an_error():
    """Ray Data wraps an actor's error, and pickles it, which drops the cause; no cluster needed."""
    from ray.exceptions import RayError, RayTaskError, UserCodeException

    try:
        try:
            raise RowError("column 'prompt' of the row {'id': 7} is None,\n a missing value")
        except ValueError as error:
            raise UserCodeException("UDF failed to process a data block.") from error
    except UserCodeException as error:
        sent = RayTaskError("map", traceback.format_exc(), error, "worker", 1, "192.0.2.2")
    received = RayError.from_bytes(sent.to_bytes()).as_instanceof_cause()
    assert received.cause.__cause__ is None  # if this fails: use it instead of the text
    message = "column 'prompt' of the row {'id': 7} is None, a missing value"
    assert find_message(str(received)) == message


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": ["boil an egg"]}, TypeError, "Got dataset of type list, expected"),
        ({"dataset": "no/such"}, FileNotFoundError, "Got dataset='.*no/such', which doesn't exist"),
        ({"transformer": "an/id"}, ValueError, "'transformer' parameter .* must be an instance"),
        ({"output": "s3://bucket/out"}, ValueError, "Got output='s3://bucket/out', which is a URI"),
        ({"output": "."}, FileExistsError, "Got output='.*', which exists, expected a new folder"),
        ({"prompt_column": "text"}, ValueError, "Got prompt_column='text', expected one of"),
        ({"output_column": "id"}, ValueError, "Got output_column='id', expected a name"),
        ({"concurrency": (2, 1)}, ValueError, r"Got concurrency=\(2, 1\), expected"),
        ({"concurrency": 0}, ValueError, "'concurrency' parameter"),
        ({"batch_size": 0}, ValueError, "'batch_size' parameter"),
        # Warnings are errors here; the call would wait for ever.
        ({"concurrency": 2}, UserWarning, "2 actors of 1 CPUs leave none of the cluster's 2 CPUs"),
    ],
)
def test_bad_arguments(cluster, frame, checkpoint, tmp_path, change, error, message):
    arguments = {
        "dataset": ray.data.from_pandas(frame),
        "transformer": ActivationTransformer(checkpoint, layer=1, position="last"),
        "output": tmp_path / "out",
    }
    with pytest.raises(error, match=message):
        extract(**arguments | change)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-llama"]


def test_parquet_by_another_name_is_never_left_out(cluster, frame, checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    for i, name in enumerate(["one.parquet", "two.pq"]):
        frame[i::2].to_parquet(tmp_path / "in" / name, index=False)
    transformer = ActivationTransformer(checkpoint, layer=1, position="last")
    for dataset in (tmp_path / "in", tmp_path / "in" / "two.pq"):
        with pytest.raises(ValueError, match=r"with the Parquet file '.*two\.pq', expected names"):
            extract(dataset, transformer, tmp_path / "out")


def test_an_output_that_appears_meanwhile_is_kept_and_so_is_what_was_written(
    cluster, frame, checkpoint, tmp_path, monkeypatch
):
    def write(ray, activations, folder, n_rows):
        (folder / "new").touch()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()

    monkeypatch.setattr(_extract, "write_files", write)
    transformer = ActivationTransformer(checkpoint, layer=1, position="last")
    with pytest.raises(OSError, match="it was created in the meantime") as info:
        extract(ray.data.from_pandas(frame), transformer, tmp_path / "out")
    assert (tmp_path / "out" / "old").exists()
    assert os.listdir(info.value.filename) == ["new"]


def test_relative_folders_are_where_the_caller_is(
    cluster, frame, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    transformer = ActivationTransformer(
        os.path.relpath(checkpoint), layer=1, store="store", position="last"
    )
    extract(ray.data.from_pandas(frame), transformer, tmp_path / "out", batch_size=BATCH)
    assert transformer.store == "store"
    assert ActivationStore(tmp_path / "store").info().n_rows == len(PROMPTS)


def test_rows_that_ray_may_drop_are_refused(cluster, frame, checkpoint, tmp_path):
    rows = ray.data.from_pandas(frame)
    rows.context.max_errored_blocks = -1
    with pytest.raises(ValueError, match="max_errored_blocks=-1, expected 0"):
        extract(rows, ActivationTransformer(checkpoint, layer=1, position="last"), tmp_path / "out")


def test_no_rows(cluster, frame, checkpoint, tmp_path):
    rows = ray.data.from_pandas(frame[:0])
    with pytest.raises(ValueError, match="Got a dataset without rows"):
        extract(rows, ActivationTransformer(checkpoint, layer=1, position="last"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_did_not_arrive_are_noticed(cluster, tmp_path):
    with pytest.raises(RuntimeError, match="Got 2 rows from Ray, expected the 3 of the dataset"):
        _extract.write_files(ray, ray.data.range(2), tmp_path, n_rows=3)


def test_live_model_is_an_error_that_says_what_to_do(cluster, frame, model, tokenizer, tmp_path):
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=1, position="last")
    with pytest.raises(TypeError, match=r"live LlamaForCausalLM.*Pass a Hugging Face id or a"):
        extract(ray.data.from_pandas(frame), transformer, tmp_path / "out")


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[ray\]'"):
        extract("in", ActivationTransformer("an/id", layer=1, position="last"), tmp_path / "out")


def test_import_leaves_ray_alone():
    code = "import sys, skgate.distributed; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grid_search_on_the_cluster(cluster, frame, checkpoint, tmp_path):
    """On the Ray backend of joblib, actors share the store."""
    from ray.util.joblib import register_ray

    def in_actor(estimator, X, y):
        return float(ray.get_runtime_context().get_actor_id() is not None)

    store = tmp_path / "store"
    search = GridSearchCV(
        make_pipeline(
            ActivationTransformer(
                checkpoint, layer=1, cache_layers="all", store=store, position="last"
            ),
            LatentGate(),
        ),
        {"activationtransformer__layer": [1, 2]},
        scoring={"accuracy": "accuracy", "in_actor": in_actor},
        refit=False,
        cv=2,
        n_jobs=2,
    )
    prompts, harmful = frame["prompt"], frame["harmful"]
    with joblib.parallel_config(backend="sequential"):
        expected = search.fit(prompts, harmful).cv_results_
    before = ActivationStore(store).info()
    register_ray()
    with joblib.parallel_config(backend="ray"):
        found = search.fit(prompts, harmful).cv_results_
    assert expected["mean_test_in_actor"].tolist() == [0, 0]
    assert found["mean_test_in_actor"].tolist() == [1, 1]
    np.testing.assert_array_equal(found["mean_test_accuracy"], expected["mean_test_accuracy"])
    pd.testing.assert_frame_equal(ActivationStore(store).info().namespaces, before.namespaces)
