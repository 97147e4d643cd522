"""load_prompts: prompts with ids, languages and labels, from a file or a frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skgate._base import set_module
from skgate._frames import to_plain
from skgate._labels import plain_labels
from skgate._messages import PromptError
from skgate._validation import check_language, check_prompts
from skgate.evaluation._files import read_table

_LABELS = {1: True, 0: False, -1: False, "harmful": True, "harmless": False}
_BOOLS = {"true": 1, "false": 0}  # as CSV files spell them


@set_module("skgate.evaluation")
def load_prompts(
    source: Any,
    *,
    prompt: str = "prompt",
    language: str | None = "language",
    harmful: str | None = "harmful",
    harmful_label: str | int | bool | None = None,
    id: str | None = None,
) -> pd.DataFrame:
    """Load prompts with their languages and labels, from a file or a frame.

    Parameters
    ----------
    source : path-like or DataFrame
        A file that ends in ``.csv``, ``.csv.gz``, ``.jsonl`` or ``.parquet``, or a frame of pandas,
        polars, pyarrow or another library. Text files are in UTF-8. A CSV file has commas,
        semicolons or tabs.
    prompt : str, default="prompt"
        The column with the prompts: texts, or conversations (lists of ``{"role", "content"}``).
    language : str or None, default="language"
        The column with the languages. If None, the languages are not known.
    harmful : str or None, default="harmful"
        The column with the labels: True and False, 1 and 0, 1 and -1, or "harmful" and "harmless"
        in upper or lower case. One of the two classes may be absent. If None, the labels are not
        known.
    harmful_label : str, int, bool or None, default=None
        The label of harmful prompts, if the column has two labels of your own. If None, the labels
        must be those that ``harmful`` describes.
    id : str or None, default=None
        The column with the ids: texts or integers, each once. If None, it is the column "id", and
        without one the rows are numbered from "0".

    Returns
    -------
    prompts : DataFrame
        One row per prompt, in the order of the source, numbered from 0. The first columns are
        ``id`` (str), ``prompt``, ``language`` (str) and ``harmful`` (bool). The others follow as
        they are. Languages or labels that are not known are a column of None.

    Raises
    ------
    ValueError
        If the file can't be read, a column is missing or would be there twice, or there are no
        rows. If a prompt or a language is empty, a label is missing or not one of these, an id is
        missing or not unique, or there is more than one label beside ``harmful_label``. An error
        about a row names it, counted from 0, and the file.
    TypeError
        If ``source`` is neither a path nor a frame, or a prompt, a language or an id has another
        type.
    FileNotFoundError
        If there is no such file.
    ImportError
        If ``source`` is a Parquet file and pyarrow is not installed:
        ``pip install '.[evaluation]'`` in the checkout of skgate.

    See Also
    --------
    evaluate_refusal : Counts which of the prompts models refuse.
    skgate.datasets.fetch_polyrefuse : Prompts in fourteen languages.

    Notes
    -----
    In a CSV file, an empty cell or "NA" is a text and never a missing value. "na" is the code of
    Nauruan. Of a frame that you read yourself with pandas, set ``keep_default_na=False``.

    What this function returns can be passed to it again. So a column ``language`` or ``harmful``
    may hold None in all rows.

    A column ``group``, the same for a prompt and its translations, is used by :func:`compare`. It
    is read as text, and may not be empty in a row.

    Examples
    --------
    >>> import pandas as pd
    >>> from skgate.evaluation import load_prompts
    >>> table = pd.DataFrame({
    ...     "text": ["kick the drum", "kick the kitten"],
    ...     "label": ["harmless", "harmful"],
    ...     "source": ["a", "b"],
    ... })
    >>> load_prompts(table, prompt="text", language=None, harmful="label")
      id           prompt language  harmful source
    0  0    kick the drum     None    False      a
    1  1  kick the kitten     None     True      b

    If the labels were "benign" and "attack", you would pass ``harmful_label="attack"`` as well.
    """
    names = {"id": id, "prompt": prompt, "language": language, "harmful": harmful}
    table = _read(source, [one for one in (*names.values(), "id", "group") if one is not None])
    if id is None and "id" in table.columns:
        names["id"] = "id"
    with _name_file(source):
        _check_columns(table, names)
        columns = {
            "id": _ids(table, names["id"]),
            "prompt": _column(check_prompts(table[prompt].tolist(), prompt)),
            "language": _languages(table, language),
            "harmful": _labels(table, harmful, harmful_label),
        }
        if "group" in table.columns:
            _check_groups(table["group"])
    others = table.drop(columns=[name for name in names.values() if name is not None])
    return pd.concat([pd.DataFrame(columns), others.reset_index(drop=True)], axis=1)


def _check_groups(groups: pd.Series) -> None:
    """Check that no group is empty: all prompts with an empty one would be one group."""
    empty = np.flatnonzero(groups.isna() | (groups.astype(str).str.strip() == ""))
    if len(empty):
        raise ValueError(
            f"Got group[{empty[0]}]={groups.iloc[empty[0]]!r}, expected a group in each row: what "
            "a prompt and its translations share, or its own id."
        )


def _read(source: Any, texts: list[str]) -> pd.DataFrame:
    if isinstance(source, str | os.PathLike):
        return read_table(Path(source).expanduser(), texts)
    table = to_plain(source)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"Got source of type {type(source).__name__}, expected the path of a file or a frame."
        )
    return table


@contextmanager
def _name_file(source: Any) -> Iterator[None]:
    """Add the file to an error, and how its rows are counted."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if isinstance(source, str | os.PathLike):
            below = " below the header" if ".csv" in Path(source).name.lower() else ""
            where = f" In {os.fspath(source)!r}, row [0] is the first{below}."
            if isinstance(error, PromptError):
                error.problem += where
            else:
                error.args = (f"{error}{where}",)
        raise


