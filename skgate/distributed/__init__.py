"""Work for more than one machine, on Ray (``pip install "skgate[ray]"``)."""

from __future__ import annotations

from skgate.distributed._extract import extract

__all__ = ["extract"]
