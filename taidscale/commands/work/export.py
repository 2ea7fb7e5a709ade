"""What `taidscale export` does: a checkpoint's weights become a Hugging Face folder."""

from argparse import Namespace
from pathlib import Path

from taidscale.checkpoint.export import export_hugging_face
from taidscale.checkpoint.folder import choose_checkpoint
from taidscale.config.load import load_config
from taidscale.engine.student import student_state_dict
from taidscale.file_names import CHECKPOINTS_FOLDER, CONFIG_FILE, STUDENT_FOLDER
from taidscale.models.student import DTYPES
from taidscale.publishing.lineage import RunRecord, new_card


def export(options: Namespace) -> None:
    """Find the checkpoint, gather its weights, write and compare the folder."""
    run_dir: Path = options.run_dir
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"{run_dir} is not a run's folder: it holds no {CONFIG_FILE}")
    config = load_config(run_dir / CONFIG_FILE)
    checkpoints = run_dir / CHECKPOINTS_FOLDER
    checkpoint = choose_checkpoint(checkpoints, options.step, hashes=True)
    record = RunRecord.read(config, checkpoint, run_dir / STUDENT_FOLDER)
    card, files = new_card(record, options.out.name)
    report = export_hugging_face(
        student_state_dict(checkpoint),
        run_dir / STUDENT_FOLDER,
        options.out,
        dtype=DTYPES[options.dtype or config.precision],
        max_shard_size=options.max_shard_size,
        model_card=card.text,
        files=files,
    )
    print(f"checkpoint       {checkpoint}")
    print(f"parameters       {report.num_parameters:,}")
    print(f"weights          {report.num_bytes / 1e6:,.1f} MB")
    print(f"reloaded logits  differ from the checkpoint's by {report.largest_difference:.2e}")
    print(f"  of which rounding of the type: {report.largest_rounding:.2e}")
    print(f"exported to      {report.folder}")
