#!/usr/bin/env bash
# Interrupted and killed runs go on from what they left, and end with the bytes of an undisturbed one; shards add up.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_resume.sh
#
# Works on a tiny model in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

absent() { [ ! -e "$1" ]; }
# samples FILE: how many a profile holds.
samples() {
    "$OUSAC" inspect --json "$1" | "$PYTHON" -c 'import json, sys
print(json.load(sys.stdin)["samples"])'
}

hide_gnuplot
"$MAKE_DIT" dit >/dev/null || exit 1
"$OUSAC" schedule --steps 12 --scale 3 --cfg 0:12:3 --period 3 -o s.json -q || exit 1
"$OUSAC" schedule --steps 12 --scale 4 --cfg 0:12:3 --period 3 -o other.json -q || exit 1
common=(-q -m dit/model.safetensors -s s.json --micro-batch 2)
profile=(profile "${common[@]}" --samples 0:480 --reproducible --checkpoint-every 0)

# --- killed at random moments, with other numbers of threads each time ---
cat >disturb.py <<'PYTHON'
"""disturb.py SEED KILLS OUTPUT COMMAND...: kills the command at random moments, KILLS times; then lets it end."""
import os, random, signal, subprocess, sys, time

seed, kills, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
command, part = sys.argv[4:], sys.argv[3] + ".part"
random.seed(seed)
begin = time.monotonic()
subprocess.run(command[:-1] + [output + ".timed", "--threads", "1"], check=True, stdout=subprocess.DEVNULL)
whole = time.monotonic() - begin
os.remove(output + ".timed")
killed = left = 0
for i in range(kills):
    job = subprocess.Popen(command + ["--threads", str(1 + i % 3)], stdout=subprocess.DEVNULL)
    # later and later, so that some runs have a state to begin with and most leave one
    try:
        job.wait(whole * random.uniform(0.1, 0.7))
        break
    except subprocess.TimeoutExpired:
        job.send_signal(signal.SIGKILL)
        job.wait()
        killed += 1
        left += os.path.exists(part)
        if os.path.exists(output):
            break  # it was complete already
job = subprocess.run(command, stdout=subprocess.DEVNULL)
print(killed, "kills,", left, "left a state")
sys.exit(job.returncode or not left)
PYTHON
for variant in "" "--magnitudes" "--weights-plain --segments 3 --tokens 3"; do
    # shellcheck disable=SC2206 # words
    extra=($variant)
    rm -f killed.oca
    check "undisturbed $variant" "$OUSAC" "${profile[@]}" "${extra[@]}" -o whole.oca
    check "killed at random moments $variant" \
        "$PYTHON" disturb.py 1 8 killed.oca "$OUSAC" "${profile[@]}" "${extra[@]}" -o killed.oca
    check "the same bytes after kills $variant" cmp whole.oca killed.oca
    check "no state stays behind $variant" absent killed.oca.part
done

# --- what a kill may lose ---
cat >lose.py <<'PYTHON'
"""lose.py OUTPUT COMMAND...: kills the command after its state was seen to hold more, and looks that it never shrinks."""
import os, re, signal, subprocess, sys, time

def held(path):
    # of the metadata in the index, which is not compressed
    match = re.search(rb"ranges.{0,16}?0\+(\d+)", open(path, "rb").read(1 << 16), re.S)
    return int(match.group(1)) if match else 0

part, command, before = sys.argv[1] + ".part", sys.argv[2:], 0
for round in range(4):
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen, end = before, time.monotonic() + 20
    while seen <= before and job.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
        seen = held(part) if os.path.exists(part) else before
    job.send_signal(signal.SIGKILL)
    job.wait()
    after = held(part)
    if not before < seen <= after:
        sys.exit("round %d: held %d, was seen to hold %d, holds %d" % (round, before, seen, after))
    before = after
PYTHON
check "what a state was seen to hold is kept" \
    "$PYTHON" lose.py lose.oca "$OUSAC" "${profile[@]}" --weights-plain --threads 1 -o lose.oca
check "a state is a profile" "$OUSAC" verify lose.oca.part
check "of samples from the first on" test "$(samples lose.oca.part)" -gt 0
check "inspect reads it" "$OUSAC" inspect lose.oca.part

# --- a state of another run ---
again() { "$OUSAC" profile "${common[@]}" --samples 0:480 --checkpoint-every 0 "$@" -o lose.oca; }
refused "another seed" 4 "lose.oca.part: left by another run: the profiles are of different seeds" again --weights-plain --seed 1
refused "other samples" 4 "it is part of samples 0:480, not 0:460" "$OUSAC" profile "${common[@]}" --samples 0:460 --weights-plain -o lose.oca
refused "other weights" 4 "its step weights are plain, not pilot" again
refused "magnitudes" 4 "one profile holds channel magnitudes" again --weights-plain --magnitudes
refused "other tokens" 4 "different numbers of tokens" again --weights-plain --tokens 2
refused "another schedule" 4 "different schedules" \
    "$OUSAC" profile -q -m dit/model.safetensors -s other.json --micro-batch 2 --samples 0:480 --weights-plain -o lose.oca
