"""Which versions of what a result depends on are installed."""

from importlib.metadata import version

from taidscale import __version__


def installed_versions() -> dict[str, str]:
    """By name; nothing is imported for it."""
    libraries = ("torch", "deepspeed", "transformers", "mosaicml-streaming")
    return {"taidscale": __version__} | {name: version(name) for name in libraries}
