"""ActivationStore: what goes in comes out, whoever else writes, and whatever dies meanwhile."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import counting
import lmdb
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from store_writer import BATCH, LAYERS, NAMESPACE, matrix, names, prompts_of, rows_of
from tiny import PROMPTS, WORDS, architectures, make_model

from skgate import ActivationStore, ActivationTransformer, LatentGate
from skgate.activations.store import _lmdb_folder, _row_caches
from skgate.activations.store._row_caches import MemoryCache, memory_cache
from skgate.activations.store._row_codec import decode, encode

TESTS = Path(__file__).parents[1]
OTHER = "ff" * 16
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}


def run(code, *args):
    """Run Python code in another process, without torch."""
    command = [sys.executable, "-c", f"from store_writer import *\n{code}", *map(str, args)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def uncounted_afterwards(monkeypatch):
    """Undo what CountingTransformer does to the model's class."""
    from transformers import LlamaModel

    monkeypatch.setattr(LlamaModel, "forward", LlamaModel.forward)


@pytest.fixture
def store(tmp_path):
    return ActivationStore(tmp_path / "store")


@pytest.fixture
def counter(checkpoint, store):
    return counting.CountingTransformer(checkpoint, layer=2, store=store)


@pytest.fixture(scope="module")
def pool():
    """Four processes that share nothing but the disk."""
    with ProcessPoolExecutor(4, mp_context=counting.processes()) as executor:
        yield executor


