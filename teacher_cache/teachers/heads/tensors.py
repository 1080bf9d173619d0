"""Names and shapes of tensors in, what does not fit a network out; a file in, its digest or its tensors' shapes out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from schemas.base import parsed_json
from schemas.signal import Shape

_SHOWN = 5


def misfits(needed: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    """Tensors that are missing, unexpected or of the wrong shape: one phrase per kind; empty if everything fits."""
    missing = [name for name in needed if name not in found]
    unexpected = [name for name in found if name not in needed]
    wrong = [
        f"{name} (needs {list(shape)}, found {list(found[name])})"
        for name, shape in needed.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    return [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds.items() if names]


def listed(phrases: Sequence[str]) -> str:
    """One indented line per phrase."""
    return "\n".join(f"  {phrase}" for phrase in phrases)


def shorten(names: Sequence[str]) -> str:
    """The first few names, and the number of further ones."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


_ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
_LONGEST_HEADER = 2**22


def safetensors_shapes(file: BinaryIO, length: int) -> dict[str, Shape]:
    """Name → shape of the tensors of a safetensors file of ``length`` bytes: eight bytes with a number, so much JSON, values.

    Raises `ValueError` unless they are floating, and lie in the file one after another without a gap or an overlap.
    """
    header_length = int.from_bytes(file.read(8), "little")
    if header_length > min(length - 8, _LONGEST_HEADER):
        raise ValueError(f"its header would have {header_length} bytes, and it has {length}")
    try:
        header = parsed_json(file.read(header_length))
        header.pop("__metadata__", None)
        found = sorted((*map(_natural, about["data_offsets"]), name, about) for name, about in header.items())
        shapes = {name: tuple(map(_natural, about["shape"])) for *_, name, about in found}
        sizes = [math.prod(shapes[name]) * _ITEM_SIZES[about["dtype"]] for *_, name, about in found]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its header is not one of floating tensors ({type(error).__name__}: {error})") from None
    end = 0
    for (start, stop, name, _), size in zip(found, sizes, strict=True):
        if start != end or stop - start != size:
            raise ValueError(f"{name} takes {size} bytes from {end} on, and its header says {start} to {stop}")
        end = stop
    if end != length - 8 - header_length:
        raise ValueError(f"its tensors take {end} bytes, and it has {length - 8 - header_length} of them")
    return shapes


def _natural(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no length")
    return value


def file_digest(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
