#!/usr/bin/env bash
# Renews the locked requirements from pyproject.toml, hashes included: requirements.lock (everything), one file per stage,
# detectron2's own and the tests'. Versions that are locked stay; `bash lock.sh --upgrade` takes the newest of all, and
# `bash lock.sh --upgrade-package NAME` of one. Needs uv, which finds the packages where its own settings say.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case "${1:-}" in -h|--help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
command -v uv > /dev/null || { echo "error: lock.sh needs uv, which is not on the PATH. Install it (pip install uv) and run lock.sh again." >&2; exit 1; }
export UV_CUSTOM_COMPILE_COMMAND="bash lock.sh"
lock() { uv pip compile --quiet --no-emit-index-url --no-emit-find-links --generate-hashes --python-version 3.11 "$@"; }
lock pyproject.toml --extra detect --extra match --extra quantize --group dev --output-file requirements.lock "$@"
# What follows takes its versions from requirements.lock, so that a stage runs with what the whole project is tested with.
lock pyproject.toml --extra detect --constraint requirements.lock --output-file bbox_sub/requirements.txt
lock pyproject.toml --extra match --constraint requirements.lock --output-file metric_sub/requirements.txt
lock pyproject.toml --extra detect --extra detectron2 --constraint requirements.lock --output-file bbox_sub/requirements-detectron2.txt
lock --group test --constraint requirements.lock --output-file tests/requirements.txt