# Rows


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.bfloat16, 2), (torch.float16, 2), (torch.float32, 4)]
)
def test_rows_come_back_bit_for_bit_from_the_models_own_dtype(store, dtype, size):
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(dtype).float().numpy()
    store.insert(NAMESPACE, names(5), {3: rows})
    found = store.lookup(NAMESPACE, names(5), [3])
    assert all(row.dtype == np.float32 and row.shape == (1, 64) for row in found)
    np.testing.assert_array_equal(np.concatenate(found), rows)
    assert store.info().n_bytes == 5 * (64 * size + 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_numbers_come_back_bit_for_bit(dtype):
    limits = torch.finfo(dtype)
    numbers = [0.0, -0.0, limits.max, limits.min, limits.tiny, limits.smallest_normal]
    numbers += [limits.tiny / 4, float("inf"), float("-inf"), float("nan"), 65504.0, 70000.0]
    row = torch.tensor(numbers, dtype=dtype).float().numpy()
    back = decode(b"key", encode(b"key", row, 0.0))
    np.testing.assert_array_equal(back.view(np.uint32), row.view(np.uint32))


def test_every_flipped_bit_and_every_cut_is_seen():
    row = matrix(1)[0]
    value = encode(b"key", row, 1.5)
    np.testing.assert_array_equal(decode(b"key", value), row)
    assert decode(b"other", value) is None
    assert decode(b"key", None) is None
    for i in range(8 * len(value)):
        torn = bytearray(value)
        torn[i // 8] ^= 1 << i % 8
        assert decode(b"key", bytes(torn)) is None
    for length in range(len(value)):
        assert decode(b"key", value[:length]) is None


def test_further_layers_are_added_later(store):
    first, second = matrix(4), matrix(4, seed=1)
    store.insert(NAMESPACE, names(4), {0: first})
    assert store.lookup(NAMESPACE, names(4), [0, 7]) == [None] * 4
    store.insert(NAMESPACE, names(4), {7: second})
    found = np.stack(store.lookup(NAMESPACE, names(4), [7, 0]))
    np.testing.assert_array_equal(found, np.stack([second, first], axis=1))


def test_missing_rows_and_other_namespaces(store):
    store.insert(NAMESPACE, names(2), {0: matrix(2)})
    found = store.lookup(NAMESPACE, [*names(1, 9), *names(2)], [0])
    assert [row is None for row in found] == [True, False, False]
    assert store.lookup(OTHER, names(2), [0]) == [None, None]


def test_a_sound_row_is_never_replaced(store):
    store.insert(NAMESPACE, names(2), {0: matrix(2)})
    store.insert(NAMESPACE, names(3), {0: matrix(3, seed=1)})
    found = np.concatenate(store.lookup(NAMESPACE, names(3), [0]))
    np.testing.assert_array_equal(found, [*matrix(2), matrix(3, seed=1)[2]])
    assert store.info().n_rows == 3


@pytest.mark.parametrize("d", [8, 3000], ids=["inside a page", "on pages of its own"])
def test_a_damaged_row_is_missing_until_it_is_written_anew(store, d):
    rows = matrix(3, d)
    store.insert(NAMESPACE, names(3), {0: rows})
    data = store.path / "data.mdb"
    content = data.read_bytes()
    place = content.index(rows[1].tobytes())
    with data.open("r+b") as file:
        file.seek(place + 2)
        file.write(bytes([content[place + 2] ^ 64]))
    found = store.lookup(NAMESPACE, names(3), [0])
    assert [row is None for row in found] == [False, True, False]
    store.insert(NAMESPACE, names(3), {0: rows})
    np.testing.assert_array_equal(np.concatenate(store.lookup(NAMESPACE, names(3), [0])), rows)
    assert store.info().n_rows == 3


def test_a_file_that_was_cut_short_loses_rows_but_gives_no_wrong_one(store, tmp_path):
    for i in range(5):
        store.insert(NAMESPACE, names(20, 20 * i), {0: matrix(20, 3000, seed=i)})
    shutil.copytree(store.path, tmp_path / "cut")
    size = os.stat(tmp_path / "cut" / "data.mdb").st_size
    code = """
import sys, numpy as np
store = ActivationStore(sys.argv[1])
expected = np.concatenate([matrix(20, 3000, seed=i) for i in range(5)])
try:
    found = store.lookup(NAMESPACE, names(100), [0])
except OSError as error:
    assert "The database of the activation store" in str(error), error
else:
    assert all(row is None or (row == x).all() for row, x in zip(found, expected))
    print(sum(row is not None for row in found))
"""
    kept = []
    for share in (0.9, 0.5):
        os.truncate(tmp_path / "cut" / "data.mdb", int(share * size))
        done = run(code, tmp_path / "cut")
        assert done.returncode == 0, done.stderr
        kept += map(int, done.stdout.split())
    assert all(0 < n < 100 for n in kept)


# Processes and threads


def test_pickles_as_its_path(store, monkeypatch, tmp_path):
    store.insert(NAMESPACE, names(1), {0: matrix(1)})
    dumped = pickle.dumps(store)
    assert len(dumped) < 1000
    assert pickle.loads(dumped) == store
    assert hash(pickle.loads(dumped)) == hash(store)
    monkeypatch.chdir(tmp_path)
    relative = ActivationStore("store")
    monkeypatch.chdir("/")
    assert relative.lookup(NAMESPACE, names(1), [0])[0] is not None
    assert repr(relative) == f"ActivationStore({str(store.path)!r})"


def test_one_environment_per_process_however_the_folder_is_named(store, tmp_path):
    store.insert(NAMESPACE, names(1), {0: matrix(1)})
    (tmp_path / "link").symlink_to(store.path)
    for path in (str(store.path), tmp_path / "link", tmp_path / "x" / ".." / "store"):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert ActivationStore(path).lookup(NAMESPACE, names(1), [0])[0] is not None


def test_a_folder_that_was_deleted_is_made_anew(store):
    store.insert(NAMESPACE, names(1), {0: matrix(1)})
    shutil.rmtree(store.path)
    assert store.lookup(NAMESPACE, names(1), [0]) == [None]
    store.insert(NAMESPACE, names(2), {0: matrix(2)})
    assert store.info().n_rows == 2


# Python warns of forks beside threads: that they do no harm here is what is tested
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_read_and_write_beside_their_parent(store):
    store.insert(NAMESPACE, names(10), {0: matrix(10)})
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            store.lookup(NAMESPACE, names(10), [0])
            store.insert(OTHER, names(1), {0: matrix(1)})

    thread = threading.Thread(target=keep_busy)
    thread.start()

    def child(i):
        found = np.concatenate(store.lookup(NAMESPACE, names(10), [0]))
        np.testing.assert_array_equal(found, matrix(10))
        store.insert(NAMESPACE, names(10, 10 * i), {0: matrix(10, seed=i)})

    children = [
        multiprocessing.get_context("fork").Process(target=child, args=(i,)) for i in (1, 2)
    ]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    stop.set()
    thread.join()
    assert [process.exitcode for process in children] == [0, 0]
    found = np.concatenate(store.lookup(NAMESPACE, names(30), [0]))
    np.testing.assert_array_equal(found, np.concatenate([matrix(10, seed=i) for i in range(3)]))


def test_threads_write_and_read_one_store(store):
    wrong = []

    def work(seed):
        for i in range(10):
            store.insert(NAMESPACE, names(5, 1000 * seed + 5 * i), {0: matrix(5, seed=seed)})
            found = store.lookup(NAMESPACE, names(5, 1000 * seed + 5 * i), [0])
            if not np.array_equal(np.concatenate(found), matrix(5, seed=seed)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.info().n_rows == 200


def test_the_map_grows_here_and_in_other_processes(store, monkeypatch):
    monkeypatch.setattr(_lmdb_folder, "_FIRST_MAP_SIZE", 1 << 16)
    store.insert(NAMESPACE, names(1), {0: matrix(1)})
    code = """
import sys
store = ActivationStore(sys.argv[1])
for i in range(10):
    store.insert(NAMESPACE, names(100, 100 * i), {0: matrix(100, 1000, seed=i)})
"""
    assert run(code, store.path).returncode == 0  # 4 MB
    for i in range(10):
        found = np.concatenate(store.lookup(NAMESPACE, names(99, 100 * i + 1), [0]))
        np.testing.assert_array_equal(found, matrix(100, 1000, seed=i)[1:])
    store.insert(OTHER, names(2000), {0: matrix(2000, 1000)})  # 8 MB
    assert store.lookup(OTHER, names(2000), [0])[-1] is not None


def count_whole_batches(store, seed, acknowledged):
    """Check what a killed writer left, and count it."""
    n_whole = 0
    for batch in range(acknowledged + 2):
        found = store.lookup(NAMESPACE, prompts_of(seed, batch), LAYERS)
        there = [row is not None for row in found]
        assert all(there) or not any(there)  # a batch is committed whole or not at all
        if batch < acknowledged:
            assert all(there)
        if all(there):
            n_whole += 1
            rows = rows_of(seed, batch)
            expected = np.stack([rows[layer] for layer in LAYERS], axis=1)
            np.testing.assert_array_equal(np.stack(found), expected)
    return n_whole


def test_kill_at_any_moment_loses_no_committed_row_and_gives_no_wrong_one(store):
    rng = np.random.default_rng(0)
    acknowledged = {}
    for seed in range(32):
        writer = subprocess.Popen(
            [sys.executable, str(TESTS / "store_writer.py"), str(store.path), str(seed)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # readline() must not read ahead: communicate() wouldn't see it
        )
        first = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.06))
        writer.send_signal(signal.SIGKILL)
        rest, error = writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL, error
        acknowledged[seed] = 1 + max(map(int, [first, *rest.split(b"\n")[:-1]]))
        count_whole_batches(store, seed, acknowledged[seed])
        # What the dead process had claimed is free
        lost = prompts_of(seed, acknowledged[seed])
        with store.claim(NAMESPACE, lost) as claimed:
            assert all(claimed)
    # Counted now: a batch whose writer died between LMDB's commit and its announcement to readers
    # is seen from the next writer's start on
    n_whole = sum(count_whole_batches(store, seed, n) for seed, n in acknowledged.items())
    n_acknowledged = sum(acknowledged.values())
    assert n_acknowledged <= n_whole <= n_acknowledged + 32
    assert store.info().n_rows == n_whole * BATCH * len(LAYERS)


def test_claims_exclude_other_threads_and_processes_until_they_end(store):
    code = """
import sys, time
from store_writer import *
with ActivationStore(sys.argv[1]).claim(NAMESPACE, names(3)) as claimed:
    print(claimed, flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert other.stdout.readline().strip() == b"[True, True, True]"
    with store.claim(NAMESPACE, names(5)) as claimed:
        assert claimed == [False, False, False, True, True]
    other.kill()
    other.communicate()
    with store.claim(NAMESPACE, names(5)) as claimed:
        assert claimed == [True] * 5
        in_thread = []

        def try_claim():
            with store.claim(NAMESPACE, names(6)) as claimed, store.claim(OTHER, names(1)) as free:
                in_thread.extend([*claimed, *free])

        thread = threading.Thread(target=try_claim)
        thread.start()
        thread.join()
        assert in_thread == [False] * 5 + [True, True]
    with pytest.raises(KeyError), store.claim(NAMESPACE, names(5)):
        raise KeyError
    with store.claim(NAMESPACE, names(5)) as claimed:
        assert all(claimed)


# Info and prune


def test_info(store):
    assert store.info().n_rows == 0
    store.insert(NAMESPACE, names(3), {0: matrix(3), 1: matrix(3)}, {"model": "a", "device": "cpu"})
    store.insert(OTHER, names(2), {0: matrix(2)}, {"model": "b", "device": "cuda"})
    info = store.info()
    size = 8 * 4 + 20
    assert (info.path, info.n_rows, info.n_bytes) == (store.path, 8, 8 * size)
    assert info.n_bytes_on_disk > info.n_bytes
    table = info.namespaces
    assert table["namespace"].tolist() == [NAMESPACE, OTHER]
    assert table["model"].tolist() == ["a", "b"]
    assert table["device"].tolist() == ["cpu", "cuda"]
    assert table["n_rows"].tolist() == [6, 2]
    assert table["n_bytes"].tolist() == [6 * size, 2 * size]
    age = pd.Timestamp.now("UTC") - table[["first_written", "last_written"]].min().min()
    assert age < pd.Timedelta(minutes=2)
    assert "8 rows" in str(info)
    assert "cuda" in str(info)


def test_prune_by_model_or_namespace(store, monkeypatch):
    monkeypatch.setattr("skgate.activations.store._store._DELETED_AT_ONCE", 4)
    for namespace, model in ((NAMESPACE, "a"), (OTHER, "b"), ("77" * 16, "a")):
        store.insert(namespace, names(11), {0: matrix(11)}, {"model": model, "device": "cpu"})
    removed = store.prune(model="b")
    assert removed.to_dict("records") == [
        {"namespace": OTHER, "model": "b", "n_rows": 11, "n_bytes": 11 * 52}
    ]
    assert store.lookup(OTHER, names(11), [0]) == [None] * 11
    assert store.info().namespaces["model"].tolist() == ["a", "a"]
    store.prune(namespace=NAMESPACE)
    assert store.lookup("77" * 16, names(1), [0])[0] is not None
    assert store.info().n_rows == 11


def test_prune_to_a_size_removes_what_was_written_first(store, monkeypatch):
    clock = iter(range(100, 200))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    for i in range(4):
        namespace = (NAMESPACE, OTHER)[i % 2]
        store.insert(namespace, names(10, 10 * i), {0: matrix(10)}, {"model": "a"})
    assert store.prune(max_bytes=40 * 52)["n_rows"].tolist() == [0, 0]
    assert store.prune(max_bytes=25 * 52)["n_rows"].tolist() == [10, 10]
    kept = [store.lookup((NAMESPACE, OTHER)[i % 2], names(1, 10 * i), [0])[0] for i in range(4)]
    assert [row is not None for row in kept] == [False, False, True, True]
    assert store.prune(namespace=OTHER, max_bytes=0)["n_rows"].tolist() == [10]
    assert store.info().n_rows == 10
    store.prune(max_bytes=0)
    assert store.info().n_rows == 0
    assert store.info().namespaces.empty


def test_the_space_of_pruned_rows_is_used_again(store):
    for i in range(12):
        store.insert(NAMESPACE, names(500), {0: matrix(500, 500, seed=i)})
        store.prune(namespace=NAMESPACE)
    assert store.info().n_bytes_on_disk < 6 * 500 * 2020


# Errors


def file_at(path):
    path.write_text("not a folder")


def folder_of_something_else(path):
    path.mkdir()
    (path / "thesis.tex").write_text("")


def garbage(path):
    path.mkdir()
    (path / "data.mdb").write_bytes(b"garbage" * 10_000)


def foreign_database(path):
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"b")


def of_another_version(path):
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        known = json.dumps({"what": "skgate activation store", "version": 99})
        transaction.put(b"format", known.encode())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (file_at, "Got path='.*store', which is a file, expected a folder"),
        (folder_of_something_else, r"which holds 'thesis\.tex' and is not an activation"),
        (garbage, r"whose data\.mdb is not an activation store"),
        (foreign_database, "holds the LMDB data of another program"),
        (of_another_version, "store of format version 99, expected version 1"),
    ],
)
def test_folders_that_are_no_store(store, prepare, message):
    prepare(store.path)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            store.info()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_folders_that_cannot_be_written(store, monkeypatch):
    store.path.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="The folder of the activation store is not writable"):
        store.info()
    with pytest.raises(OSError, match="activation store can't be created or read"):
        ActivationStore("/dev/null/store").info()


def test_a_full_disk_is_an_error_that_keeps_what_was_committed(store):
    pytest.importorskip("resource", reason="needs POSIX limits")
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = ActivationStore(sys.argv[1])
store.insert(NAMESPACE, names(10), {0: matrix(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    store.insert(NAMESPACE, names(1000, 10), {0: matrix(1000, 1000)})
except OSError as error:
    print(error)
assert store.info().n_rows == 10
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.insert(NAMESPACE, names(1000, 10), {0: matrix(1000, 1000)})
"""
    done = run(code, store.path)
    assert done.returncode == 0, done.stderr
    assert "The activation store failed" in done.stdout
    assert "bytes free on its disk. Everything that was committed is kept" in done.stdout
    assert store.info().n_rows == 1010


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Got neither namespace, model nor max_bytes"),
        ({"max_bytes": -1}, "Got max_bytes=-1, expected 0 or more"),
        ({"model": "b"}, r"Got model='b', expected one in the store: \['a'\]"),
        ({"namespace": OTHER}, "Got namespace='ffff.*, expected one in the store"),
    ],
)
def test_bad_arguments_of_prune(store, arguments, message):
    store.insert(NAMESPACE, names(1), {0: matrix(1)}, {"model": "a", "device": "cpu"})
    with pytest.raises(ValueError, match=message):
        store.prune(**arguments)