def _check_columns(table: pd.DataFrame, names: dict[str, str | None]) -> None:
    """Check that each column is there once, and that the result has no column twice."""
    there = table.columns.tolist()
    twice = table.columns[table.columns.duplicated()].tolist()
    if twice:
        raise ValueError(f"Got source with several columns {twice[0]!r}, expected one.")
    asked = [name for name in names.values() if name is not None]
    for role, name in names.items():
        if name is not None and name not in there:
            hint = f", or {role}=None if there is none" if role in ("language", "harmful") else ""
            raise ValueError(
                f"Got {role}={name!r}, expected one of the columns {there}. Name yours: "
                f"load_prompts(..., {role}='...'){hint}."
            )
        if name is not None and asked.count(name) > 1:
            raise ValueError(f"Got {role}={name!r}, which is the column of something else too.")
        if role != name and role in there and role not in asked:
            raise ValueError(
                f"Got {role}={name!r} and another column {role!r}, which the result can't hold "
                "too. Rename or drop that column."
            )
    if not len(table):
        raise ValueError("Got source without rows, expected at least 1 prompt.")


def _ids(table: pd.DataFrame, name: str | None) -> list[str]:
    if name is None:
        return [str(row) for row in range(len(table))]
    ids: dict[str, int] = {}
    for row, value in enumerate(table[name].tolist()):
        if isinstance(value, bool) or not isinstance(value, str | Integral):
            raise TypeError(
                f"Got {name}[{row}]={value!r:.100} of type {type(value).__name__}, expected a str "
                "or an int."
            )
        text = str(value)
        if not text:
            raise ValueError(f"Got {name}[{row}]='', expected an id.")
        if text in ids:
            raise ValueError(
                f"Got {name}[{row}]={text!r:.100}, which is that of row {ids[text]} too, expected "
                "ids that differ. If translations share it, pass it as a column 'group'."
            )
        ids[text] = row
    return list(ids)


def _languages(table: pd.DataFrame, name: str | None) -> Any:
    if name is None or _is_unknown(table, name, "language"):
        return _column([None] * len(table))
    return check_language(table[name].tolist(), len(table), name).tolist()


def _labels(table: pd.DataFrame, name: str | None, harmful_label: Any) -> Any:
    if name is None or _is_unknown(table, name, "harmful"):
        return _column([None] * len(table))
    given = plain_labels(table[name], name).tolist()
    plain = [_normalise(label) for label in given]
    if harmful_label is not None:
        return _own_labels(plain, given, name, harmful_label)
    for row, label in enumerate(plain):
        if label not in _LABELS:
            raise ValueError(
                f"Got {name}[{row}]={given[row]!r:.100}, expected True or False, 1 or 0, 1 or -1, "
                "or 'harmful' or 'harmless'. If you have two labels of your own, pass the one that "
                "means harmful: load_prompts(..., harmful_label='...')."
            )
    if 0 in plain and -1 in plain:
        raise ValueError(
            f"Got {name}[{plain.index(-1)}]=-1 and {name}[{plain.index(0)}]=0, expected two labels."
        )
    return np.array([_LABELS[label] for label in plain], dtype=bool)


def _own_labels(plain: list[Any], given: list[Any], name: str, harmful_label: Any) -> Any:
    """Find the rows with the harmful label; all others must share one label."""
    if "" in plain:
        raise ValueError(f"Got {name}[{plain.index('')}]='', expected a label in each row.")
    wanted = _normalise(harmful_label)
    labels = dict(zip(plain, given, strict=True))
    if len(labels.keys() - {wanted}) > 1:
        raise ValueError(
            f"Got harmful_label={harmful_label!r} and the labels {list(labels.values())!r:.200} in "
            f"the column {name!r}, expected harmful_label and one other."
        )
    return np.array([label == wanted for label in plain], dtype=bool)


def _normalise(label: Any) -> Any:
    """Turn a text into a lower-case one, or into the number that it spells."""
    if not isinstance(label, str):
        return label
    text = label.strip().casefold()
    if text in _BOOLS:
        return _BOOLS[text]
    try:
        return float(text)
    except ValueError:
        return text


def _is_unknown(table: pd.DataFrame, name: str, role: str) -> bool:
    """Whether the column is one of None, as load_prompts makes it."""
    return name == role and bool(table[name].isna().all())


def _column(values: list[Any]) -> pd.Series[Any]:
    return pd.Series(values, dtype=object)
