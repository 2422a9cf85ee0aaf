#!/bin/sh
# Create or update the environment of the other scripts. Silent if it is up to date.
#
#   sh scripts/setup.sh           .venv, for the CPU: demo, training and prediction
#   sh scripts/setup.sh gpu       .venv, with paddlepaddle-gpu
#   sh scripts/setup.sh export    adds ONNX export to .venv; openvino: prediction on a CPU, which the CPU
#                                 environment has on x86-64; serve: the demo UI; excel: .xlsx; tensorboard: curves;
#                                 ray: a cluster; plot: the curves of scripts/ablation.sh
#   sh scripts/setup.sh test      adds all of these, and tools for checks and tests
#   sh scripts/setup.sh parity    .venv-parity: torch, transformers and paddlenlp, for parity tests
#   sh scripts/setup.sh latest    .venv-latest: the newest torch and transformers, for scripts/benchmarks/ and tests/latest
#   sh scripts/setup.sh optimum   .venv-optimum: sentence-transformers with OpenVINO, for scripts/benchmarks/
#   sh scripts/setup.sh clients   .venv-clients: client libraries of `ernie-m serve`, for tests/clients
#   sh scripts/setup.sh docs      .venv-docs: the builder of the website, without Paddle, for scripts/site.sh
#
# Earlier additions are kept. PYTHON selects the Python: 3.11, 3.12 or 3.13 (parity: 3.11 or 3.12, as its old
# packages have no later ones). Without PYTHON: python3, or the newest of these that is installed. Paddle has no packages for
# 3.14 yet.
set -eu
cd "$(dirname "$0")/.."

case "${1-}" in parity) pythons="3.12 3.11" known="3.11 or 3.12" ;; *) pythons="3.13 3.12 3.11" known="3.11, 3.12 or 3.13" ;; esac

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# "3.11" of a Python that runs, else nothing
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || :; }
supported() { case " $pythons " in *" $(version_of "$1") "*) ;; *) return 1 ;; esac; }

find_python() {
    if [ -n "${PYTHON-}" ]; then
        version=$(version_of "$PYTHON")
        [ -n "$version" ] || fail "PYTHON=$PYTHON: it is not there, or does not run; name a Python $known"
        supported "$PYTHON" || fail "PYTHON=$PYTHON is Python $version; name a Python $known"
        echo "$PYTHON"
        return
    fi
    for version in 3 $pythons; do
        if supported "python$version"; then echo "python$version"; return; fi
    done
    fail "no Python $known is on the PATH; install one, or name it: PYTHON=/path/to/python3.12 sh scripts/setup.sh"
}

all_extras="openvino export serve excel tensorboard ray plot test"
venv=.venv
case "${1-}" in parity | latest | optimum | clients | docs) venv=.venv-$1 ;; esac
# "<kind> <checksum of the requirements> <what was added>", as in "cpu 8021-530 serve", or "<kind> unfinished <...>"
state=$venv/setup-state
log=$venv/setup.log
asked= # what is to be added
case "${1-}" in
    gpu | parity | latest | optimum | clients | docs) kind=$1 ;;
    "" | openvino | export | serve | excel | tensorboard | ray | plot | test)
        case "$(cat "$state" 2>/dev/null)" in gpu*) kind=gpu ;; *) kind=cpu ;; esac
        asked=${1-}
        ;;
    *) fail "unknown argument '$1'; it is one of: gpu, openvino, export, serve, excel, tensorboard, ray, plot, test, parity, latest, optimum, clients, docs, or none" ;;
esac
[ "$asked" != test ] || asked=$all_extras
case $kind in
    cpu) base=requirements.txt ;;
    gpu) base=requirements-gpu.txt ;;
    parity | latest | optimum | clients | docs) base=scripts/pins/$kind.txt ;;
esac
case $kind in latest | optimum) needed=torch ;; clients) needed=openai ;; docs) needed=zensical ;; *) needed=paddle ;; esac
sum=$(cat requirements*.txt scripts/pins/*.txt pyproject.toml | cksum | tr ' ' -)

# Compare what the environment has with what it is to have, in the form of its state.
look() {
    there=$(cat "$state" 2>/dev/null || :)
    extras=
    for extra in $all_extras; do
        case " $there $asked " in *" $extra "*) extras="$extras $extra" ;; esac
    done
    wanted="$kind $sum$extras"
}
other_python_asked() { [ -n "${PYTHON-}" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$venv/bin/python")" ]; }
# Whether the packages and commands of the environment are those of this folder: a checkout may have been moved.
is_here() { grep -qsxF "$PWD" "$venv"/lib/python3*/site-packages/_ernie_m.pth; }
ready() { look; [ "$there" = "$wanted" ] && [ -x "$venv/bin/python" ] && is_here && ! other_python_asked; }

