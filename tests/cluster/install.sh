#!/usr/bin/env bash
# What the tests in this folder need, from Debian: Slurm, munge, ssh, pdsh, iproute2.
# Nothing of it is started: the tests start daemons of their own, in network namespaces.
set -euo pipefail

packages=()
for pair in slurmctld:slurm-wlm munged:munge sshd:openssh-server pdsh:pdsh ip:iproute2; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
[[ ${#packages[@]} -eq 0 ]] && exit
[[ $EUID -eq 0 ]] || { echo "missing, and only root can install: ${packages[*]}" >&2; exit 1; }
echo "installing ${packages[*]}"
# The packages' own daemons stay off.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends --yes "${packages[@]}"
