# A node's software for a run on NVIDIA GPUs. CUDA and NCCL come with torch's wheel, the driver from
# the host; every version is that of constraints.txt.
#
#   docker build -t taidscale .
#   docker run --rm --gpus all --ipc=host --network=host -v /shared:/shared -w /shared \
#       taidscale /opt/taidscale/launchers/torchrun.sh CONFIG
#
# For Slurm: `apptainer build taidscale.sif docker-daemon://taidscale:latest` on a machine with Docker,
# then `PYTHON="apptainer exec --nv taidscale.sif python" sbatch launchers/slurm.sbatch CONFIG`.
FROM python:3.11-slim-bookworm

# gcc: Triton compiles a launcher for each kernel. ibverbs: NCCL's way to InfiniBand. ssh, pdsh: the
# deepspeed launcher. procps: pkill, with which that launcher ends what it started on other nodes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes \
        gcc libc6-dev ibverbs-providers openssh-client pdsh procps \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/taidscale

# First what the project depends on: its own changes do not install 7 GB again.
COPY constraints.txt pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && python -m pip install --no-cache-dir --constraint constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

COPY . .
RUN python -m pip install --no-cache-dir --no-deps --editable .

ENV PDSH_RCMD_TYPE=ssh
CMD ["bash"]
