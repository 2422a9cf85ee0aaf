#!/bin/sh
# Train a sentencepiece model on text of many languages; writes piece.model and vocab.txt. Paths are seen from where you
# are.
#
#   sh scripts/data/train_vocab.sh --output data/vocab --vocab_size 32000 --mono "en<=en.txt.gz" --mono "de<=de.txt.gz"
#   sh scripts/data/train_vocab.sh --help
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
sh "$root/scripts/setup.sh"
exec "$root/.venv/bin/ernie-m" train_vocab "$@"
