"""Extraction on several machines, with Ray (``pip install "skgate[ray]"``)."""

from __future__ import annotations

from skgate.distributed._extract import extract

__all__ = ["extract"]
