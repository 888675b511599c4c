"""The processes that hold one denoiser together: sums over all of them, and what the first tells the others to run.

Rank 0 leads. It alone plans and decides; by *orders* it tells the others what to run with it. They carry orders out one
after the other, so all reach the same sums in the same sequence.

Tensors go by NCCL between GPUs and by gloo between CPUs, orders always by gloo.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from quicksilver.errors import ConfigError, RankError

PATIENCE_S = 60.0
"""How long a rank waits for another one's part of a sum. All work alike, so one that takes longer has stopped."""
_IDLE_S = 365 * 86_400.0
"""How long a rank waits for an order: a server may have nothing to do. That rank 0 has ended is noticed at once, since
its connections close."""


class Ranks:
    """All processes of a group, seen from one of them. A context manager that leaves the group."""

    def __init__(self, device: torch.device, *, patience_s: float = PATIENCE_S) -> None:
        """Divide torch's default process group, which exists, into one for tensors and one for orders.

        Args:
            device: of this rank's tensors.
            patience_s: see ``PATIENCE_S``.
        """
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        backend = "nccl" if device.type == "cuda" else "gloo"
        self._sums = _new_group(backend, patience_s)
        # Rank 0 sends an order when the others are there to receive it, that is done with the one before.
        self._orders = _new_group("gloo", patience_s if self.leads else _IDLE_S)
        # A server reads logits beside its engine's thread; orders of the two must not mix.
        self._lock = threading.RLock()
        self._is_broken = False
        self.served: object = None
        """What the other ranks have taken memory for; rank 0's to set."""

    @classmethod
    def join(
        cls,
        device: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        init_method: str | None = None,
        rank: int = -1,
        size: int = -1,
    ) -> Self:
        """Meet the other processes; returns when all are there.

        Args:
            device: ``cpu`` or ``cuda``, which gives every process of a machine a GPU of its own; None: cuda if there
                is one.
            patience_s: see ``PATIENCE_S``.
            init_method: where they meet; None: as torchrun's environment says.
            rank: this process's number; -1: as the environment says.
            size: how many processes there are; -1: as the environment says.

        Raises:
            ConfigError: this machine has not as many GPUs as processes, or no such device.
            RankError: the others did not come.
        """
        target = _own_device(device)
        try:
            dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=size)
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"the processes of one model did not find each other (torchrun starts them): {error}"
            ) from error
        return cls(target, patience_s=patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the group; rank 0 tells the others to stop. Closing twice does nothing."""
        with self._lock:
            if not dist.is_initialized():
                return
            if self.leads and not self._is_broken:
                with self.leading(None):
                    pass
            dist.destroy_process_group()

    def meet(self) -> None:
        """Wait until all ranks are here, for as long as torch's default: they load at different speeds."""
        try:
            dist.barrier()
        except RuntimeError as error:
            raise self._lost(error) from error

    @contextmanager
    def leading(self, order: object) -> Iterator[None]:
        """On rank 0: let the others carry out an order beside the body, which takes part in the same sums.

        Args:
            order: anything that can be pickled; None: stop.

        Raises:
            RankError: a rank is gone or took too long, or the body failed, so that the others wait for what does not
                come. Nothing can be ordered any more.
        """
        if not self.leads:
            raise RankError(f"rank {self.rank} of {self.size} only follows; rank 0 takes requests")
        with self._lock:
            if self._is_broken:
                raise RankError(f"the {self.size} processes of this model are out of step; start them all again")
            self._is_broken = True
            try:
                dist.broadcast_object_list([order], src=0, group=self._orders)
                yield
            except Exception as error:
                raise self._lost(error) from error
            self._is_broken = False

    def orders(self) -> Iterator[object]:
        """On all other ranks: what rank 0 orders, until it closes.

        Raises:
            RankError: rank 0 is gone.
        """
        while True:
            found: list[object] = [None]
            try:
                dist.broadcast_object_list(found, src=0, group=self._orders)
            except RuntimeError as error:
                raise self._lost(error) from error
            if found[0] is None:
                return
            yield found[0]

    def sum(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """The sum of all ranks' tensors of one shape; the same to the last bit on every rank."""
        total = x.contiguous()
        dist.all_reduce(total, group=self._sums)
        return total

    def share(self, x: Float[Tensor, "N D"]) -> None:
        """Write rank 0's values into the tensor of every other rank."""
        dist.broadcast(x, src=0, group=self._sums)

    def join_columns(self, part: Float[Tensor, "N part"], widths: Sequence[int]) -> Float[Tensor, "N all"] | None:
        """On rank 0 the columns of all ranks side by side; None on the others.

        Args:
            part: this rank's columns.
            widths: how many each rank has.
        """
        padded = F.pad(part, (0, max(widths) - part.shape[1])).contiguous()
        if not self.leads:
            dist.gather(padded, dst=0, group=self._sums)
            return None
        parts = [torch.empty_like(padded) for _ in widths]
        dist.gather(padded, parts, dst=0, group=self._sums)
        return torch.cat([each[:, :width] for each, width in zip(parts, widths, strict=True)], dim=1)

    def _lost(self, error: Exception) -> RankError:
        self._is_broken = True
        if isinstance(error, RankError):
            return error
        return RankError(
            f"rank {self.rank} of {self.size} lost the others (one has ended, failed or stopped; its own message says "
            f"why); start them all again: {type(error).__name__}: {error}"
        )


def _new_group(backend: str, timeout_s: float) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend, timeout=timedelta(seconds=timeout_s))
    if not isinstance(group, dist.ProcessGroup):
        raise RankError("this process is not one of its own group")
    return group


def _own_device(name: str | None) -> torch.device:
    wants_gpu = torch.cuda.is_available() if name is None else name.startswith("cuda")
    if not wants_gpu:
        if name not in (None, "cpu"):
            raise ConfigError(f"no device {name!r}; use cpu or cuda")
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name not in (None, "cuda"):
        raise ConfigError(f"device {name!r}: every process takes the GPU of its own number; use cuda")
    if index >= count:
        raise ConfigError(
            f"process {index} of this machine has no GPU, there are {count}; start at most {count} with torchrun"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
