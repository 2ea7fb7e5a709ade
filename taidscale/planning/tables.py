"""A plan as people read it."""

from collections.abc import Sequence

from taidscale.config.load import flat_settings
from taidscale.models.shape import ModelShape
from taidscale.planning.communication import traffic
from taidscale.planning.disk import Disk
from taidscale.planning.duration import PCIE, Duration, Efficiency
from taidscale.planning.gpus import GIB, Gpu
from taidscale.planning.memory import FIXED_MARGIN, FRAGMENTATION, PHASES, Memory
from taidscale.planning.scaling import Scaled
from taidscale.planning.suggestions import Suggestion
from taidscale.planning.workload import Workload


def overview(load: Workload, gpu: Gpu) -> list[str]:
    """The run in a few lines."""
    config = load.config
    lines = [
        f"{load.world_size:,} x {gpu.name}, {load.num_nodes:,} node{_s(load.num_nodes)}; ZeRO-"
        f"{config.zero.stage} over all ranks; {config.loss.objective}",
        f"student  {_parameters(load.student)}, {config.precision}",
    ]
    if load.teacher is not None and config.teacher is not None:
        copies = load.world_size // load.tp_size
        lines.append(
            f"teacher  {_parameters(load.teacher)}, {config.teacher.dtype}, over "
            f"T = {load.tp_size} ranks, {copies:,} cop{'ies' if copies > 1 else 'y'}"
        )
    return [
        *lines,
        f"a step   {load.step_tokens:>15,} tokens: {config.global_batch_size:,} sequences of "
        f"{config.seq_len:,}, {load.grad_accum_steps} x {config.micro_batch_size} a rank; "
        f"N = {load.group_tokens:,} in a tp_group, chunks of {load.chunk_tokens:,}",
        f"the run  {load.step_tokens * config.total_steps:>15,} tokens in "
        f"{config.total_steps:,} steps",
    ]


def _parameters(model: ModelShape) -> str:
    """How many, and how many of them a token meets."""
    active = f", {model.active_parameters:,} of them active" if model.is_sparse else ""
    return f"{model.num_parameters:>15,} parameters{active}"


def memory_table(found: Memory, gpu: Gpu) -> list[str]:
    """Parts by phase, in GiB."""
    moments = {phase: found.of_phase(phase) for phase in PHASES}
    names = list(dict.fromkeys(name for m in moments.values() for name in m.parts))
    rows = [["GiB on each rank, at most", *PHASES]]
    for name in names:
        cells = [moments[phase].parts.get(name) for phase in PHASES]
        rows.append([name, *("" if size is None else _gib(size) for size in cells)])
    rows.append(["together", *(_gib(moments[phase].total) for phase in PHASES)])
    peak = found.peak
    verdict = "fits" if found.needed <= gpu.memory else "does not fit"
    lines = [
        *_table(rows),
        f"peak in {peak.phase}: {_gib(peak.total)} GiB; with {FRAGMENTATION:.0%} of fragmentation "
        f"and {_gib(FIXED_MARGIN)} GiB for CUDA and NCCL {_gib(found.needed)} of "
        f"{_gib(gpu.memory)} GiB: {verdict}",
    ]
    if found.host:
        lines.append(f"in host memory, for each rank: {_gib(found.host)} GiB")
    return lines


def time_table(load: Workload, found: Duration, gpu: Gpu) -> list[str]:
    """Seconds of a step, and the whole run."""
    scaled = Scaled(load, found, changed=False)
    parts = {
        "teacher": found.teacher,
        "student, forward and backward": found.student,
        "heads and loss": found.head,
        "update": found.update,
        "communication that cannot hide": found.waiting,
    }
    rows = [["seconds of a step", "", ""]]
    for name, seconds in parts.items():
        share = seconds * found.factor / found.step_seconds
        rows.append([name, f"{seconds * found.factor:.3f}", f"{share:.0%}"])
    rows.append(["together", f"{found.step_seconds:.3f}", ""])
    return [
        *_table(rows),
        f"{scaled.tokens_per_second:,.0f} tokens/s, "
        f"{scaled.tokens_per_second / load.world_size:,.0f} a GPU; MFU {found.mfu:.1%}",
        f"{scaled.days:.2f} days, {scaled.gpu_hours:,.0f} GPU-hours, without evaluation and "
        "restarts",
        "",
        *traffic_table(load, found, gpu),
    ]


