# shellcheck shell=bash
# Sourced by scripts/launch_*: the Python to run, the number of processes, and torchrun.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

# An environment as scripts/quickstart makes it, or else the Python that is active.
python=$venv/bin/python
[ -x "$python" ] || python=$(command -v python3) || unusable 'No python3 was found.'
"$python" -c 'import dglrec' 2>/dev/null ||
    unusable "$python cannot import dglrec; scripts/quickstart makes an environment that can."

usage() {
    say "usage: $1" "${@:2}"
    exit 2
}

choose_processes() {
    if [ -z "${PROCESSES:-}" ]; then
        PROCESSES=$("$python" -c 'import torch; print(torch.cuda.device_count())')
        [ "$PROCESSES" -gt 0 ] || {
            say 'No GPU was found here; PROCESSES=2, say, trains on the CPU in two processes.'
            exit 2
        }
    fi
    case $PROCESSES in *[!0-9]* | 0) usage 'PROCESSES=N, one or more' ;; esac
    # Left alone, torchrun gives each process one thread.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$("$python" -c '
import sys
from dglrec.machine import usable_cores
print(max(1, usable_cores() // int(sys.argv[1])))' "$PROCESSES")}
    export OMP_NUM_THREADS
}

# launch OPTIONS OF TORCHRUN -- ARGUMENTS OF TRAIN
launch() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    exec "$python" -m torch.distributed.run "${options[@]}" --nproc-per-node "$PROCESSES" \
        --max-restarts "${MAX_RESTARTS:-3}" -m dglrec train "$@"
}
