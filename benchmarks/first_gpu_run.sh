#!/usr/bin/env bash
# The first run on a machine with one GPU, in at most 8 minutes: tests on the GPU, speed, a timeline, and training for
# what is left. A stage that fails or runs out of time says so in one line and does not stop the others.
#
#   benchmarks/first_gpu_run.sh [RESULTS [WHEELS]]
#
# RESULTS  folder for at most 8 files (default: $OUT, else $WORK/results)
# WHEELS   folder of wheels that are installed beside the interpreter's packages (default: $WHEELS, else none)
#
# Variables, with their defaults:
#   STAGES="tests eager float32 timeline compiled peers train", MINUTES=8 for all that are chosen
#   PRESET=gpu TASK=walker_walk PYTHON=python3 OMP_NUM_THREADS=4
#   R2DREAMER=""     a checkout of r2dreamer to take turns with; without it, peers is left out. PEER_PYTHON=$PYTHON is the
#                    interpreter with its packages, PEER_OPTIONS="" more options of benchmarks.speed.peers
#   RUN=""           run.tar of an earlier call, which is resumed, as is the run that such a call left in WORK
#   WORK=runs/first_gpu_run
#   KEEP_MB=15       run.tar has checkpoint and episodes where they weigh no more
# Without a GPU, small: DEVICE=cpu PRESET=debug TASK=counting OMP_NUM_THREADS=1 PEER_OPTIONS="--batch 2 --length 4"
#
# Exit status: 0; 1 if a stage failed or ran out of time; 2 for bad input or no GPU.
set -u
cd "$(dirname "$0")/.." || exit 2
declare -A SHARES=([wheels]=30 [tests]=75 [eager]=45 [float32]=45 [timeline]=50 [compiled]=100 [peers]=100 [train]=65)
ALL="tests eager float32 timeline compiled peers train"
STAGES=${STAGES:-$ALL} MINUTES=${MINUTES:-8} PRESET=${PRESET:-gpu} TASK=${TASK:-walker_walk} PYTHON=${PYTHON:-python3}
KEEP_MB=${KEEP_MB:-15} RUN=${RUN:-} R2DREAMER=${R2DREAMER:-} PEER_OPTIONS=${PEER_OPTIONS:-}
export DEVICE=${DEVICE:-cuda} OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
work=${WORK:-runs/first_gpu_run}
run=$work/$TASK-$PRESET
results=${1:-${OUT:-$work/results}}
wheels=${2:-${WHEELS:-}}
log=$results/log.txt
status=0

refuse() { echo "first_gpu_run.sh: error: $*" >&2; exit 2; }
say() { echo "$*" | tee -a "$log"; }
fail() { say "$*"; status=1; }
left() { echo $((60 * MINUTES - 10 - SECONDS)); }

# stage NAME COMMAND ...: at most its share of the minutes, training what is left
stage() {
    local name=$1 limit=$((60 * MINUTES * ${SHARES[$1]} / shares)) begun=$SECONDS code
    shift
    [[ " $STAGES " == *" $name "* ]] || return 0
    [[ $name != train ]] && ((limit <= $(left))) || limit=$(left)
    ((limit > 0)) || { fail "$name: no time left"; return 0; }
    echo "---- $name: $*" >>"$log"
    { timeout --kill-after=10 "$limit" "$@"; } >>"$log" 2>&1
    code=$?
    case $code in
        0) say "$name: done in $((SECONDS - begun)) s" ;;
        124 | 137) fail "$name: stopped at its limit of $limit s" ;;
        *) fail "$name: failed with exit status $code: $(grep -v '^ *$' "$log" | tail -n 1)" ;;
    esac
}

# measure STAGE MODULE OPTION ...
measure() {
    local name=$1 module=$2
    shift 2
    stage "$name" "$PYTHON" -m "benchmarks.speed.$module" --preset "$PRESET" --device "$DEVICE" \
        --threads "$OMP_NUM_THREADS" --json "$results/gpu_$name.json" "$@"
}