def traffic_table(load: Workload, found: Duration, gpu: Gpu) -> list[str]:
    """Bytes by purpose and link."""
    assumed = Efficiency()
    header = ["communication of a rank and step", "GB inside", "GB across", "seconds", "hides"]
    rows = [header]
    for one in traffic(load):
        seconds = one.seconds(gpu, assumed.links, assumed.hop_seconds)
        cells = [f"{one.inside / 1e9:.2f}", f"{one.across / 1e9:.3f}", f"{seconds:.3f}"]
        rows.append([one.purpose, *cells, "yes" if one.hides else "no"])
    if len(rows) == 1:
        return ["one rank talks to nobody"]
    could = found.student + 1e-12
    return [
        *_table(rows),
        f"{found.hidden:.3f} s of it hide behind the student's {found.student:.3f} s "
        f"({found.hidden / could:.0%} of them)",
    ]


def disk_table(load: Workload, found: Disk) -> list[str]:
    """Data, checkpoints, export."""
    copies = f"{found.num_checkpoints} x {_gb(found.checkpoint)} GB, one being written"
    rows = [
        ["disk", "GB", ""],
        ["samples, if none is read twice", _gb(found.data), ""],
        ["checkpoints", _gb(found.checkpoints), copies],
        ["exported student", _gb(found.export), load.config.precision],
    ]
    lines = _table(rows)
    if found.host_copy:
        lines.append(f"host memory of a node while one is written: {_gb(found.host_copy)} GB")
    return lines


def suggestion_table(load: Workload, found: Sequence[Suggestion]) -> list[str]:
    """Settings with their reasons, and what they are now."""
    now = flat_settings(load.config)
    rows = [["suggested for the shortest step", "now", ""]]
    for one in found:
        present = now.get(one.setting)
        text = str(present).lower() if isinstance(present, bool) else str(present)
        rows.append([f"{one.setting}={one.value}", text, one.why])
    return _table(rows, left=(0, 2))


def scaling_table(rows: Sequence[Scaled], gpu: Gpu) -> list[str]:
    """From few GPUs to many."""
    header = ["GPUs", "step s", "tokens/s", "days", "GPU-hours", "GiB a rank", "efficiency"]
    cells = [header]
    first = rows[0].tokens_per_second / rows[0].load.world_size if rows else 1.0
    for row in rows:
        per_gpu = row.tokens_per_second / row.load.world_size
        cells.append(
            [
                f"{row.load.world_size:,}{'*' if row.changed else ''}",
                f"{row.duration.step_seconds:.2f}",
                f"{row.tokens_per_second:,.0f}",
                f"{row.days:.2f}",
                f"{row.gpu_hours:,.0f}",
                f"{_gib(row.needed)}{'' if row.needed <= gpu.memory else ' too much'}",
                f"{per_gpu / first:.0%}",
            ]
        )
    lines = _table(cells)
    for row in rows:
        if row.changed:
            config = row.load.config
            lines.append(
                f"* {row.load.world_size:,}: micro_batch_size {config.micro_batch_size}, "
                f"global_batch_size {config.global_batch_size:,}, "
                f"total_steps {config.total_steps:,}"
            )
    return lines


def assumptions(load: Workload, gpu: Gpu, basis: str | None) -> list[str]:
    """What the figures rest on.

    Args:
        load: the run.
        gpu: on which it runs.
        basis: of the speed, where it was measured.
    """
    assumed = Efficiency()
    speed = basis or (
        f"{assumed.compute:.0%} of {gpu.flops / 1e12:,.0f} TFLOP/s while a GPU computes (Llama 3: "
        "MFU of 38 to 43 % on H100s, arXiv:2407.21783); override with --mfu or --measured"
    )
    sparse = load.teacher is not None and load.teacher.is_sparse
    experts = ["experts are taken to compute as fast as dense layers, whatever the router does"]
    return [
        f"speed: {speed}",
        *(experts if sparse else []),
        f"links: {assumed.links:.0%} of {gpu.nvlink / 1e9:,.0f} GB/s inside a node and "
        f"{gpu.network / 1e9:,.1f} GB/s a GPU across, {assumed.hop_seconds * 1e6:.0f} µs a hop; "
        f"memory: {assumed.memory:.0%} of {gpu.memory_bandwidth / 1e12:.2f} TB/s; "
        f"host: {PCIE / 1e9:.0f} GB/s",
        "memory was compared with real runs on CPU ranks, not yet on GPUs",
        "the vocabulary is taken to be the smaller head; the tokenizer may have fewer entries",
    ]


def _table(rows: Sequence[Sequence[str]], left: tuple[int, ...] = (0,)) -> list[str]:
    """The columns of `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f}"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
