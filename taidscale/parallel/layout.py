"""How a student is spread over ranks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a student is spread over its ranks."""

    world_size: int
    stage: int
    offload_optimizer: bool
    precision: str

    def __str__(self) -> str:
        ranks = f"{self.world_size} rank{'s' if self.world_size > 1 else ''}"
        offload = ", optimizer on the CPU" if self.offload_optimizer else ""
        return f"{ranks}, ZeRO-{self.stage}{offload}, {self.precision}"
