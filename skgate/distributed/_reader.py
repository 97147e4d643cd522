"""What each Ray actor does: activations of a batch of prompts."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from skgate.distributed._row_error import RowError

if TYPE_CHECKING:
    import pyarrow as pa

    from skgate.activations._transformer import ActivationTransformer

_LONGEST_ID = 64  # a hash of 256 bits


class ActivationReader:
    """Append a column of activations to batches, with a model loaded once per process.

    Parameters
    ----------
    transformer : ActivationTransformer
        Reads the activations; its model is given by id or path.
    prompt_column : str
        The column with the prompts.
    output_column : str
        The column to append.
    """

    def __init__(
        self, transformer: ActivationTransformer, prompt_column: str, output_column: str
    ) -> None:
        self._transformer = transformer
        self._prompt_column = prompt_column
        self._output_column = output_column

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Append the activations.

        Parameters
        ----------
        batch : pyarrow.Table
            Some rows, at least one.

        Returns
        -------
        batch : pyarrow.Table
            The same rows with one more column, a fixed-size list of float32.

        Raises
        ------
        RowError
            If a prompt is missing, empty, too long or the like, or a parameter out of range.
        """
        import pyarrow as pa

        try:
            prompts = batch.column(self._prompt_column).to_pylist()
            rows = np.asarray(self._transformer.transform(prompts), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise RowError(self._name_rows(str(error), batch)) from error
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        return batch.append_column(self._output_column, values)

    def _name_rows(self, message: str, batch: pa.Table) -> str:
        """Replace ``X[3]``, which means nothing outside this batch, by the row's other columns."""

        def name(found: re.Match[str]) -> str:
            row = batch.slice(int(found[1]), 1).to_pylist()[0]
            known = {key: value for key, value in row.items() if self._identifies(key, value)}
            place = known or f"{found[1]} of a batch of {len(batch)} (no other column tells which)"
            return f"column {self._prompt_column!r} of the row {place}"

        return re.sub(r"\bX\[(\d+)\]", name, message)

    def _identifies(self, column: str, value: Any) -> bool:
        """Whether a value looks like an id or a label. A text may be harmful and isn't shown."""
        if column == self._prompt_column:
            return False
        if isinstance(value, str):
            return len(value) <= _LONGEST_ID and value.isascii() and " " not in value
        return isinstance(value, int | float | date)
