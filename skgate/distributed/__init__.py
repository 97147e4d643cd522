"""Extraction on several machines, with Ray (``pip install '.[ray]'`` in the checkout)."""

from __future__ import annotations

from skgate.distributed._extract import extract

__all__ = ["extract"]
