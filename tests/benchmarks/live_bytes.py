"""What a forward really holds: the bytes of every tensor that is alive at once, on any device, "meta" included.

PyTorch counts this on GPUs; on a CPU it does not, and the process's size also holds what the libraries keep for later.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, from when each is made until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._live = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        self.peak = max(self.peak, self._live)
        return out

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = id(storage)  # one object for as long as the storage lives
        if key in self._sizes or key in given:  # a view, or changed in place
            return
        self._sizes[key] = storage.nbytes()
        self._live += storage.nbytes()
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


def peak_live_bytes(run: Callable[[], object]) -> int:
    """The most bytes that ``run`` holds at once in tensors of its own making; its results are among them."""
    counter = LiveBytes()
    with counter:
        run()
    return counter.peak
