#!/usr/bin/env bash
# The MPI program: three ranks calibrate what one process does, and a job that fails or is killed can go on.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_mpi.sh
#
# Skipped where mpirun or build/ousac-mpi is missing. Works in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
MPI=$BUILD/ousac-mpi
if ! command -v mpirun >/dev/null || [ ! -x "$MPI" ]; then
    echo "mpirun or build/ousac-mpi is missing: sh install-deps.sh mpi && make mpi"
    exit 77
fi
# Open MPI itself is not free of leaks; its temporary files belong into ours.
export OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 TMPDIR=$WORK
ranks=(timeout 60 mpirun --allow-run-as-root --oversubscribe -n 3)

# denied NAME TEXT COMMAND...: fails, and says so among what mpirun says
denied() {
    local name=$1 text=$2
    shift 2
    if ! "$@" >out 2>err && grep -qF -- "$text" err; then pass "$name"; else fail "$name: expected '$text'"; fi
}
# interrupted NAME OUTPUT SIGNAL PROCESS COMMAND...: sends the signal to a rank ("rank") or to mpirun ("mpirun") once
# every rank has a state in OUTPUT; the command must fail.
interrupted() {
    if "$PYTHON" - "$@" >out 2>err <<'PYTHON'; then pass "$1"; else fail "$1: succeeded all the same"; fi
import glob, os, signal, subprocess, sys, time

name, output, number, whom = sys.argv[1], sys.argv[2], getattr(signal, sys.argv[3]), sys.argv[4]
before = time.time_ns()
job = subprocess.Popen(sys.argv[5:], start_new_session=True)
end = time.monotonic() + 30

def saved():
    return sum(os.stat(path).st_mtime_ns > before for path in glob.glob(output + ".*-of-3.part"))

while saved() < 3 and job.poll() is None and time.monotonic() < end:
    time.sleep(0.005)

def children(pid):
    for task in os.listdir("/proc/%d/task" % pid):
        for child in open("/proc/%d/task/%s/children" % (pid, task)).read().split():
            yield int(child)
            yield from children(int(child))

below = [pid for pid in [job.pid, *children(job.pid)]]
comm = lambda pid: open("/proc/%d/comm" % pid).read().strip()
target = [pid for pid in below if comm(pid) == ("ousac-mpi" if whom == "rank" else "mpirun")][-1]
os.kill(target, number)
sys.exit(0 if job.wait(60) != 0 else 1)
PYTHON
    cp err message
}
parts() { find . -path "./$1*" -name '*.part' | wc -l; }

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
"$OUSAC" schedule --steps 12 --scale 3 --cfg 0:12:3 --period 3 -o s.json -q || exit 1
common=(-q -m dit/model.safetensors -s s.json --micro-batch 2 --threads 1)
calibrate=(calibrate "${common[@]}" --validation 4 --test 6 --budget-step 0.5)

# --- the same result ---
exits "one process" 0 "$OUSAC" "${calibrate[@]}" --samples 30 --json -o one
cp out one.json
exits "three ranks" 0 "${ranks[@]}" "$MPI" "${calibrate[@]}" --samples 30 --json -o three
cp out three.json
check "the same step weights, to the bit" "$OUSAC" diff --tolerance 0 one/weights.oca three/weights.oca
check "the same profile" "$OUSAC" diff --tolerance 1e-10 one/profile.oca three/profile.oca
check "the same evaluations, plan and errors" "$PYTHON" - one.json three.json <<'PYTHON'
import json, math, sys
a, b = (json.load(open(path)) for path in sys.argv[1:])
assert a["profiling"]["forwards"] == b["profiling"]["forwards"]
assert a["allocation"]["method"] == b["allocation"]["method"] and a["allocation"]["sites"] == b["allocation"]["sites"]
for name, run in a["evaluation"]["runs"].items():
    assert run["macs"] == b["evaluation"]["runs"][name]["macs"] and \
        run["evaluations"] == b["evaluation"]["runs"][name]["evaluations"], name
for x, y in zip(a["evaluation"]["errors"], b["evaluation"]["errors"]):
    p, q = x["relative_error"]["mean"], y["relative_error"]["mean"]
    assert math.isclose(p, q, rel_tol=1e-4), (x, y)
