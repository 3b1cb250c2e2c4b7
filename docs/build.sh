#!/usr/bin/env bash
# Build the site into docs/_build/html, warnings as errors, without a network, and check it.
#
#     docs/build.sh                   in a fresh environment, .venv-docs
#     docs/build.sh .venv/bin/python  in an environment that has tests/requirements.txt already
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 MPLBACKEND=Agg

if [ $# -gt 0 ]; then
    python=$1
else
    rm -rf .venv-docs
    python3 -m venv .venv-docs
    python=.venv-docs/bin/python
    "$python" -m pip install -q -r tests/requirements.txt -e .
fi
"$python" -m pip install -q -r docs/requirements.txt

rm -rf docs/_build docs/generated docs/gallery
"$python" -m sphinx -q -W --keep-going -b html docs docs/_build/html
"$python" docs/check_site.py docs/_build/html --screenshots docs/_build/screenshots
