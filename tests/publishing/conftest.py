"""A Hub of our own, and a way to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, utils
from huggingface_hub.utils import http_backoff

from tests.publishing.exported import make_exported
from tests.publishing.hub_server import HubServer

# huggingface_hub 1 has one session, which it closes; 0.36 has one of each thread.
new_sessions = utils.close_session if hasattr(utils, "close_session") else utils.reset_sessions


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """For this process, whose client then tries again at once."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server has none
    assert http_backoff.__kwdefaults__ is not None
    monkeypatch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0.01)
    new_sessions()
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server
    new_sessions()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return make_exported(tmp_path / "exported")
