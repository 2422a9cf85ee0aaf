#!/bin/sh
# Fetch the public data of the fine-tuning recipes, and prepare it in ./data/xnli and its like, where they look for it.
#
#   sh scripts/data/get_data.sh                    all of it
#   sh scripts/data/get_data.sh xnli mlqa squad    what scripts/*/xnli_* and mlqa_* need
#
# Run it again to resume. Ends with 2, and says what to do by hand, where something cannot be fetched.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
sh "$root/scripts/setup.sh"
exec "$root/.venv/bin/ernie-m" download data --data "$root/data" "$@"
