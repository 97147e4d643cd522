"""Architectures whose attention lets padding change what they compute, although it is masked."""

from __future__ import annotations

from typing import Any

_N_KEYS = ("index_topk", "indexer_budget", "keep_window_size")
# All tokens of a prompt see each other in these, and the padding too.
_BIDIRECTIONAL = {"paligemma"}


def longest_padded(config: Any) -> int | None:
    """Find the longest prompt that a model may get padded.

    In sparse attention, only the keys that score best count. Many scores are exactly 0, and which
    of equal scores count depends on how many columns there are, padding included. So with more
    tokens than the number of keys, a prompt must not be padded.

    Parameters
    ----------
    config : PreTrainedConfig
        The model's configuration.

    Returns
    -------
    n_tokens : int or None
        0 if padding always changes something; None if it never does for this reason.
    """
    if getattr(config, "model_type", None) in _BIDIRECTIONAL:
        return 0
    text_config = config.get_text_config()
    counts = (getattr(text_config, name, None) for name in _N_KEYS)
    n_keys = next((n for n in counts if n is not None), None)
    n_blocks = getattr(text_config, "index_topk_blocks", None)
    if n_keys is None and n_blocks is not None:
        n_keys = n_blocks * text_config.index_block_size
    return None if n_keys is None else int(n_keys)
