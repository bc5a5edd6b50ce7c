#!/usr/bin/env bash
# Debian's Slurm for tests/slurm, when run as root where apt is; otherwise those tests skip and say why.
set -euo pipefail
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge
          slurmdbd slurm-wlm-mysql-plugin mariadb-server)

if dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/slurm: Slurm is not installed, and only root can install it with apt-get" >&2
    exit 0
fi
# The packages start daemons where systemd runs; the tests start their own.
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
       apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; }; then
    echo "tests/slurm: apt-get could not install Slurm; its tests will be skipped" >&2
fi
