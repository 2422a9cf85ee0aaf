# Environment variables that must be set before Python starts. The scripts that run the model source this. POSIX sh.
# The rest, which Python can set itself, is in ernie_m/utils/paddle_settings.py; docs/hardware.md explains why.

case ${NPROC:-1} in
    0* | *[!0-9]*)
        echo "error: NPROC=$NPROC: expected a number of processes, 1 or more" >&2
        exit 2
        ;;
esac

# Make glibc's malloc keep freed memory for the next step, because the kernel would zero each returned page. This is
# skipped if you have set GLIBC_TUNABLES, with another libc, and if a process may use less than 6 GiB. ernie_m/utils/paddle_settings.py
# sets the same from inside Python; this covers processes that run before or without it.
if [ -z "${GLIBC_TUNABLES-}" ] && [ "$(uname -s)" = Linux ] && getconf GNU_LIBC_VERSION >/dev/null 2>&1; then
    env_memory=0 # KiB
    while read -r env_key env_value env_unit; do
        if [ "$env_key" = MemTotal: ]; then env_memory=$env_value; fi
    done </proc/meminfo
    env_limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || :) # bytes, or "max"
    case $env_limit in
        "" | *[!0-9]*) ;;
        *) if [ $((env_limit / 1024)) -lt "$env_memory" ]; then env_memory=$((env_limit / 1024)); fi ;;
    esac
    env_memory=$((env_memory / ${NPROC:-1}))
    if [ "$env_memory" -ge 6291456 ]; then
        # Blocks of up to half of the memory come from the heap, and up to half of it is kept when freed.
        env_half=$((env_memory / 2 * 1024))
        GLIBC_TUNABLES=glibc.malloc.mmap_threshold=$env_half:glibc.malloc.trim_threshold=$env_half
        GLIBC_TUNABLES=$GLIBC_TUNABLES:glibc.malloc.top_pad=67108864
        export GLIBC_TUNABLES
    fi
    unset env_memory env_key env_value env_unit env_limit env_half
fi