refused "a pilot in its place" 4 "it is no pilot; --restart discards it" again --pilot
check "the state is still there" test -e lose.oca.part
check "and goes on" "$OUSAC" "${profile[@]}" --weights-plain -o lose.oca
"$OUSAC" "${profile[@]}" --weights-plain -o plain.oca >out 2>err
check "to the same bytes" cmp lose.oca plain.oca
cp whole.oca killed.oca.part
refused "a complete profile of other samples is no state" 4 "--restart discards it" \
    "$OUSAC" profile "${common[@]}" --samples 0:8 --weights-plain -o killed.oca
head -c 3000 whole.oca >killed.oca.part
refused "a damaged state" 3 "--restart discards it" "$OUSAC" "${profile[@]}" -o killed.oca
check "--restart discards it" "$OUSAC" "${profile[@]}" --restart -o killed.oca
check "and what it held" absent killed.oca.part
refused "a negative interval" 2 "--checkpoint-every expects" \
    "$OUSAC" profile "${common[@]}" --checkpoint-every=-1 -o killed.oca

# --- SIGINT and SIGTERM save what is complete, whatever the interval ---
for name in INT TERM; do
    "$PYTHON" - "SIG$name" "$OUSAC" profile "${common[@]}" --samples 0:4000000 --weights-plain --threads 2 -o sig.oca >out 2>message <<'PYTHON'
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
job = subprocess.Popen(sys.argv[2:])
time.sleep(1)
job.send_signal(getattr(signal, sys.argv[1]))
sys.exit(job.wait() % 256)
PYTHON
    code=$?
    check "SIG$name: one line that says what is kept" \
        grep -qE "^ousac profile: interrupted .*; sig.oca.part keeps [0-9]+ of 4000000 samples" message
    check "SIG$name: exit code" test $code = 130
done
check "the second went on from the first" test "$(samples sig.oca.part)" -gt 2
check "no output yet" absent sig.oca

# --- shards ---
check "weights" "$OUSAC" profile "${common[@]}" --pilot -o weights.oca
check "whole" "$OUSAC" profile "${common[@]}" --samples 0:23 --weights weights.oca -o all.oca
for k in 1 2 3 4 5; do
    check "shard $k of 5" "$OUSAC" profile "${common[@]}" --samples 0:23 --weights weights.oca --shard $k/5 -o shard$k.oca
done
check "balanced in micro-batches" test "$(for k in 1 2 3 4 5; do samples shard$k.oca; done | tr '\n' ' ')" = "4 4 6 4 5 "
check "merge" "$OUSAC" merge shard1.oca shard2.oca shard3.oca shard4.oca shard5.oca -o merged.oca
check "shards add up to the whole" "$OUSAC" diff --tolerance 1e-10 all.oca merged.oca
check "merge step by step, in another order" "$OUSAC" merge shard4.oca shard2.oca -o ab.oca
check "merge step by step, in another order" "$OUSAC" merge shard5.oca ab.oca -o abc.oca
check "merge step by step, in another order" "$OUSAC" merge shard3.oca shard1.oca -o de.oca
check "merge step by step, in another order" "$OUSAC" merge abc.oca de.oca -o other.oca
check "the order does not matter" "$OUSAC" diff --tolerance 1e-10 merged.oca other.oca
check "a shard runs the common pilot itself" \
    "$OUSAC" profile "${common[@]}" --samples 0:23 --shard 2/5 -o own.oca
check "and gets the same" "$OUSAC" diff --tolerance 0 own.oca shard2.oca
refused "more shards than micro-batches" 2 "have 12 micro-batches of 2" \
    "$OUSAC" profile "${common[@]}" --samples 0:23 --shard 1/13 -o never.oca
for shard in 0/3 4/3 3 1/0 a/b 1/3x; do
    refused "--shard $shard" 2 "--shard expects K/N" "$OUSAC" profile "${common[@]}" --shard $shard -o never.oca
done
refused "a pilot has no shards" 2 "--pilot has no shards" "$OUSAC" profile "${common[@]}" --shard 1/2 --pilot -o never.oca

# --- the Slurm array script, as a plain loop ---
job() {
    OUSAC=$OUSAC MODEL=dit/model.safetensors SCHEDULE=s.json SAMPLES=0:23 DIR=array \
        OPTIONS="-q --micro-batch 2 --threads 1" bash "$ROOT/examples/slurm/profile.sbatch" "$@"
}
check "array: weights" job weights
for k in 1 2 3; do
    check "array: shard $k" env SLURM_ARRAY_TASK_ID=$k SLURM_ARRAY_TASK_COUNT=3 bash -c "$(declare -f job); OUSAC=$OUSAC ROOT=$ROOT; job shard"
