#!/bin/sh
# Installs Debian's Chromium where none is there and we may; the browser tests are skipped where there is none.
set -eu
if command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "no Chromium here, and only root of a Debian machine can install it: the browser tests will be skipped" >&2
    exit 0
fi
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends chromium fonts-dejavu-core
