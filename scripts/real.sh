# Shared by the scripts of scripts/small on real data: sourced with the repository as the current folder. DATA is the
# folder of real data, OUTPUT (output/real15) holds or gets runs/<strategy>-<seed>/encoder.
if [ ! -d "${DATA:-}" ]; then
    echo "error: DATA=${DATA:-} is no folder; let it name that of the real data" >&2
    exit 2
fi
sh scripts/setup.sh
. scripts/launch.sh
output=${OUTPUT:-output/real15}

# compare MODULE NAME ARGUMENTS...: the runs go to OUTPUT/NAME-runs, with results.md and results.json.
compare() {
    module=$1
    name=$2
    shift 2
    exec "$python" -m "experiments.$module" --runs "$output/runs" --data "$DATA" --output "$output/$name-runs" "$@"
}