for name in $STAGES; do
    [[ " $ALL " == *" $name "* ]] || refuse "STAGES: got '$name', expected some of: $ALL"
done
[[ $MINUTES =~ ^[1-9][0-9]*$ ]] || refuse "MINUTES: got '$MINUTES', expected a whole number from 1"
[[ -z $wheels || -d $wheels ]] || refuse "WHEELS: got '$wheels', expected a folder"
[[ -z $RUN || -f $RUN ]] || refuse "RUN: got '$RUN', expected the run.tar of an earlier call"
command -v "$PYTHON" >/dev/null || refuse "PYTHON: got '$PYTHON', expected an interpreter"
[[ $DEVICE == cpu ]] || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null ||
    refuse "DEVICE: got '$DEVICE', but the torch of $PYTHON finds no GPU; DEVICE=cpu tries the script without one"
mkdir -p "$results" "$work" && : >"$log" || refuse "RESULTS: got '$results', expected a folder that can be written"

[[ -z $wheels ]] || STAGES="wheels $STAGES"
if [[ -z $R2DREAMER && " $STAGES " == *" peers "* ]]; then
    say "peers: left out, since no R2DREAMER is given"
    STAGES=${STAGES/peers/}
fi
shares=0
for name in $STAGES; do shares=$((shares + SHARES[$name])); done
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
stage wheels "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
    "$wheels"/*.whl
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}

workers=$(nproc) chosen=(-m "" --timeout 60)
((workers <= 4)) || workers=4
[[ $DEVICE != cpu ]] || chosen=(-m "not slow")
stage tests env OMP_NUM_THREADS=1 "$PYTHON" -m pytest -vv -n "$workers" --dist load "${chosen[@]}" \
    tests/test_gpu.py tests/replay/test_buffer.py::test_pinned_chunks_reach_the_gpu_unchanged

measure eager throughput --task "$TASK" --seconds 3
measure float32 throughput --task "$TASK" --seconds 3 --precision float32
measure timeline timeline --task "$TASK" --updates 1 --trace "$results/gpu_trace.json.gz"
find "$results" -name gpu_trace.json.gz -size +4M -delete
measure compiled throughput --task "$TASK" --seconds 3 --compile
# shellcheck disable=SC2086
measure peers peers --peer r2dreamer --checkout "$R2DREAMER" --python "${PEER_PYTHON:-$PYTHON}" --work "same work" \
    --repeats 3 $PEER_OPTIONS # compiled, on a GPU
! grep -q "runs eagerly: " "$log" || fail "compiled: $(grep -m 1 "runs eagerly: " "$log")"

[[ -z $RUN || -d $run ]] || tar -xf "$RUN" -C "$work" || fail "RUN: '$RUN' cannot be unpacked"
seconds=$(($(left) - 30)) # the rest is for its start and its last checkpoint
((seconds >= 6)) || seconds=6
stage train "$PYTHON" run_agent.py train --task "$TASK" --preset "$PRESET" --device "$DEVICE" --logdir "$run" \
    --train.keep_checkpoints 1 --train.video_frames 0 \
    --max_minutes "$(printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60)))"
if [[ " $STAGES " == *" train "* && -d $run ]]; then
    megabytes=$(du -sm "$run" | cut -f1) leave=()
    say "run: $megabytes MB in $run, of them $(du -sm "$run/checkpoints" 2>/dev/null | cut -f1) for the checkpoint"
    if ((megabytes > KEEP_MB)); then
        leave=(--exclude=checkpoints --exclude=episodes)
        say "run.tar: without checkpoint and episodes, which weigh more than KEEP_MB=$KEEP_MB"
    fi
    tar -cf "$results/run.tar" "${leave[@]}" -C "$work" "$TASK-$PRESET" || fail "run.tar: cannot be written"
fi
say "results: $results, after $SECONDS s"
exit $status
