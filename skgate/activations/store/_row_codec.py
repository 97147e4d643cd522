"""Activations as bytes: the narrowest lossless type, with a checksum."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]

# Checksum of the key and of everything that follows; seconds since 1970; type of the numbers.
_HEADER = struct.Struct("<8sd4s")
_CHECKSUM_SIZE = 8


def encode(key: bytes, row: Row, written: float) -> bytes:
    """Turn an activation into bytes.

    A number takes 2 bytes if all numbers are exact in bfloat16 or float16, as those of a model of
    that type are, and 4 bytes otherwise.

    Parameters
    ----------
    key : bytes
        Key to store the value under, at most 64 bytes.
    row : ndarray of shape (d,), float32
        The activation.
    written : float
        Time of writing, in seconds since 1970.

    Returns
    -------
    value : bytes
        20 bytes and 2 or 4 per number.
    """
    bits = np.ascontiguousarray(row, "<f4").view("<u4")
    if not (bits & 0xFFFF).any():
        return _seal(key, written, b"bf16", (bits >> 16).astype("<u2").tobytes())
    with np.errstate(over="ignore"):
        half = row.astype("<f2")
    if np.array_equal(half.astype("<f4").view("<u4"), bits):
        return _seal(key, written, b"fp16", half.tobytes())
    return _seal(key, written, b"fp32", bits.tobytes())


def decode(key: bytes, value: bytes | memoryview | None) -> Row | None:
    """Turn bytes back into the activation.

    Parameters
    ----------
    key : bytes
        Key under which the value was found.
    value : bytes-like or None
        Result of :func:`encode`.

    Returns
    -------
    row : ndarray of shape (d,), float32, or None
        Exactly the numbers that were encoded; None if ``value`` is None, incomplete, damaged or
        belongs to another key.
    """
    if value is None or len(value) < _HEADER.size:
        return None
    checksum, _, kind = _HEADER.unpack_from(value)
    view = memoryview(value)
    if _checksum(key, view[_CHECKSUM_SIZE:]) != checksum:
        return None
    numbers = view[_HEADER.size :]
    if kind == b"bf16":
        return (np.frombuffer(numbers, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(numbers, "<f2" if kind == b"fp16" else "<f4").astype(np.float32)


def written_at(value: bytes | memoryview) -> float:
    """Return when a value was written, in seconds since 1970; 0 if that can't be read."""
    written = _HEADER.unpack_from(value)[1] if len(value) >= _HEADER.size else 0.0
    return float(written) if math.isfinite(written) else 0.0


def _seal(key: bytes, written: float, kind: bytes, numbers: bytes) -> bytes:
    header = _HEADER.pack(b"", written, kind)[_CHECKSUM_SIZE:]
    body = header + numbers
    return _checksum(key, body) + body


def _checksum(key: bytes, body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_SIZE, key=key).digest()
