"""Which shards a run reads, and how they get here."""

from streaming.base.world import World

from taidscale.config.data import DataConfig, StreamConfig
from taidscale.data.dataset import SampleDataset
from taidscale.data.manifest import fetch_manifest
from taidscale.data.remote import CheckedStream


def open_streams(data: DataConfig) -> SampleDataset:
    """The shards of all streams, in the order of the configuration.

    Raises:
        ValueError: A stream has no shards here, or they cannot be fetched.
    """
    limit = data.cache_limit.lower() if data.cache_limit else None
    return SampleDataset([_stream(stream, data) for stream in data.streams], limit)


def _stream(stream: StreamConfig, data: DataConfig) -> CheckedStream:
    index_hash = None
    if stream.remote and World.detect().is_local_leader:  # the others use the same index
        index_hash = fetch_manifest(stream.remote).index_hash
    return CheckedStream(
        stream.local,
        stream.remote,
        index_hash=index_hash,
        download_retry=data.download_retry,
        download_timeout=data.download_timeout,
        verify=data.verify,
    )