PYTHON
check "three ranks verify" "$OUSAC" verify three/bundle.oca three/profile.oca
check "no state stays behind" test "$(parts three)" = 0
check "published factors" "${ranks[@]}" "$MPI" "${calibrate[@]}" --samples 8 --factors cd-svd --forecast off -o svd3
check "published factors, one process" "$OUSAC" "${calibrate[@]}" --samples 8 --factors cd-svd --forecast off -o svd1
check "the same bundle" "$OUSAC" diff --tolerance 1e-5 svd1/profile.oca svd3/profile.oca
check "fewer samples than ranks" "${ranks[@]}" "$MPI" profile "${common[@]}" --samples 0:2 -o small.oca
check "fewer samples, one process" "$OUSAC" profile "${common[@]}" --samples 0:2 -o small1.oca
check "the same" "$OUSAC" diff --tolerance 1e-10 small.oca small1.oca
check "a shard of one process adds to a sum of ranks" \
    "$OUSAC" profile "${common[@]}" --samples 30:36 --weights three/weights.oca -o more.oca
check "a shard of one process adds to a sum of ranks" "$OUSAC" merge three/profile.oca more.oca -o sum.oca
exits "as many samples as it takes" 0 "${ranks[@]}" "$MPI" profile "${common[@]:1}" --samples auto --samples-max 16 -o auto3.oca
cp err said
check "says that the other ranks wait" grep -qF "records in this process alone" said
check "as many samples as it takes, one process" "$OUSAC" profile "${common[@]}" --samples auto --samples-max 16 -o auto1.oca
check "the same" "$OUSAC" diff --tolerance 1e-10 auto1.oca auto3.oca
check "evaluation alone" "${ranks[@]}" "$MPI" eval -q -m dit/model.safetensors --micro-batch 2 --bundle three/bundle.oca \
    --samples 48:56 -o eval3.json
check "evaluation alone, one process" "$OUSAC" eval -q -m dit/model.safetensors --micro-batch 2 --bundle three/bundle.oca \
    --samples 48:56 -o eval1.json
check "is the same to the bit" "$PYTHON" -c 'import json, sys
a, b = (json.load(open(p)) for p in ("eval1.json", "eval3.json"))
assert a["errors"] == b["errors"], (a["errors"], b["errors"])'
check "one rank is one process" timeout 60 mpirun --allow-run-as-root -n 1 "$MPI" --version

# --- failures ---
long=(calibrate "${common[@]}" --validation 4 --test 6 --budget-step 0.5 --forecast off --method uniform)
interrupted "a rank is killed" rough/profile.oca SIGKILL rank \
    "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 --checkpoint-every 0 -o rough
check "the message says which" grep -qi "process rank" message
check "every rank keeps its state" test "$(parts rough)" = 3
check "which are profiles" "$OUSAC" verify rough/*.part
interrupted "mpirun is terminated" rough/profile.oca SIGTERM mpirun \
    "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 --checkpoint-every 0 -o rough
interrupted "a rank is terminated" rough/profile.oca SIGTERM rank \
    "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 --checkpoint-every 0 -o rough
check "every rank has kept its state" test "$(parts rough)" = 3
denied "another number of ranks" "left by a run of 3 ranks, not 2" timeout 60 mpirun --allow-run-as-root --oversubscribe -n 2 \
    "$MPI" "${long[@]}" --samples 4500 -o rough
mv rough/profile.oca.2-of-3.part kept.part
mkdir rough/profile.oca.2-of-3.part # a state that can neither be read nor written
denied "a rank that fails" "rank 1: rough/profile.oca.2-of-3.part" "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 -o rough
rmdir rough/profile.oca.2-of-3.part
mv kept.part rough/profile.oca.2-of-3.part
denied "a state of another run" "left by another run" "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 --seed 1 -o rough
check "it goes on" "${ranks[@]}" "$MPI" "${long[@]}" --samples 4500 -o rough
check "undisturbed, one process" "$OUSAC" "${long[@]}" --samples 4500 -o calm
check "to the same profile" "$OUSAC" diff --tolerance 1e-10 rough/profile.oca calm/profile.oca
check "no state stays behind a job that went on" test "$(parts rough)" = 0
denied "a wrong option" "unknown option" "${ranks[@]}" "$MPI" calibrate --no-such-option
denied "a model that is not there" "none.safetensors" "${ranks[@]}" "$MPI" profile -m none.safetensors -s s.json -o x.oca

finish
