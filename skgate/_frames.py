"""Columns and frames of any library that narwhals reads (polars, pyarrow, modin and others)."""

from __future__ import annotations

from typing import Any

import numpy as np

_PLAIN = (list, tuple, str, bytes, dict, np.ndarray)
_NUMPY_FLOAT_SIZE = 4  # bytes; NumPy lacks most of torch's narrower types, such as bfloat16


def to_plain(values: Any) -> Any:
    """Turn a column into a list or an array, and a frame into a pandas DataFrame.

    Parameters
    ----------
    values : object
        A column or a frame of any library that narwhals reads, or anything else.

    Returns
    -------
    plain : object
        A column of bools or numbers without missing values is an ndarray, any other column a list
        of Python objects, in which None is a missing value. A frame is a pandas DataFrame. A
        tensor of torch is an ndarray, of float32 if its type is narrower. What pandas made and what
        is none of these is returned as it is.
    """
    if values is None or isinstance(values, _PLAIN):
        return values
    if any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(values).mro()):
        return _tensor(values)
    import narwhals as nw

    if nw.dependencies.is_pandas_dataframe(values) or nw.dependencies.is_pandas_series(values):
        return values
    native = nw.from_native(values, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(native, nw.Series):
        return _column(native)
    if isinstance(native, nw.DataFrame):
        return _frame(native)
    if hasattr(values, "to_pandas") and hasattr(values, "schema"):  # pyarrow's RecordBatch
        return values.to_pandas()
    if hasattr(values, "to_pylist"):  # pyarrow's Array; narwhals reads neither
        return values.to_pylist()
    return values


def find_index(values: Any) -> Any:
    """Find the index of a pandas Series or DataFrame, or of one of a library that is like pandas.

    Parameters
    ----------
    values : object
        Rows of any kind.

    Returns
    -------
    index : pandas Index or None
        None if the rows have no index.
    """
    import pandas as pd

    index = getattr(values, "index", None)
    return index if isinstance(index, pd.Index) else None


def find_column(columns: Any, name: Any) -> Any:
    """Find a column by its name, with or without the name of a ColumnTransformer's step before it.

    Parameters
    ----------
    columns : collection of str
        The columns' names.
    name : object
        The name, as it is after a ColumnTransformer, such as "language" or "step__language".

    Returns
    -------
    column : object
        The column of this name; None if there is none.
    """
    candidates = (name, str(name).rpartition("__")[2])
    return next((one for one in candidates if one in columns), None)


def _tensor(tensor: Any) -> Any:
    values = tensor.detach().cpu()
    if values.is_floating_point() and values.element_size() < _NUMPY_FLOAT_SIZE:
        values = values.float()
    return values.numpy()


def _column(column: Any) -> Any:
    import narwhals as nw

    is_number = column.dtype.is_numeric() or column.dtype == nw.Boolean
    return column.to_numpy() if is_number and not column.null_count() else column.to_list()


def _frame(frame: Any) -> Any:
    """Make a DataFrame column by column; polars' own conversion needs pyarrow."""
    import pandas as pd

    if frame.implementation.is_pandas_like():
        return frame.to_pandas()
    columns = {}
    for name in frame.columns:
        values = _column(frame[name])
        # As text, pandas would turn None into NaN.
        is_object = frame[name].null_count() and not frame[name].dtype.is_numeric()
        columns[name] = pd.Series(values, dtype=object) if is_object else values
    return pd.DataFrame(columns, index=range(len(frame)))