@pytest.mark.parametrize("path", [None, 3, ""])
def test_bad_paths(path):
    with pytest.raises((TypeError, ValueError), match=r"Got path=.*, expected"):
        ActivationStore(path)


# In an ActivationTransformer


@pytest.mark.parametrize("kind", [str, Path, ActivationStore])
def test_a_transformer_takes_a_folder_or_a_store(model, tokenizer, tmp_path, kind):
    transformer = ActivationTransformer(model, tokenizer=tokenizer, layer=[1, 3], position="last")
    expected = transformer.transform(PROMPTS)
    memory_cache.clear()
    stored = clone(transformer).set_params(store=kind(tmp_path / "store"))
    np.testing.assert_array_equal(stored.transform(PROMPTS), expected)
    np.testing.assert_array_equal(clone(stored).transform(PROMPTS[::-1]), expected[::-1])
    info = ActivationStore(tmp_path / "store").info()
    assert info.n_rows == 2 * len(PROMPTS)
    assert info.namespaces["model"].tolist() == ["LlamaForCausalLM"]
    assert len(memory_cache) == 0


@pytest.mark.parametrize(
    ("dtype", "position", "size"),
    [
        (torch.bfloat16, "last", 2),
        (torch.float16, "instruction", 2),
        (torch.float32, "last", 4),
        (torch.bfloat16, "mean", 4),
        (torch.bfloat16, ["mean", "last"], 4 + 2),
    ],
)
def test_rows_take_the_bytes_of_the_models_dtype(tokenizer, store, dtype, position, size):
    model = make_model("llama").to(dtype)
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, position=position, store=store
    )
    expected = transformer.transform(PROMPTS)
    np.testing.assert_array_equal(transformer.transform(PROMPTS), expected)
    n_rows = 5 * len(np.atleast_1d(position))
    assert store.info().n_rows == n_rows
    assert store.info().n_bytes == 5 * 16 * size + 20 * n_rows


