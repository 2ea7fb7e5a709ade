"""What `taidscale publish` does: it completes the model card, shows or sends the folder."""

from argparse import Namespace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from taidscale import __version__
from taidscale.checkpoint.folder import checkpoint_of
from taidscale.config.load import load_config
from taidscale.durable import replace_file
from taidscale.file_names import CHECKPOINTS_FOLDER, CONFIG_FILE, STUDENT_FOLDER
from taidscale.publishing import hub
from taidscale.publishing.card import Card
from taidscale.publishing.folder import CARD, check_folder
from taidscale.publishing.hub import check_repo_id, hashed
from taidscale.publishing.lineage import RunRecord, describe
from taidscale.publishing.results import results_section


def publish(options: Namespace) -> None:
    """Check, complete the card, and send."""
    check_repo_id(options.repo_id)
    if not options.dry_run and get_token() is None:
        raise ValueError("there is no Hugging Face token: run `hf auth login`, or set HF_TOKEN")

    folder: Path = options.folder
    check_folder(folder)
    card, files = complete_card(options)
    if options.dry_run:
        show(folder, {CARD: card.text.encode()} | files, options)
        return
    for name, content in ({CARD: card.text.encode()} | files).items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            replace_file(path, content)
    send(options)


def complete_card(options: Namespace) -> tuple[Card, dict[str, bytes]]:
    """The folder's card with what the options add; and files that belong to it."""
    path = options.folder / CARD
    if not path.is_file():
        raise ValueError(f"{path} is missing: export again, or write a model card")
    card = Card.parse(path.read_text(encoding="utf-8"), str(path))
    files: dict[str, bytes] = {}
    if options.run is not None:
        if card.run_step is None:
            raise ValueError(
                f"--run: {path} does not say which checkpoint of {options.run} the weights are "
                "from; export again, or leave --run out"
            )
        card, files = describe(card, read_run(options.run, card.run_step))
    if options.evaluation is not None:
        card = card.with_section("results", results_section(options.evaluation))
    if options.language:
        card = card.with_metadata({"language": options.language})
    return card.with_license(options.license), files


def read_run(run_dir: Path, step: int) -> RunRecord:
    """What the run's folder says about a checkpoint."""
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"--run: {run_dir} is not a run's folder: it holds no {CONFIG_FILE}")
    checkpoint = checkpoint_of(run_dir / CHECKPOINTS_FOLDER, step)
    try:
        config = load_config(run_dir / CONFIG_FILE)
        return RunRecord.read(config, checkpoint, run_dir / STUDENT_FOLDER)
    except ValueError as error:
        raise ValueError(f"--run: {checkpoint}: {error}; leave --run out") from None


def show(folder: Path, made: dict[str, bytes], options: Namespace) -> None:
    """Print what would be sent, without any network and without changing the folder."""
    kept = [
        path for path in check_folder(folder) if path.relative_to(folder).as_posix() not in made
    ]
    additions = hashed(folder, kept)
    additions += [CommitOperationAdd(name, content) for name, content in made.items()]
    seen = "public" if options.public else "private"
    print(f"would publish {folder} as {options.repo_id} ({seen}), branch {options.revision}:\n")
    print_files(additions)
    print(f"\n{CARD}:\n")
    print(made[CARD].decode(), end="")


def print_files(additions: list[CommitOperationAdd]) -> None:
    """A line each: size, SHA-256, name."""
    infos = {addition.path_in_repo: addition.upload_info for addition in additions}
    for name in sorted(infos):
        print(f"{infos[name].size:>15,}  {infos[name].sha256.hex()}  {name}")
    print(f"{sum(info.size for info in infos.values()):>15,}  bytes in {len(infos)} files")


def send(options: Namespace) -> None:
    """Send all files, and say where they are."""
    additions = hashed(options.folder, check_folder(options.folder))
    published = hub.publish(
        additions,
        options.repo_id,
        HfApi(token=get_token()),
        private=not options.public,
        revision=options.revision,
        message=f"Publish with TAIDScale {__version__}",
    )
    print_files(additions)
    for name in published.deleted:
        print(f"deleted there: {name}, of an earlier model")
    seen = "everybody" if options.public else "you and those you let"
    print(f"published  {published.num_files} files, {published.num_bytes / 1e6:,.1f} MB: sizes and")
    print(f"           hashes there are those here; {seen} may see it")
    print(f"commit     {published.commit}")
    print(f"url        {published.url}")
