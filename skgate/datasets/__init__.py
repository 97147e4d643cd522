"""Data sets to fit and test gates."""

from __future__ import annotations

from skgate.datasets._multijail import fetch_multijail
from skgate.datasets._organism import load_organism
from skgate.datasets._polyrefuse import fetch_polyrefuse

__all__ = ["fetch_multijail", "fetch_polyrefuse", "load_organism"]
