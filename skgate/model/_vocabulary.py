"""Whether a model has an embedding for every token of its prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skgate._messages import PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skgate.model._prompts import Request


def count_tokens(embeddings: Any) -> int | None:
    """Count the tokens that a model has an embedding for.

    Parameters
    ----------
    embeddings : torch.nn.Module
        The model's embeddings.

    Returns
    -------
    n_rows : int or None
        Token ids are less than this number. None if the embeddings are no table.
    """
    count = getattr(embeddings, "num_embeddings", None)
    return count if isinstance(count, int) else None


def describe_unknown_token(token: int, n_rows: int) -> str:
    """Say in an error that a token id has no embedding, and what to do."""
    return (
        f"token id {token}, expected ids less than {n_rows}, the number of rows of the model's "
        "embeddings. The tokenizer has tokens that the model does not know. Use the model's own "
        "tokenizer, or call model.resize_token_embeddings(len(tokenizer)) and train the new rows."
    )


def check_token_ids(requests: Sequence[Request], embeddings: Any, name: str = "X") -> None:
    """Raise a PromptError for the first prompt with a token that the model does not know.

    Parameters
    ----------
    requests : sequence of Request
        The prompts, in the order of the call.
    embeddings : torch.nn.Module
        The model's embeddings. If they are no table, nothing is checked.
    name : str, default="X"
        What the call names its prompts.

    Raises
    ------
    PromptError
        It names the row, and does not show the prompt.
    """
    n_rows = count_tokens(embeddings)
    if n_rows is None:
        return
    for row, request in enumerate(requests):
        largest = int(request.ids.max())
        if largest >= n_rows:
            raise PromptError(row, f"has {describe_unknown_token(largest, n_rows)}", name)
