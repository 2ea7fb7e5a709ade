"""Which entries of the vocabulary a rank computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """The real vocabulary, and which of its entries this rank of the tp_group computes.

    Columns beyond `size`, with which heads are padded, are never computed: as if -inf.
    """

    size: int
    start: int
    stop: int

    @classmethod
    def split(cls, size: int, tp_rank: int, tp_size: int) -> "Vocabulary":
        """The share of one rank; shares differ by at most one entry."""
        if size < tp_size:
            raise ValueError(f"a vocabulary of {size} cannot be split over {tp_size} ranks")
        return cls(size, size * tp_rank // tp_size, size * (tp_rank + 1) // tp_size)

    @property
    def rows(self) -> slice:
        """This rank's rows of a head."""
        return slice(self.start, self.stop)
