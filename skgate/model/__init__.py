"""Everything about Hugging Face models: loading, tokenizing, reading and editing activations.

Nothing here is public.
"""

from __future__ import annotations

__all__: list[str] = []
