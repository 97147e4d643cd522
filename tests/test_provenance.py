"""Where rows came from: what is remembered, forgotten, and compared."""

from __future__ import annotations

import pickle
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from skgate import ActivationSource
from skgate._provenance import RowMemory, check_same_source

SOURCE = ActivationSource("a/model", "4f0a", "c1d2", "99be", (15,), "last", "5.23.0/0f3a")
LAYERS = replace(SOURCE, layer=(0, 1, 2))
PLACES = replace(SOURCE, layer=(3, 1), position=("mean", "last", -2))


def rows_of(n, n_layers=1, d=24, seed=0):
    shape = n, n_layers, d
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("n", [1, 5, 300])
@pytest.mark.parametrize("d", [3, 16, 24])
def test_each_layer_and_all_side_by_side_are_remembered(n, d):
    memory = RowMemory()
    rows = rows_of(n, 3, d)
    memory.remember(rows, LAYERS)
    assert memory.recall(rows.reshape(n, -1)) == LAYERS
    for i in range(3):
        assert memory.recall(rows[:, i]) == replace(SOURCE, layer=(i,))
    assert memory.recall(rows_of(n, d=d, seed=1)[:, 0]) is None
    assert memory.recall(rows[:, 0, :-1]) is None  # another width
    assert memory.recall(rows[:0, 0]) is None


@pytest.mark.parametrize("d", [3, 16, 24])
def test_each_place_is_remembered_too(d):
    memory = RowMemory()
    rows = rows_of(50, 6, d)
    memory.remember(rows, PLACES)
    assert memory.recall(rows.reshape(50, -1)) == PLACES
    for i, layer in enumerate(PLACES.layer):
        part = rows[:, 3 * i : 3 * i + 3].reshape(50, -1)
        assert memory.recall(part) == replace(PLACES, layer=(layer,))
    for i, (layer, position) in enumerate(PLACES.places):
        assert memory.recall(rows[:, i]) == replace(SOURCE, layer=(layer,), position=position)


@pytest.mark.parametrize("changed", range(6))
def test_rows_that_share_all_places_but_one_are_told_apart(changed):
    """As in a grid search over lists of positions."""
    memory = RowMemory()
    rows, other = rows_of(50, 6), rows_of(50, 6)
    other[:, changed] += 1
    memory.remember(rows, PLACES)
    memory.remember(other, replace(PLACES, position=("mean", "last", "instruction")))
    assert memory.recall(rows.reshape(50, -1)) == PLACES


@pytest.mark.parametrize(
    ("layer", "position", "place"),
    [
        ((4,), "mean", (4, "mean")),
        ((2, 4), "last", (4, "last")),
        ((4, 2), ("mean", "last"), (4, "last")),
        ((2, 4), ("mean", -2), (4, "mean")),
    ],
)
def test_steering_acts_in_the_deepest_layer(layer, position, place):
    source = replace(SOURCE, layer=layer, position=position)
    assert source.places[source.steered_place] == place


def test_what_arrays_go_through_on_the_way_to_a_gate_changes_nothing():
    memory = RowMemory()
    rows = rows_of(100)
    memory.remember(rows, SOURCE)
    flat = rows[:, 0]
    shuffled = np.random.default_rng(1).permutation(flat)
    for same in (
        flat[7:9],
        flat[::-3],
        shuffled,
        np.concatenate([flat[50:], flat[:2]]),
        flat.astype(np.float64),
        np.asfortranarray(flat),
        pickle.loads(pickle.dumps(flat)),
    ):
        assert memory.recall(same) == SOURCE
    assert memory.recall(flat + 1) is None
    assert memory.recall(1e300 * flat.astype(np.float64)) is None


def test_rows_of_several_sources_have_no_source():
    memory = RowMemory()
    here, there = rows_of(50)[:, 0], rows_of(50, seed=1)[:, 0]
    memory.remember(here[:, None], SOURCE)
    memory.remember(there[:, None], replace(SOURCE, layer=(3,)))
    assert memory.recall(np.concatenate([here, there])) is None
    memory.remember(there[:, None], SOURCE)  # now of both
    assert memory.recall(np.concatenate([here, there])) == SOURCE
    assert memory.recall(there) is None
    assert memory.recall(np.concatenate([here, np.ones((1, 24))])) is None


