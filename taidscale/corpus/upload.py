"""How do files get into a bucket?"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from textwrap import shorten
from typing import Any

from botocore.exceptions import ClientError
from streaming.base.storage import CloudDownloader, CloudUploader
from streaming.base.storage.upload import S3Uploader

from taidscale.data.manifest import MANIFEST_NAME

TRIES = 3


def check_bucket(remote: str, probe: Path) -> None:
    """Make sure that a place in a bucket is free, and can be written and read.

    Args:
        remote: In any form that streaming knows, such as `s3://bucket/folder`.
        probe: A file to write there, which stays.

    Raises:
        ValueError: It is out of reach, or holds finished data.
    """
    with TemporaryDirectory() as folder:
        if _holds_data(remote, f"{folder}/manifest"):
            raise ValueError(f"{remote} holds data already; remove them or choose another place")
        upload(remote, probe.parent, probe.name)
        try:
            CloudDownloader.direct_download(f"{remote}/{probe.name}", f"{folder}/probe")
        except Exception as error:  # each cloud's client raises its own types
            raise ValueError(f"cannot read {remote}/{probe.name}: {_reason(error)}") from error
        if (Path(folder) / "probe").read_bytes() != probe.read_bytes():
            raise ValueError(f"{remote}/{probe.name} is not what was written there just now")


def upload(remote: str, folder: Path, name: str) -> None:
    """Copy `folder/name` to `remote/name`.

    Raises:
        ValueError: It cannot be written, or has another size there.
    """
    uploader = _uploader(remote)
    uploader.local = str(folder)
    try:
        uploader.upload_file(name)
        if isinstance(uploader, S3Uploader):  # others cannot be asked through streaming
            bucket, key = _place(remote, name)
            size = uploader.s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
            if size != (folder / name).stat().st_size:
                raise OSError(f"it has {size} bytes there")
    except Exception as error:  # each cloud's client raises its own types
        raise ValueError(f"cannot write {remote}/{name}: {_reason(error)}") from error


def _holds_data(remote: str, scratch: str) -> bool:
    uploader = _uploader(remote)
    try:
        if isinstance(uploader, S3Uploader):
            bucket, key = _place(remote, MANIFEST_NAME)
            uploader.s3.head_object(Bucket=bucket, Key=key)
        else:
            CloudDownloader.direct_download(f"{remote}/{MANIFEST_NAME}", scratch)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":  # throttled, say: who knows what is there
            raise ValueError(f"cannot look into {remote}: {_reason(error)}") from error
        return False
    except Exception as error:  # each cloud's client raises its own types
        if isinstance(uploader, S3Uploader):
            raise ValueError(f"cannot look into {remote}: {_reason(error)}") from error
        return False  # others do not say alike that a file is absent
    return True


def _place(remote: str, name: str) -> tuple[str, str]:
    """Bucket and key of a file on S3."""
    bucket, _, prefix = remote.removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/{name}".lstrip("/")


@cache
def _uploader(remote: str) -> Any:
    empty = mkdtemp()
    try:
        return CloudUploader.get((empty, remote), keep_local=True, retry=TRIES)
    except Exception as error:  # each cloud's client raises its own types
        raise ValueError(f"cannot write to {remote}: {_reason(error)}") from error
    finally:
        Path(empty).rmdir()


def _reason(error: Exception) -> str:
    return shorten(str(error) or repr(error), width=300, placeholder=" ...")
