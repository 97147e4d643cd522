"""The work of a Ray actor: adding a column of activations to batches of rows."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from skgate._messages import PromptError
from skgate.distributed._row_error import RowError

if TYPE_CHECKING:
    import pyarrow as pa

    from skgate.activations._transformer import ActivationTransformer

_LONGEST_ID = 64  # a hash of 256 bits


class ActivationReader:
    """Append a column of activations to batches, with a model that each process loads once.

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
            At least one row.

        Returns
        -------
        batch : pyarrow.Table
            The same rows with one more column, a fixed-size list of float32.

        Raises
        ------
        RowError
            If a prompt can't be used, or a parameter of the transformer is out of range.
        """
        import pyarrow as pa

        try:
            prompts = batch.column(self._prompt_column).to_pylist()
            rows = np.asarray(self._transformer.transform(prompts), dtype=np.float32)
        except PromptError as error:
            raise RowError(f"{self._name_row(batch, error.row)} {error.problem}") from error
        except (TypeError, ValueError) as error:
            raise RowError(str(error)) from error
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
        return batch.append_column(self._output_column, values)

    def _name_row(self, batch: pa.Table, index: int) -> str:
        """Name a row by its ids, since its index means nothing outside the batch."""
        row = batch.slice(index, 1).to_pylist()[0]
        known = {key: value for key, value in row.items() if self._identifies(key, value)}
        place = known or f"{index} of a batch of {len(batch)} (no other column identifies it)"
        return f"column {self._prompt_column!r} of the row {place}"

    def _identifies(self, column: str, value: Any) -> bool:
        """Whether a value looks like an id or a label. Texts may be harmful and are not shown."""
        if column == self._prompt_column:
            return False
        if isinstance(value, str):
            return len(value) <= _LONGEST_ID and value.isascii() and " " not in value
        return isinstance(value, int | float | date)
