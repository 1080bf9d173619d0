"""The processes that torchrun starts for one run: each rank's value goes in, a value that all ranks share comes out.

Objects are gathered and broadcast over torch.distributed, and an error on one rank is raised on every rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar, cast

from schemas.errors import CacheError, ProgramFault
from teacher_cache.io.command_line import no_room
from teacher_cache.io.console import stderr, stdout

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the world size. Every rank must call the methods marked collective, in the same order."""

    rank: int = 0
    """This process's rank, counted from 0."""
    size: int = 1
    """World size: how many processes train together."""

    @classmethod
    def joined(cls) -> Ranks:
        """Rank and world size from torchrun's environment; a single process without it. Joins the process group. Collective."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        import torch.distributed as dist  # noqa: PLC0415  # importing torch takes seconds; a mistake in the YAML shows at once

        if not dist.is_initialized():
            dist.init_process_group()  # gloo for CPU tensors, and nccl for CUDA tensors if there is a GPU
        return cls(dist.get_rank(), size)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """All-gather: every rank's value (any picklable object), in rank order. Collective."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist  # noqa: PLC0415

        found: list[Value | None] = [None] * self.size
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def interleaved(self, mine: list[Value]) -> list[Value]:
        """One list of every rank's values for its share of a list, ``whole[rank::size]``. Collective."""
        parts = self.gather(mine)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value on every rank; the values that other ranks pass are ignored. Collective."""
        return self.gather(value if self.is_rank_zero else cast("Value", None))[0]

    def raise_first(self, error: CacheError | None) -> None:
        """Raise the lowest rank's error on every rank; return if no rank has one. Collective."""
        if met := [found for found in self.gather(error) if found is not None]:
            raise met[0]

    @contextmanager
    def raise_on_any_rank(self) -> Iterator[None]:
        """If the block raises what `kept` keeps on one rank, every rank raises it. It may hold no collective. Collective."""
        errors: list[CacheError] = []
        with kept(errors):
            yield
        self.raise_first(errors[0] if errors else None)


@contextmanager
def kept(errors: list[CacheError]) -> Iterator[None]:
    """Append the block's error instead of raising it, if it is a `CacheError` or a full disk's, for `Ranks.raise_first`."""
    try:
        yield
    except CacheError as met:
        errors.append(met)
    except Exception as met:
        full = no_room(met)
        if full is None:
            raise
        errors.append(full)


@contextmanager
def rank_zero_console() -> Iterator[Ranks]:
    """Silence the console on every rank but 0, and let no rank exit before rank 0 has printed.

    torchrun kills all processes as soon as one exits with an error, so rank 0's message must be out by then.
    """
    ranks = Ranks.joined()
    if ranks.size == 1:
        yield ranks
        return
    stderr.quiet = stdout.quiet = not ranks.is_rank_zero
    try:
        yield ranks
    except SystemExit as ended:
        # Ctrl-C interrupts each rank at its own point, and a program fault hits one rank alone: waiting would hang.
        if ended.code not in {130, ProgramFault.exit_status}:
            _leave_together(ranks, int(ended.code or 0))
        raise
    _leave_together(ranks, 0)


def _leave_together(ranks: Ranks, status: int) -> NoReturn:
    """Exit, once every rank is here.

    By `os._exit`: some finished processes aborted in the interpreter's shutdown (``terminate called without an active
    exception``; which library's thread does it was not found), and torchrun then reports a finished run as failed.
    """
    import torch.distributed as dist  # noqa: PLC0415

    ranks.gather(None)
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
