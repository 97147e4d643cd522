"""Lookups in an ActivationStore of 10 thousand to a million rows, and what filling it costs.

    python benchmarks/store.py

Synthetic rows of 256 numbers in bfloat16, as of a small model, 0.9 GB for a million. After each
stage of filling, 10,000 random prompts are looked up, seven times over, other ones each time, and
as many that are not there; every row is checked. Medians are printed. "Cold" is a lookup before
that, when the store has been closed and its file dropped from the page cache (on Linux): it
measures the disk. For the others the file has been read once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time

import numpy as np
import pandas as pd

from skgate import ActivationStore
from skgate.activations.store import _lmdb_folder

NAMESPACE, LAYER, BATCH, N_LOOKED_UP = "ab" * 16, 15, 1_000, 10_000


def prompts(numbers: np.ndarray, salt: int = 0) -> list[bytes]:
    """Make names of 16 bytes that lie anywhere, as hashes do, of consecutive numbers."""
    words = np.stack([numbers + (salt << 40), numbers], axis=1).astype(np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(29)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    return [row.tobytes() for row in words]


def rows(numbers: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Make rows that tell which prompt they belong to."""
    made = pool[numbers % len(pool)].copy()
    made[:, 0] = numbers % 256
    made[:, 1] = numbers // 256 % 256
    made[:, 2] = numbers // 65_536 % 256
    return made


def fill(store: ActivationStore, start: int, stop: int, pool: np.ndarray) -> float:
    """Insert rows, and return the seconds it took."""
    begin = time.perf_counter()
    for first in range(start, stop, BATCH):
        numbers = np.arange(first, min(first + BATCH, stop))
        store.insert(NAMESPACE, prompts(numbers), {LAYER: rows(numbers, pool)}, {"model": "none"})
    return time.perf_counter() - begin


def drop_from_page_cache(store: ActivationStore) -> None:
    """Close the store and ask the system to forget the file's pages."""
    _lmdb_folder.forget_folder(_lmdb_folder.open_folder(store.path))  # mapped pages would stay
    with open(store.path / "data.mdb", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def look_up(store: ActivationStore, numbers: np.ndarray, pool: np.ndarray) -> float:
    """Look up rows, check every one, and return the seconds the lookup took."""
    names = prompts(numbers)
    begin = time.perf_counter()
    found = store.lookup(NAMESPACE, names, [LAYER])
    seconds = time.perf_counter() - begin
    if not np.array_equal(np.concatenate(found), rows(numbers, pool)):
        raise AssertionError("a row is not what was stored")
    return seconds


def look_up_missing(store: ActivationStore, numbers: np.ndarray) -> float:
    """Look up rows that are not there, and return the seconds it took."""
    names = prompts(numbers, salt=1)
    begin = time.perf_counter()
    found = store.lookup(NAMESPACE, names, [LAYER])
    seconds = time.perf_counter() - begin
    if any(row is not None for row in found):
        raise AssertionError("a row was found that was never stored")
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=256, help="numbers per row")
    parser.add_argument("--folder", help="where the store is made and deleted; a temporary one")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    pool = rng.normal(size=(4096, options.d)).astype(np.float32)
    pool = (pool.view(np.uint32) & 0xFFFF0000).view(np.float32)  # as of a bfloat16 model
    folder = tempfile.mkdtemp(dir=options.folder)
    store = ActivationStore(folder)
    table, n_rows = [], 0
    try:
        for size in [n for n in (10_000, 100_000, 1_000_000) if n < options.rows] + [options.rows]:
            filling = fill(store, n_rows, size, pool)
            added, n_rows = size - n_rows, size
            drop_from_page_cache(store)
            samples = [rng.choice(n_rows, N_LOOKED_UP, replace=False) for _ in range(8)]
            cold = look_up(store, samples.pop(), pool)
            (store.path / "data.mdb").read_bytes()
            times = [look_up(store, sample, pool) for sample in samples]
            missing = np.median([look_up_missing(store, sample) for sample in samples])
            begin = time.perf_counter()
            info = store.info()
            table.append(
                {
                    "rows": f"{n_rows:,}",
                    "GB on disk": f"{info.n_bytes_on_disk / 1e9:.2f}",
                    "rows written per s": f"{added / filling:,.0f}",
                    "10k lookups, s": f"{np.median(times):.3f}",
                    "10k lookups cold, s": f"{cold:.3f}",
                    "10k missing, s": f"{missing:.3f}",
                    "info(), ms": f"{1000 * (time.perf_counter() - begin):.0f}",
                }
            )
            print(f"{n_rows:,} rows", flush=True)
        columns = pd.DataFrame(table)
        print(columns.to_markdown(index=False, disable_numparse=True))
        begin = time.perf_counter()
        removed = store.prune(max_bytes=info.n_bytes // 2)
        seconds = time.perf_counter() - begin
        print(f"prune to half: {int(removed['n_rows'].sum()):,} rows in {seconds:.1f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