def test_another_process_finds_the_rows_whatever_the_models_path(counter, pool, tmp_path):
    expected = counter.transform(PROMPTS)
    moved = shutil.copytree(counter.model, tmp_path / "moved")
    arguments = {"model": moved, "layer": 2, "store": str(counter.store.path)}
    _, rows = pool.submit(counting.extract, arguments, PROMPTS).result()
    np.testing.assert_array_equal(rows, expected)
    assert len(counting.forwarded(counter.model)) == len(PROMPTS)
    assert not counting.forwarded(moved)


@pytest.mark.parametrize("architecture", architectures())
def test_the_structures_fingerprint_is_the_same_in_every_process(pool, architecture, tmp_path):
    make_model(architecture).save_pretrained(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    expected = counting.structure_of(tmp_path / "here")
    assert pool.submit(counting.structure_of, tmp_path / "there").result() == expected


def test_a_damaged_row_is_computed_anew_and_never_returned(counter):
    expected = counter.transform(PROMPTS)
    data = counter.store.path / "data.mdb"
    content = data.read_bytes()
    row = np.ascontiguousarray(expected[1, :16], "<f4").tobytes()  # (of one position)
    with data.open("r+b") as file:
        file.seek(content.index(row))
        file.write(bytes(len(row)))
    np.testing.assert_allclose(counter.transform(PROMPTS), expected, rtol=1e-5, atol=1e-6)
    assert len(counting.forwarded(counter.model)) == len(PROMPTS) + 1
    counter.transform(PROMPTS)
    assert len(counting.forwarded(counter.model)) == len(PROMPTS) + 1


def test_layers_asked_for_later_are_added(counter):
    counter.transform(PROMPTS)
    counter.set_params(layer=[2, 0]).transform(PROMPTS)
    assert len(counting.forwarded(counter.model)) == 2 * len(PROMPTS)
    counter.set_params(layer=0).transform(PROMPTS)
    assert len(counting.forwarded(counter.model)) == 2 * len(PROMPTS)
    counter.set_params(layer=1, cache_layers="all").transform(PROMPTS)
    counter.set_params(layer=3).transform(PROMPTS)
    assert len(counting.forwarded(counter.model)) == 3 * len(PROMPTS)
    assert counter.store.info().n_rows == 4 * 2 * len(PROMPTS)  # (two positions)


def test_an_interrupted_extraction_resumes_where_it_stopped(model, tokenizer, store, monkeypatch):
    forward, seen = type(model.model).forward, []

    def failing(self, *args, **kwargs):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=1, batch_tokens=1, store=store, position="last"
    )
    with monkeypatch.context() as patched:
        patched.setattr(type(model.model), "forward", failing)
        with pytest.raises(KeyboardInterrupt):
            transformer.transform(PROMPTS)
        assert store.info().n_rows == 3
        seen[:] = [0] * 4  # from here on nothing fails
        resumed = transformer.transform(PROMPTS)
    assert sum(seen) == len(PROMPTS) - 3
    expected = clone(transformer).set_params(store=False).transform(PROMPTS)
    np.testing.assert_allclose(resumed, expected, rtol=1e-5, atol=1e-6)


