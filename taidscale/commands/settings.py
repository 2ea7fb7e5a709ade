"""Print every setting of a run: its type, default, unit and meaning.

taidscale settings [NAME-PREFIX] [--format text|markdown|json-schema]

`taidscale settings loss.t` shows one part. With the JSON schema, editors complete and check a
configuration whose first line is `# yaml-language-server: $schema=PATH`.
"""

import difflib
import json

from taidscale.commands.outcome import fail
from taidscale.commands.parser import command_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error."""
    parser = command_parser("settings", __doc__)
    parser.add_argument("prefix", nargs="?", metavar="NAME-PREFIX", help="such as loss.t")
    parser.add_argument("--format", choices=["text", "markdown", "json-schema"], default="text")
    options = parser.parse_args(arguments)
    try:
        print(shown(options.format, options.prefix or ""))
    except ValueError as error:
        return fail(str(error))
    return 0


def shown(form: str, prefix: str) -> str:
    """The settings whose paths begin so, in one of the forms.

    Raises:
        ValueError: if there are none, or a part of the JSON schema is asked for.
    """
    # Dear: pydantic builds the models of all sections; `--help` needs none.
    from taidscale.config.settings import all_settings, as_markdown, as_text, json_schema

    if form == "json-schema":
        if prefix:
            raise ValueError(f"{prefix}: the JSON schema is of all settings; leave it out")
        return json.dumps(json_schema(), indent=1, ensure_ascii=False)
    every = all_settings()
    section = [s for s in every if s.path == prefix or s.path.startswith(f"{prefix}.")]
    found = section or [s for s in every if s.path.startswith(prefix)]
    if not found:
        near = difflib.get_close_matches(prefix, [setting.path for setting in every], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no setting begins with {prefix!r}{hint}")
    return as_markdown(found) if form == "markdown" else as_text(found)
