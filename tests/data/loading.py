"""Small loaders, and what they hand out."""

from itertools import chain

from taidscale.config.data import DataConfig
from taidscale.data.loader import TrainingLoader

SEQ_LEN = 6


def training_loader(
    folder, *, micro_batch_size=2, grad_accum_steps=2, seed=1, vocab_size=1 << 20, **data
):
    streams = data.pop("streams", [{"local": str(folder)}])
    config = {"streams": streams, "num_canonical_nodes": 4, "num_workers": 0} | data
    return TrainingLoader(
        DataConfig.model_validate(config),
        seq_len=SEQ_LEN,
        micro_batch_size=micro_batch_size,
        grad_accum_steps=grad_accum_steps,
        seed=seed,
        vocab_size=vocab_size,
    )


def samples(step):
    return [int(row[0]) for batch in step for row in batch.input_ids]


def take(loader, num_steps):
    return [samples(loader.next_step()) for _ in range(num_steps)]


def flat(steps):
    return list(chain.from_iterable(steps))


def three_streams(numbered_shards, **weights):
    sizes = {"ja": (40, 0), "en": (12, 1000), "math": (8, 2000)}
    return [
        {"local": str(numbered_shards(n, SEQ_LEN, first=k, name=name)), "name": name}
        | weights.get(name, {})
        for name, (n, k) in sizes.items()
    ]