def test_the_store_is_bypassed_while_the_model_is_edited(model, tokenizer, store):
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=2, store=store, position="last"
    )
    plain = transformer.transform(PROMPTS)
    handle = model.model.layers[0].register_forward_hook(lambda module, args, out: 2 * out)
    assert not np.allclose(transformer.transform(PROMPTS), plain)
    transformer.transform(["egg"])
    handle.remove()
    assert store.info().n_rows == len(PROMPTS)
    np.testing.assert_array_equal(transformer.transform(PROMPTS), plain)


def test_changed_weights_are_another_namespace(model, tokenizer, store):
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=2, store=store, position="last"
    )
    plain = transformer.transform(PROMPTS)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] += 1
    assert not np.allclose(transformer.transform(PROMPTS), plain)
    assert store.info().namespaces["n_rows"].tolist() == [5, 5]


@pytest.mark.parametrize("position", ["mean", ["last", "mean"]], ids=str)
def test_four_processes_extract_overlapping_prompts(counter, pool, position):
    prompts = [f"{a} {b} {c}" for a in WORDS[:6] for b in WORDS[6:12] for c in WORDS[12:16]]
    model, store = counter.model, counter.store
    # the mean takes no shortcut whose trial would run two prompts more, once per process
    arguments = {"model": model, "layer": [1, 2], "position": position}
    arguments |= {"batch_tokens": 64, "store": store}
    counting.slow_down(model, 0.02)
    done = [pool.submit(counting.extract, arguments, prompts, shuffled=seed) for seed in range(4)]
    results = [extraction.result() for extraction in done]
    wanted = set().union(*(found for found, _ in results))
    forwarded = Counter(counting.forwarded(model))
    assert len(forwarded) == len(wanted)
    assert set(forwarded.values()) == {1}
    assert store.info().n_rows == 2 * len(np.atleast_1d(position)) * len(wanted)
    arguments |= {"store": False}
    reference = ActivationTransformer(**arguments).transform(prompts)
    expected = dict(zip(prompts, reference, strict=True))
    for found, rows in results:
        right = [expected[prompt] for prompt in found]
        np.testing.assert_allclose(rows, right, rtol=1e-4, atol=1e-5)


