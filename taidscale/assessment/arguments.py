"""What both commands are told about models and text; importing it loads nothing heavy."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable


def at_least(least: int, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """Reads a number that is not less."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise ArgumentTypeError(f"{text} must be at least {least}")
        return value

    return number


def add_text(parser: ArgumentParser) -> None:
    """Domains of held-out text, and how they are cut; see `held_out_text.py`."""
    parser.add_argument("--text", nargs="+", default=[], metavar="NAME=PATH", help="domains")
    parser.add_argument("--max-passages", type=at_least(1), default=200, help="of a domain")
    parser.add_argument("--passage-characters", type=at_least(1), default=2000, help="at most")
    parser.add_argument("--text-column", default="text", help="of JSONL and Parquet")
    parser.add_argument("--split-on", help="what ends a document inside a .txt file")
    parser.add_argument(
        "--window-tokens", type=at_least(1), default=2048, help="context of a passage"
    )


def add_placement(parser: ArgumentParser) -> None:
    """Where and how models run; see `subjects.py`."""
    parser.add_argument("--batch-size", type=at_least(1), default=8)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: the GPU if there is one")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], help="default: fp32 on the CPU")
    parser.add_argument("--seed", type=int, default=1234)
