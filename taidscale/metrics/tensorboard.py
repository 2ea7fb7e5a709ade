"""The run's figures as TensorBoard reads them."""

import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from taidscale.config.load import dump_config
from taidscale.config.schema import RunConfig
from taidscale.file_names import TENSORBOARD_FOLDER

if TYPE_CHECKING:  # its package is optional
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class TensorBoard:
    """Event files in `run_dir/tensorboard`; those of an earlier start stay, and are continued.

    What `metrics.jsonl` holds they hold too: they are flushed as often, so that `kill -9` does
    not leave a gap before the checkpoint.
    """

    def __init__(self, config: RunConfig, last_step: int) -> None:
        """Begin a new event file.

        Args:
            config: of the run; its settings are shown as text.
            last_step: later steps in earlier files will be done again.
        """
        self._folder = config.run_dir / TENSORBOARD_FOLDER
        self._writer: SummaryWriter | None = None
        self._settings = dump_config(config)
        self.drop_steps_after(last_step)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name after `step` optimizer steps; the step itself is no figure."""
        if self._writer is None:
            return
        try:
            for name, value in figures.items():
                if not name.endswith("/step"):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:  # a full disk: the next checkpoint stops the run, on all ranks
            log.warning("%s cannot be written, and ends here: %s", self._folder, error)
            self._writer = None

    def drop_steps_after(self, step: int) -> None:
        """TensorBoard shows nothing of the steps after `step` that was written before."""
        from torch.utils.tensorboard import SummaryWriter  # needs a package that may be missing

        self.close()
        try:
            self._writer = SummaryWriter(self._folder, purge_step=step + 1)
            text = "\n".join(f"    {line}" for line in self._settings.splitlines())
            self._writer.add_text("settings", text, step + 1)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._folder, error)
            self._writer = None

    def close(self) -> None:
        """Flush what is left; a full disk is no reason to fail."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
