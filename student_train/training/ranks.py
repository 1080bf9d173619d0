"""The processes that torchrun started for one run: what each of them found goes in, what all of them go by comes out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from schemas.errors import CacheError, ProgramFault
from teacher_cache.io.console import stderr, stdout

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. What is marked collective, every process must call, in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> Ranks:
        """The processes that torchrun's environment names; this one alone where there is none. Collective."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        import torch.distributed as dist  # noqa: PLC0415  # torch takes seconds; a mistake in the YAML shows at once

        if not dist.is_initialized():
            dist.init_process_group()  # with gloo for the host's tensors, and nccl for the GPU's where there is one
        return cls(dist.get_rank(), size)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process speaks, and writes files, for all."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in the order of their ranks. Collective."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist  # noqa: PLC0415

        found: list[Value | None] = [None] * self.size
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def broadcast(self, value: Value) -> Value:
        """What the leading process has; the others' own values count for nothing. Collective."""
        return self.gather(value if self.is_rank_zero else cast("Value", None))[0]

    def raise_first(self, error: CacheError | None) -> None:
        """Raise in every process the error that the first of them met; nothing where none met one. Collective."""
        if met := [found for found in self.gather(error) if found is not None]:
            raise met[0]

    @contextmanager
    def raise_on_any_rank(self) -> Iterator[None]:
        """What each process does by itself, with nothing collective in it: where one of them cannot, all stop. Collective."""
        error = None
        try:
            yield
        except CacheError as met:
            error = met
        self.raise_first(error)


@contextmanager
def rank_zero_console() -> Iterator[Ranks]:
    """The processes of this run, of which one speaks; the others are silent, and leave no earlier than it.

    torchrun ends all processes as soon as one ends with an error, and the message must be out by then.
    """
    ranks = Ranks.joined()
    if ranks.size == 1:
        yield ranks
        return
    stderr.quiet = stdout.quiet = not ranks.is_rank_zero
    try:
        yield ranks
    except SystemExit as ended:
        # Ctrl-C reaches each process wherever it is, and a fault is one process's own: the others do not come to meet it.
        if ended.code not in {130, ProgramFault.exit_status}:
            _leave_together(ranks)
        raise
    _leave_together(ranks)


def _leave_together(ranks: Ranks) -> None:
    import torch.distributed as dist  # noqa: PLC0415

    ranks.gather(None)
    dist.destroy_process_group()
