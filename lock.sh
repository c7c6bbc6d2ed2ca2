#!/usr/bin/env bash
# Renews the locked requirements from pyproject.toml: requirements.lock (everything) and one file per stage, hashes included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export UV_CUSTOM_COMPILE_COMMAND="bash lock.sh"
lock() { uv pip compile pyproject.toml --quiet --no-emit-index-url --no-emit-find-links --generate-hashes --python-version 3.11 "$@"; }
lock --all-extras --output-file requirements.lock
lock --extra detect --constraint requirements.lock --output-file bbox_sub/requirements.txt
lock --extra match --constraint requirements.lock --output-file metric_sub/requirements.txt