def test_a_store_serves_positions_alone_and_in_lists(counter):
    means = counter.set_params(position="mean").transform(PROMPTS)
    both = counter.set_params(position=["last", "mean"]).transform(PROMPTS)
    assert len(counting.forwarded(counter.model)) == 2 * len(PROMPTS)
    np.testing.assert_array_equal(both[:, 16:], means)
    memory_cache.clear()
    last = counter.set_params(position="last").transform(PROMPTS)
    np.testing.assert_array_equal(last, both[:, :16])
    assert len(counting.forwarded(counter.model)) == 2 * len(PROMPTS)


def test_a_killed_process_blocks_nobody(counter):
    arguments = {"model": counter.model, "layer": 2, "store": counter.store}
    counting.slow_down(counter.model, 600)
    stuck = counting.processes().Process(target=counting.extract, args=(arguments, PROMPTS))
    stuck.start()
    while not counting.forwarded(counter.model):
        assert stuck.is_alive()
        time.sleep(0.05)
    counting.slow_down(counter.model, 0)
    threading.Timer(0.5, stuck.kill).start()
    start = time.monotonic()
    rows = counter.transform(PROMPTS)
    assert time.monotonic() - start > 0.3  # it waited for the other's claims
    stuck.join()
    expected = clone(counter).set_params(store=False).transform(PROMPTS)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