if ready; then exit 0; fi

[ -w . ] || fail "$PWD: you may not write there; make a clone of your own"

# Two first commands at once must not build the same folder.
lock=$venv.lock
waiting=
until mkdir "$lock" 2>/dev/null; do
    holder=$(cat "$lock/pid" 2>/dev/null || :)
    if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then rm -rf "$lock"; continue; fi
    [ -n "$waiting" ] || say "another setup is at work on $venv, waiting for it (if there is none, remove $lock)"
    waiting=yes
    sleep 2
done
trap 'rm -rf "$lock"' EXIT
trap 'exit 130' INT TERM HUP
echo $$ >"$lock/pid"
if ready; then exit 0; fi

python=$(find_python)
if [ -e "$venv" ]; then
    why=
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then why="its Python or its pip does not run"
    elif ! supported "$venv/bin/python"; then why="it has Python $(version_of "$venv/bin/python")"
    elif other_python_asked; then why="it has Python $(version_of "$venv/bin/python"), and PYTHON is $(version_of "$PYTHON")"
    else
        case $there in
            "$kind unfinished"*) why="its installation was not finished" ;;
            "" | "$kind "*) ;;
            *) why="it is the ${there%% *} environment" ;;
        esac
    fi
    if [ -n "$why" ]; then
        say "removing $venv: $why"
        rm -rf "$venv"
    fi
fi
if [ ! -e "$venv" ]; then
    say "making $venv with Python $(version_of "$python")"
    mkdir "$venv"
    echo "$kind unfinished$extras" >"$state"
    "$python" -m venv "$venv" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv); then run the same command again"
    }
fi
# An environment that someone made by hand has no state yet: it gets one when all is well, and is never removed half-way.
# Nor is one that is whole and is added to.
case $there in
    "" | "$kind $sum"*) ;;
    *) echo "$kind unfinished$extras" >"$state" ;;
esac

# The package itself is installed as a link to this folder (pip install -e). Paddle comes from requirements*.txt.
case $kind in
    parity | latest | optimum | clients | docs) set -- ;; # its own requirements, which are not the package's
    cpu) set -- -c scripts/pins/extras.txt -e ".[$(echo cpu search fit $extras | tr ' ' ,)]" ;;
    gpu) set -- -c scripts/pins/extras.txt -e ".[$(echo search fit $extras | tr ' ' ,)]" ;;
esac
say "installing $base${extras:+ with$extras} (once, some minutes; log in $log)"
install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --use-pep517 "$@" 2>&1
}
{ { install -r "$base" "$@" && { [ $# -gt 0 ] || install --no-deps -e .; }; } || echo "setup: pip failed"; } |
    tee "$log" |
    sed -n -e 's/^ *Downloading \([^ ]*\) (\([0-9][0-9][0-9.]* MB\)).*/setup:   \1, \2/p' \
        -e 's/^ *Downloading \([^ ]*\) (\([0-9.]* GB\)).*/setup:   \1, \2/p'
if grep -q '^setup: pip failed' "$log"; then
    grep -i '^ *error' "$log" | head -n 5 >&2 || :
    grep -qiE 'NewConnectionError|ConnectTimeout|ProxyError|timed out|SSLError' "$log" &&
        fail "pip could not reach the package index; check the network or the proxy and run the same command again (log: $log)"
    fail "pip could not install $base${extras:+ with$extras}; the lines above and $log say why. Put it right and run the same command again"
fi
"$venv/bin/python" -c "import $needed" >>"$log" 2>&1 || {
    tail -n 3 "$log" >&2
    fail "$needed is installed but does not import here; $log says why"
}
echo "$wanted" >"$state"
say "$venv is ready"
if [ "$kind" = cpu ] && command -v nvidia-smi >/dev/null 2>&1; then
    say "this machine has an NVIDIA GPU: sh scripts/setup.sh gpu installs the Paddle that uses it"
fi