def test_a_large_call_is_remembered_completely_and_what_is_oldest_is_forgotten_first():
    memory = RowMemory(max_keys=40_000)
    parts = [rows_of(5_000, seed=i)[:, 0] for i in range(20)]
    for part in parts:
        memory.remember(part[:, None], SOURCE)
    known = [memory.recall(part) is not None for part in parts]
    assert known == sorted(known)
    assert not any(known[:12])
    assert all(known[16:])
    large = rows_of(5_000, 3)
    memory.remember(large, LAYERS)  # 20,000 keys
    assert memory.recall(large.reshape(5_000, -1)) == LAYERS
    assert memory.recall(large[:, 1]) == replace(SOURCE, layer=(1,))


def test_rows_that_come_one_by_one_are_forgotten_too():
    memory = RowMemory(max_keys=20_000)
    rows = rows_of(30_000)
    for row in rows:
        memory.remember(row[None], SOURCE)
    known = [memory.recall(row) is not None for row in rows[::100]]
    assert known == sorted(known)
    assert not any(known[:99])
    assert all(known[200:])


def test_rows_that_come_again_take_no_room():
    memory = RowMemory(max_keys=20_000)
    rows = rows_of(2_000)
    other = rows_of(4_000, seed=1)
    memory.remember(other, SOURCE)
    for _ in range(30):
        memory.remember(rows, SOURCE)
    assert memory.recall(other[:, 0]) == SOURCE


def test_sources_are_forgotten_too():
    memory = RowMemory(max_sources=100)
    rows = rows_of(300)
    sources = [replace(SOURCE, weights=str(i)) for i in range(len(rows))]
    for row, source in zip(rows, sources, strict=True):
        memory.remember(row[None], source)
    known = [memory.recall(row) is not None for row in rows]
    assert known == sorted(known)
    assert 50 <= sum(known) <= 102
    assert memory.recall(rows[-1]) == sources[-1]


def test_a_row_takes_about_eight_bytes():
    memory = RowMemory()
    rows = rows_of(20_000, 10)
    source = replace(SOURCE, layer=tuple(range(10)))
    tracemalloc.start()
    memory.remember(rows, source)
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 10 * 11 * len(rows)
    assert peak < 20_000_000  # however many rows there are


def test_memory_is_bounded():
    memory = RowMemory(max_keys=100_000)
    tracemalloc.start()
    for seed in range(10):
        memory.remember(rows_of(40_000, seed=seed), SOURCE)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1_200_000


def test_threads_remember_and_recall():
    memory = RowMemory(max_keys=1_000_000)
    wrong = []

    def work(seed):
        source = replace(SOURCE, layer=(seed,))
        for i in range(30):
            rows = rows_of(1 + 200 * (i % 2), seed=1000 * seed + i)
            memory.remember(rows, source)
            if memory.recall(rows[:, 0]) != source:
                wrong.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("settings", ["", "5.22.0/abcd", "5.23.0/0f3a"])
def test_settings_that_cannot_be_compared_are_no_difference(settings):
    other = replace(SOURCE, settings=settings)
    assert SOURCE.differences(other) == other.differences(SOURCE) == []
    check_same_source(SOURCE, other)


def test_settings_of_one_version_are_compared():
    other = replace(SOURCE, settings="5.23.0/abcd", layer=(3,))
    assert SOURCE.differences(other) == ["layer", "settings"]
    message = (
        r"^Got activations of another source than the gate was fitted on: layer=\(3,\) instead of "
        r"\(15,\), settings='5\.23\.0/abcd' instead of '5\.23\.0/0f3a'\. Expected the same model"
    )
    with pytest.raises(ValueError, match=message):
        check_same_source(SOURCE, other)


def test_sources_pickled_without_settings_can_be_loaded():
    """As by versions before settings were part of a source."""
    old = pickle.loads(pickle.dumps(SOURCE))
    del old.__dict__["settings"]
    old = pickle.loads(pickle.dumps(old))
    assert old.settings == ""
    assert old.differences(SOURCE) == []
