"""The memory cache: what it keeps, what it drops, and what it says it uses."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from store_writer import NAMESPACE, matrix, names

from skgate.activations.store._row_caches import MemoryCache

OTHER = "ff" * 16


def insert(cache, n, start=0, *, d=8, layers=(0,)):
    rows = {layer: matrix(n, d, seed=layer) for layer in layers}
    cache.insert(NAMESPACE, names(n, start), rows)
    return rows


def known(cache, n, layers=(0,)):
    return [row is not None for row in cache.lookup(NAMESPACE, names(n), layers)]


def test_rows_come_back_in_the_order_of_the_layers_asked_for():
    cache = MemoryCache(1 << 20)
    rows = insert(cache, 2, layers=(5, 1, 3))
    found = cache.lookup(NAMESPACE, names(3), [3, 5])
    np.testing.assert_array_equal(np.stack(found[:2]), np.stack([rows[3], rows[5]], axis=1))
    assert found[2] is None
    assert cache.lookup(NAMESPACE, names(1), [3, 4]) == [None]
    assert cache.lookup(OTHER, names(1), [3]) == [None]


def test_layers_are_added_to_known_prompts():
    cache = MemoryCache(1 << 20)
    first = insert(cache, 2, layers=(4,))
    size = cache.n_bytes
    second = insert(cache, 2, layers=(1, 7))
    (found, _) = cache.lookup(NAMESPACE, names(2), [7, 4, 1])
    np.testing.assert_array_equal(found, [second[7][0], first[4][0], second[1][0]])
    assert cache.n_bytes == size + 2 * 2 * 8 * 4
    assert len(cache) == 2


def test_the_least_recently_used_prompts_are_dropped_first():
    cache = MemoryCache(1 << 20)
    insert(cache, 1)
    cache = MemoryCache(3 * cache.n_bytes)
    insert(cache, 3)
    assert known(cache, 1) == [True]  # now the most recently used
    insert(cache, 1, start=3)
    assert known(cache, 4) == [True, False, True, True]
    insert(cache, 1, start=4, d=10_000)  # larger than the cache
    assert known(cache, 5) == [True, False, True, True, False]
    cache.clear()
    assert (len(cache), cache.n_bytes) == (0, 0)


def test_arrays_are_copied_in_and_out():
    cache = MemoryCache(1 << 20)
    rows = insert(cache, 2, layers=(0, 1))
    expected = np.stack([rows[0], rows[1]], axis=1)
    rows[0][:] = np.nan
    for row in cache.lookup(NAMESPACE, names(2), [0, 1]):
        row[:] = np.nan
    np.testing.assert_array_equal(cache.lookup(NAMESPACE, names(2), [0, 1]), expected)


@pytest.mark.parametrize(
    ("d", "n_layers", "n", "batch"),
    [(16, 1, 20_000, 32), (16, 28, 5_000, 1), (64, 4, 10_000, 32), (4096, 1, 2_000, 8)],
)
def test_it_counts_the_memory_that_it_uses(d, n_layers, n, batch):
    rows = {layer: np.zeros((batch, d), np.float32) for layer in range(n_layers)}
    tracemalloc.start()
    cache = MemoryCache(1 << 30)
    for start in range(0, n, batch):
        cache.insert(NAMESPACE, names(batch, start), rows)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n <= len(cache) < n + batch
    assert cache.n_bytes == pytest.approx(used, rel=0.25)


def test_threads_share_it():
    cache = MemoryCache(100_000)  # too small for all: rows are dropped all the time
    wrong = []

    def work(seed):
        for i in range(50):
            rows = {0: matrix(5, seed=seed)}
            cache.insert(NAMESPACE, names(5, 1000 * seed + 5 * i), rows)
            for row, expected in zip(
                cache.lookup(NAMESPACE, names(5, 1000 * seed + 5 * i), [0]), rows[0], strict=True
            ):
                if row is not None and not np.array_equal(row[0], expected):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.n_bytes <= 100_000
