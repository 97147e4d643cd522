"""Tables in CSV, JSON Lines and Parquet files, read without guessing what a text means."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection
from pathlib import Path

import pandas as pd

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".parquet")


def read_table(path: Path, texts: Collection[str]) -> pd.DataFrame:
    """Read a table.

    Parameters
    ----------
    path : Path
        The file.
    texts : collection of str
        Columns whose values in a CSV file are texts, even if they look like numbers.

    Returns
    -------
    table : DataFrame
        The rows and columns of the file. No text of a CSV file stands for a missing value.

    Raises
    ------
    ValueError
        If the file has another suffix or another encoding, or its rows are not those of a table.
    ImportError
        If it is a Parquet file and pyarrow is not installed.
    FileNotFoundError
        If there is no such file.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, texts)
    if name.endswith(".jsonl"):
        return _read_json_lines(path)
    if name.endswith(".parquet"):
        return _read_parquet(path)
    raise ValueError(f"Got source={str(path)!r}, expected a file with one of {_SUFFIXES}.")


def _read_csv(path: Path, texts: Collection[str]) -> pd.DataFrame:
    """Read a CSV file with commas, semicolons or tabs."""
    is_packed = path.name.lower().endswith(".gz")
    try:
        with (gzip.open if is_packed else open)(path, "rt", encoding="utf-8-sig") as lines:
            header = lines.readline()
        table = pd.read_csv(
            path,
            sep=max(",;\t", key=header.count),
            dtype=dict.fromkeys(texts, str),
            keep_default_na=False,
            encoding="utf-8-sig",
            compression="gzip" if is_packed else None,
            low_memory=False,  # which would infer a column's type piece by piece
        )
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, error) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"Got source={str(path)!r}, expected a CSV file with a header and rows of the same "
            f"length: {error}"
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first columns as an index
        raise ValueError(
            f"Got source={str(path)!r} with more values in a row than the {table.shape[1]} of the "
            "header, expected as many. Quote texts that contain the separator."
        )
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _wrong_encoding(path, error) from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"Got source={str(path)!r} with line {number}, expected a JSON object in each "
                f"line: {error}"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"Got source={str(path)!r} with a {type(row).__name__} in line {number}, expected "
                "a JSON object in each line."
            )
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).infer_objects()


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow  # noqa: F401  (what pandas reads the file with)
    except ImportError as error:
        raise ImportError(
            f"Parquet files need pyarrow ({error}): "
            "pip install '.[evaluation]' in the checkout of skgate."
        ) from error
    return pd.read_parquet(path, engine="pyarrow")


def _wrong_encoding(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(
        f"Got source={str(path)!r} in another encoding, expected UTF-8 ({error.reason} at byte "
        f"{error.start}). In Excel, save it as 'CSV UTF-8'."
    )