done
check "array: merge" job merge
check "array: equals the whole" "$OUSAC" diff --tolerance 1e-10 all.oca array/profile.oca
# preempted: the shell gets the signal, the program saves, and the job is queued again
printf '#!/bin/sh\necho "$@" >>requeued\n' >bin/scontrol && chmod +x bin/scontrol
OUSAC=$OUSAC MODEL=dit/model.safetensors SCHEDULE=s.json SAMPLES=0:4000000 DIR=array SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=2 \
    SLURM_ARRAY_TASK_COUNT=4 OPTIONS="-q --micro-batch 2 --threads 1 --checkpoint-every 0" \
    bash "$ROOT/examples/slurm/profile.sbatch" shard >out 2>message &
task=$!
for _ in $(seq 200); do
    [ -e array/shard-2-of-4.oca.part ] && break
    sleep 0.05
done
kill -TERM $task
wait $task
code=$?
check "array: a preempted shard says so" test $code = 130
check "array: and keeps its state" "$OUSAC" verify array/shard-2-of-4.oca.part
check "array: and is queued again" test "$(cat requeued)" = "requeue 77_2"
refused "array: a shard without an index" 1 "SLURM_ARRAY_TASK_ID" job shard

# --- calibrate ---
calibrate=(calibrate "${common[@]}" --samples 320 --validation 4 --test 4 --budget-step 0.5 --forecast off --checkpoint-every 0)
check "calibrate, undisturbed" "$OUSAC" "${calibrate[@]}" -o calm
cat >stop.py <<'PYTHON'
"""stop.py FILE SIGNAL COMMAND...: sends it once the file is there."""
import os, signal, subprocess, sys, time
job = subprocess.Popen(sys.argv[3:])
end = time.monotonic() + 30
while not os.path.exists(sys.argv[1]) and job.poll() is None and time.monotonic() < end:
    time.sleep(0.001)
job.send_signal(getattr(signal, sys.argv[2]))
sys.exit(job.wait() % 256)
PYTHON
"$PYTHON" stop.py rough/profile.oca.part SIGTERM "$OUSAC" "${calibrate[@]}" -o rough >out 2>err
check "calibrate stopped while it profiles" test $? = 130
check "leaves its state" "$OUSAC" verify rough/profile.oca.part
"$PYTHON" stop.py rough/weights.oca SIGKILL "$OUSAC" "${calibrate[@]}" -o rough >out 2>err
"$PYTHON" stop.py rough/profile.oca SIGTERM "$OUSAC" "${calibrate[@]}" -o rough >out 2>err
check "calibrate stopped behind its profile" test $? = 130
check "keeps the profile" test -e rough/profile.oca -a -e rough/calibrate.part -a ! -e rough/profile.oca.part
cp rough/profile.oca kept.oca
refused "another calibration in its place" 4 "left by another run" "$OUSAC" "${calibrate[@]}" --seed 1 -o rough
exits "calibrate goes on" 0 "$OUSAC" "${calibrate[@]}" --json -o rough
cp out result.json
check "without profiling again" "$PYTHON" -c 'import json, sys
r = json.load(open("result.json"))
sys.exit(r["profiling"]["forwards"] != 328 * 16)'
check "with the same profile" "$OUSAC" diff --tolerance 0 rough/profile.oca kept.oca
check "as if undisturbed" "$OUSAC" diff --tolerance 0 rough/profile.oca calm/profile.oca
check "the same bundle" cmp rough/bundle.oca calm/bundle.oca
check "no state stays behind" test -z "$(find rough -name '*.part')"

# --- calibrate that decides gates: the search is not repeated ---
"$OUSAC" schedule --steps 12 --scale 3 --cfg 0:12:3 --gates auto -o open.json -q || exit 1
open=(calibrate -m dit/model.safetensors -s open.json --micro-batch 2 --samples 320 --validation 4 --test 4 --budget-step 0.5
    --method uniform --forecast off --evaluations 4)
check "open gates, undisturbed" "$OUSAC" "${open[@]}" -q -o still
"$PYTHON" stop.py moved/gates.part SIGTERM "$OUSAC" "${open[@]}" -q -o moved >out 2>err
check "open gates, stopped behind the search" test $? = 130
check "keep what it decided" test -e moved/gates.part -a ! -e moved/bundle.oca
exits "go on" 0 "$OUSAC" "${open[@]}" -o moved
cp err noted
check "without another search" grep -q "gates.part: the gates that an interrupted run decided" noted
check "nor its result" test "$(grep -c "^placed" noted)" = 0
check "to the same schedule" cmp still/schedule.json moved/schedule.json
check "and the same bundle" cmp still/bundle.oca moved/bundle.oca
check "and leave no state" test -z "$(find moved -name '*.part')"
cp still/schedule.json moved/gates.part # not a decision
exits "what is no decision is not taken up" 0 "$OUSAC" "${open[@]}" -o moved
cp err noted
check "but searched for" grep -q "^placed" noted

finish