def test_parallel_grid_search_forwards_each_distinct_prompt_once(counter):
    counting.slow_down(counter.model, 0.05)
    prompts = [f"{a} {b}" for a in ("boil", "kill", "stop", "ran") for b in WORDS[1:13]]
    y = np.repeat([0, 1, 0, 1], 12)
    pipe = Pipeline([("activations", counter), ("gate", LatentGate())])
    pipe.set_params(activations__cache_layers="all", activations__batch_tokens=32)
    pipe.set_params(activations__position="mean")  # as above
    grid = {"activations__layer": [0, 1, 2, 3], "gate__rank": [1, 2]}
    search = GridSearchCV(pipe, grid, cv=3, n_jobs=2, error_score="raise").fit(prompts, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    forwarded = Counter(counting.forwarded(counter.model))
    assert len(forwarded) == len(set(prompts))
    assert set(forwarded.values()) == {1}


def test_the_memory_cache_says_what_it_would_need(model, tokenizer, monkeypatch, tmp_path, capsys):
    transformer = ActivationTransformer(
        model, tokenizer=tokenizer, layer=2, cache_layers="all", position="last"
    )
    transformer.transform(PROMPTS)  # no warning
    memory_cache.clear()
    assert "GiB" not in capsys.readouterr().err
    for said in (True, False):  # before it takes it; then it has it
        transformer.set_params(verbose=True).transform(PROMPTS)
        message = "20 activations of 16 numbers need 0.00 GiB; the memory cache holds 2.00 GiB"
        assert (message in capsys.readouterr().err) == said
    transformer.set_params(verbose=False)
    memory_cache.clear()
    monkeypatch.setattr(_row_caches, "memory_cache", MemoryCache(max_bytes=1000))
    with pytest.warns(
        UserWarning, match=r"20 activations of 16 numbers need .* GiB.*store='folder'"
    ):
        transformer.transform(PROMPTS)
    transformer.set_params(store=tmp_path / "store").transform(PROMPTS)
    transformer.set_params(store=False).transform(PROMPTS)
