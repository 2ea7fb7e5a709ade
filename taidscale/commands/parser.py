"""The parsers of the commands; they import nothing large, so that `--help` comes at once."""

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter


def command_parser(name: str, description: str | None) -> ArgumentParser:
    """The parser of `taidscale NAME`, without arguments yet."""
    return ArgumentParser(
        prog=f"taidscale {name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )


def run_parser(name: str, description: str | None) -> ArgumentParser:
    """The same for a command about a run that has a configuration.

    Overrides and options may stand in any order: `parse_intermixed_args` reads it.
    """
    parser = command_parser(name, description)
    parser.add_argument("config", help="YAML file of the run")
    parser.add_argument("overrides", nargs="*", help="section.setting=value")
    parser.add_argument("--local_rank", type=int, help=SUPPRESS)  # deepspeed adds it
    return parser
