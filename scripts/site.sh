#!/bin/sh
# Build the website in build/site; a link to a page or heading that does not exist is an error. Needs no Paddle.
set -eu
cd "$(dirname "$0")/.."
sh scripts/setup.sh docs
PATH="$PWD/.venv-docs/bin:$PATH" # ruff, which formats signatures
python scripts/site/make_pages.py build/pages
zensical build --config-file mkdocs.yml --strict --clean
