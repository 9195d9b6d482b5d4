#!/usr/bin/env bash
# Schedules, budgets, models and machines at the edge of what is possible: each either works or says at once why not.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_edges.sh
set -u
. "$(dirname "$0")/../support/harness.bash"
TINY=$WORK/dit/model.safetensors

check "a tiny model" "$MAKE_DIT" "$WORK/dit"

# The same with its last layer zero, as training begins with.
mkdir "$WORK/zero"
cp "$WORK/dit/config.json" "$WORK/zero"
check "a model that predicts nothing" "$PYTHON" - "$TINY" "$WORK/zero/model.safetensors" <<'EOF'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
at = 8 + struct.unpack("<Q", data[:8])[0]
for name, tensor in json.loads(data[8:at]).items():
    if name.startswith("final_layer.linear"):
        begin, end = tensor["data_offsets"]
        data[at + begin:at + end] = bytes(end - begin)
open(sys.argv[2], "wb").write(data)
EOF

# modes FILE MODE...: a schedule of these modes whose gates are open.
modes() {
    "$PYTHON" - "$@" <<'EOF'
import json, sys
modes = sys.argv[2:]
steps = [{"timestep": 999 - round(k * 999 / max(1, len(modes) - 1)), "mode": mode, "gate": "auto"} for k, mode in enumerate(modes)]
for step in steps:
    if step["mode"] == "cfg":
        step["scale"] = 3
json.dump({"format": "ousac-schedule", "version": 1, "name": "modes", "solver": "ddim", "step_count": len(steps), "steps": steps},
          open(sys.argv[1], "w"))
EOF
}

# --- placement: whichever branch a step runs, and where there is nothing to place by ---
modes "$WORK/uncond.json" uncond uncond uncond uncond uncond uncond
modes "$WORK/mixed.json" uncond cond cfg uncond cond cfg
modes "$WORK/one.json" cond
place=(place --samples 4 --evaluations 4 --json)
for schedule in uncond mixed; do
    ousac "placement under $schedule steps" 0 "" "${place[@]}" -m "$TINY" -s "$WORK/$schedule.json" -o "$WORK/placed.json"
    keep
    json "which tried more than even spacing" 'len(r["evaluations"]) > 1 and r["even"]["predicted_error"] > 0'
done
ousac "calibration under unconditional steps, gates open" 0 "" calibrate -m "$TINY" -s "$WORK/uncond.json" -q \
    --budget-step 0.5 --samples 24 --validation 4 --test 4 --evaluations 4 -o "$WORK/uncond"
for case in "zero/model.safetensors mixed 0.5" "dit/model.safetensors one 0.5" "zero/model.safetensors one 1"; do
    read -r model schedule budget <<<"$case"
    ousac "placement with nothing to place by: $case" 0 "" \
        "${place[@]}" -m "$WORK/$model" -s "$WORK/$schedule.json" --budget-step "$budget" -o "$WORK/placed.json"
    keep
    json "writes even spacing" 'r["written"] == "even" and len(r["evaluations"]) == 1'
    check "every third step full" "$PYTHON" -c 'import json, sys
assert [s["gate"] for s in json.load(open(sys.argv[1]))["steps"]] == (["full", "cached", "cached"] * 2)[:int(sys.argv[2])]' \
        "$WORK/placed.json" "$([ "$schedule" = one ] && echo 1 || echo 6)"
done
ousac "a number of refreshes with nothing to place by" 0 "" \
    "${place[@]}" -m "$WORK/zero/model.safetensors" -s "$WORK/uncond.json" --full 3 --budget-step 0.9 --period 2 -o "$WORK/placed.json"
keep
json "is placed" 'r["placed"]["forwards_full"] == 3'

# --- budgets at which the uniform rank lies on one side of a dense rank and, less the forecast, on the other ---
check "a schedule" "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 -o "$WORK/s.json"
ousac "a profile" 0 "" profile -m "$TINY" -s "$WORK/s.json" --samples 0:4 --weights-plain -q -o "$WORK/p.oca"
for forecast in auto on; do
    for budget in $(seq 0.40 0.02 1); do
        ousac "uniform ranks, forecast $forecast, budget $budget" 0 "" allocate -m "$TINY" -p "$WORK/p.oca" --method uniform \
            --forecast $forecast --budget-step "$budget" -q -o "$WORK/plan.oca"
    done
done

# --- one test sample, or equal ones: no interval, no verdict ---
check "a plan" "$OUSAC" allocate -m "$TINY" -p "$WORK/p.oca" --method uniform --forecast off --budget-step 0.5 -q -o "$WORK/plan.oca"
check "a bundle" "$OUSAC" pack -m "$TINY" -p "$WORK/p.oca" --plan "$WORK/plan.oca" -q -o "$WORK/b.oca"
check "another schedule" "$OUSAC" schedule --steps 4 --scale 6 --cfg 0:4:2 --period 2 -o "$WORK/other.json"
other=(eval -m "$TINY" -b "$WORK/b.oca" --schedule "$WORK/other.json" --recalibrate-samples 4 -q)
ousac "one test sample" 0 "" "${other[@]}" --samples 16:17 --json -o "$WORK/eval.json"
keep
json "has no interval" 'all(e[k]["low"] is None and e[k]["high"] is None and e[k]["mean"] >= 0 for e in r["errors"]
    for k in ("relative_error", "psnr_db"))'
json "nor a verdict" 'r["transfer"]["verdict"] == "undecided" and r["transfer"]["more_samples"] is None'
check "the same of the bundle's own schedule" "$OUSAC" eval -m "$TINY" -b "$WORK/b.oca" --samples 16:17 -q -o "$WORK/eval.json"
check "which the report says too" "$OUSAC" report "$WORK/b.oca" "$WORK/eval.json" -o "$WORK/report.html"
check "in words" grep -q 'no interval' "$WORK/report.html"
ousac "and the terminal" 0 "transferred / recalibrated: [0-9.]+ .no interval., threshold 1.1: undecided; one sample" "${other[@]}" --samples 16:17
ousac "and of a sample sheet" 0 "[0-9] .no interval., PSNR [0-9.]+ dB .no interval." \
    sample -m "$TINY" -b "$WORK/b.oca" --rows exact,calibrated --samples 0:1 -o "$WORK/x.png"
ousac "while four have one" 0 "" "${other[@]}" --samples 16:20 --json
keep
json "of some width" 'all(e["relative_error"]["low"] < e["relative_error"]["high"] for e in r["errors"] if e["run"] != e["against"])'

# --- a limit on processes: no thread is started before it is asked for ---
if [ "$(id -u)" = 0 ] && command -v setpriv prlimit >/dev/null; then # nothing limits root
    chmod 755 "$WORK"
    chmod -R a+rX "$WORK/dit"
    cp "$OUSAC" "$WORK/ousac"
    install -d -m 777 "$WORK/theirs"
    # The search for leaks takes a thread of its own.
    alone=(env ASAN_OPTIONS=detect_leaks=0 setpriv --reuid=65534 --clear-groups prlimit --nproc=1)
    exits "a version where no thread may start" 0 "${alone[@]}" "$WORK/ousac" --version
    check "which says nothing else" test "$(cat out err)" = "$("$OUSAC" --version)"
    check "samples where no thread may start" "${alone[@]}" "$WORK/ousac" sample --threads 4 -m "$TINY" -s "$WORK/s.json" \
        --samples 0:8 -o "$WORK/theirs/x.png"
else
    skip "a limit on processes needs root, setpriv and prlimit"
fi

# --- a limit on processor time decides how many threads there are ---
if [ "$(id -u)" = 0 ] && [ "$(nproc)" -gt 1 ] && unshare -m true 2>/dev/null; then
    mkdir "$WORK/group"
    # threads CPU.MAX: of a profile in a control group with this quota
    threads() {
        echo "$1" >"$WORK/group/cpu.max"
        # shellcheck disable=SC2016 # the inner shell's arguments
        unshare -m sh -c 'mount --bind "$1" /sys/fs/cgroup && shift && exec "$@"' sh "$WORK/group" "$OUSAC" profile -m "$TINY" \
            -s "$WORK/s.json" --samples 0:4 --weights-plain -q -o "$WORK/quota.oca" "${@:2}" 2>&1 | grep -o "on [0-9]* thread"
    }
    for case in "50000 100000:1" "100000 100000:1" "100001 100000:2" "max 100000:$(nproc)" "nonsense:$(nproc)"; do
        check "threads of a quota of ${case%:*}" test "$(threads "${case%:*}")" = "on ${case#*:} thread"
    done
    check "threads that were asked for" test "$(threads "50000 100000" --threads 2)" = "on 2 thread"
else
    skip "a quota needs root, unshare and two processors"
fi

# --- every seed of 64 bits is one ---
for seed in 0 18446744073709551615 9223372036854775808; do
    ousac "an evaluation with seed $seed" 0 "" eval -m "$TINY" -b "$WORK/b.oca" --samples 16:20 --seed $seed -q --json
    keep
    json "takes it" "r['seed'] == $seed"
done

# --- signals that end a job save what is done, like SIGTERM ---
for name in HUP USR1 XCPU TERM; do
    "$PYTHON" - "SIG$name" "$OUSAC" profile -m "$TINY" -s "$WORK/s.json" --samples 0:4000000 --weights-plain --threads 1 -q \
        -o "$WORK/long.oca" >"$WORK/out" 2>"$WORK/err" <<'PYTHON'
import signal, subprocess, sys, time
number = getattr(signal, sys.argv[1])
signal.signal(number, signal.SIG_DFL)
job = subprocess.Popen(sys.argv[2:])
time.sleep(0.5)
for again in range(1 if number == signal.SIGTERM else 3):  # those but SIGTERM are repeated by those who send them
    job.send_signal(number)
sys.exit(job.wait() % 256)
PYTHON
    check "SIG$name: exit code" test $? = 130
    check "SIG$name: what is done is kept" test -s "$WORK/long.oca.part"
    rm -f "$WORK/long.oca.part"
done
(ulimit -St 1 && exec "$OUSAC" profile -m "$TINY" -s "$WORK/s.json" --samples 0:4000000 --weights-plain --threads 1 -q \
    -o "$WORK/long.oca") >"$WORK/out" 2>"$WORK/err"
check "a limit on processor time: exit code" test $? = 130
check "a limit on processor time: what is done is kept" test -s "$WORK/long.oca.part"

# --- a limit on the size of files is a failed write ---
mkdir "$WORK/small"
(ulimit -f 8 && exec "$OUSAC" pack -m "$TINY" -p "$WORK/p.oca" --plan "$WORK/plan.oca" -q -o "$WORK/small/b.oca") >"$WORK/out" 2>"$WORK/err"
check "a file beyond the limit: exit code" test $? = 1
check "a file beyond the limit: nothing is left" test -z "$(ls -A "$WORK/small")"

# --- a limit on the address space: refused with the figure, or enough ---
case $BUILD in
*asan* | *tsan*) skip "a sanitizer maps terabytes" ;;
*)
    for command in "sample --samples 0:8" "profile --samples 0:8 --weights-plain"; do
        # shellcheck disable=SC2086 # a command and its options
        (ulimit -v 200000 && exec timeout -s KILL 20 "$OUSAC" $command --threads 2 -m "$TINY" -s "$WORK/s.json" -q -o "$WORK/small/x") \
            >"$WORK/out" 2>"$WORK/err"
        check "${command%% *} with too little: exit code" test $? = 1
        # shellcheck disable=SC2086
        (ulimit -v 1000000 && exec timeout -s KILL 20 "$OUSAC" $command --threads 2 -m "$TINY" -s "$WORK/s.json" -q -o "$WORK/small/x") \
            >"$WORK/out" 2>"$WORK/err"
        check "${command%% *} with enough" test $? = 0
        rm "$WORK/small/x"
    done
    (ulimit -v 200000 && exec timeout -s KILL 20 "$OUSAC" place --threads 2 -m "$TINY" -s "$WORK/s.json" -q -o "$WORK/small/x") 2>"$WORK/said"
    check "the figure" grep -qE "limited to 195 MiB .ulimit -v.: products on 2 threads need [0-9]+ MiB more and [0-9]+ MiB are left, enough for [01] threads" "$WORK/said"
    (ulimit -v 200000 && exec timeout -s KILL 20 "$OUSAC" inspect "$WORK/b.oca") >"$WORK/out"
    check "what multiplies nothing needs none" test $? = 0
    ;;
esac

# --- what needs neither weights nor samples is told before the first forward ---
modes "$WORK/open.json" cfg cond cfg cond
"$PYTHON" - "$WORK/s.json" "$WORK/late.json" "$WORK/nameless.json" <<'EOF'
import json, sys
schedule = json.load(open(sys.argv[1]))
schedule["name"] = ""
json.dump(schedule, open(sys.argv[3], "w"))
schedule["steps"][0]["timestep"] = 1000
json.dump(schedule, open(sys.argv[2], "w"))
EOF
# early NAME PATTERN ARGUMENT...: refused, and nothing was run.
early() {
    local name=$1 pattern=$2
    shift 2
    ousac "$name" 2 "$pattern" "$@" -q -o "$WORK/early"
    if grep -qE "relative error|forwards|^[a-z]+: [0-9]" "$WORK/out" "$WORK/err"; then fail "$name: after some work"; fi
    check "$name: nothing is left" test ! -e "$WORK/early"
}
model=(-m "$TINY")
early "rows that open gates leave undecided" "--rows reuse: .*open.json leaves its gates" \
    sample "${model[@]}" -s "$WORK/open.json" --rows exact,reuse --samples 0:4
early "a reference beyond the model's timesteps" "schedule late.json, step 0: timestep 1000|late.json, step 0: timestep 1000" \
    calibrate "${model[@]}" -s "$WORK/s.json" --reference "$WORK/late.json"
early "the same of an evaluation" "step 0: timestep 1000" eval "${model[@]}" -b "$WORK/b.oca" --reference "$WORK/late.json" --samples 16:4000000
early "a forecast that the budget does not hold" "--forecast on: the forecast alone costs" \
    calibrate "${model[@]}" -s "$WORK/s.json" --forecast on --budget-step 0.03
early "the same of an allocation" "--forecast on: the forecast alone costs" \
    allocate "${model[@]}" -p "$WORK/p.oca" --forecast on --budget-step 0.03
early "more tokens than the model has" "--tokens 4000: the model has 16 tokens" calibrate "${model[@]}" -s "$WORK/s.json" --tokens 4000
early "a name that no plan can have" "cannot name a plan" allocate "${model[@]}" -p "$WORK/p.oca" --name a/b
early "validation on calibration samples" "--validate 0:4: the profile was calibrated on" allocate "${model[@]}" -p "$WORK/p.oca" --validate 0:4
early "more refreshes than evaluations" "--full 5000: expected from [0-9] to [0-9] full evaluations" place "${model[@]}" -s "$WORK/s.json" --full 5000
early "samples that fit into no PNG" "pass 65535 pixels either way|pass [0-9]+ MiB" sample "${model[@]}" -s "$WORK/s.json" --samples 0:100000000

# --- more columns than a PNG is wide go on in further lines ---
ousac "many columns" 0 "" sample "${model[@]}" -s "$WORK/s.json" --samples 0:1200 -q -o "$WORK/wide.png"
check "are wrapped" "$PYTHON" - "$WORK/wide.png" <<'EOF'
import struct, sys
width, height = struct.unpack(">II", open(sys.argv[1], "rb").read()[16:24])
cell = 64 + 2
assert width <= 65535 and width > 900 * cell and height == 2 + 2 * cell, (width, height)
EOF

# --- a schedule without a name is called by its file ---
ousac "a nameless schedule that another model cannot run" 2 "schedule .*late.json, step 0" profile "${model[@]}" -s "$WORK/late.json" --samples 0:4 -o "$WORK/early"
check "a nameless one" "$OUSAC" profile "${model[@]}" -s "$WORK/nameless.json" --samples 0:4 --weights-plain -q -o "$WORK/nameless.oca"
check "its plan" "$OUSAC" allocate "${model[@]}" -p "$WORK/nameless.oca" --method uniform --forecast off --budget-step 0.5 -q -o "$WORK/nameless-plan.oca"
check "its bundle" "$OUSAC" pack "${model[@]}" -p "$WORK/nameless.oca" --plan "$WORK/nameless-plan.oca" -q -o "$WORK/nameless-b.oca"
ousac "its evaluation" 0 "steps of \".*nameless-b.oca\"" eval "${model[@]}" -b "$WORK/nameless-b.oca" --samples 16:20 -q

# --- a short schedule as text: nothing is drawn over what the plot says of itself ---
if command -v gnuplot >/dev/null; then
    for columns in 60 100 200; do
        ousac "deltas of four steps in $columns columns" 0 "cond; 0 is [0-9.e-]+, 9 is [0-9.e-]+ *$" plot delta "$WORK/p.oca" --term --columns $columns
        check "say what the marks are" grep -q "denoising step; v refresh (full), | guidance changes" <(
            "$OUSAC" plot delta "$WORK/p.oca" --term --columns $columns)
    done
else
    skip "no gnuplot"
fi

# --- a proof speaks of the granularity that it was made at ---
ousac "a knapsack" 0 "" allocate "${model[@]}" -p "$WORK/p.oca" --method knapsack --forecast off --budget-step 0.5 -q -o "$WORK/proved.oca"
ousac "says what is proved" 0 "proved optimal at this granularity" inspect "$WORK/proved.oca"

# --- a comparison that is interrupted prints the rows that it has ---
many=56:568 # more than a fast machine is done with before it is interrupted
case $BUILD in *asan* | *tsan*) many=56:120 ;; esac
check "a longer schedule" "$OUSAC" schedule --steps 40 --scale 3 --cfg 0:40:4 --period 3 -o "$WORK/forty.json"
for json in "" --json; do
    # shellcheck disable=SC2086 # no option or one
    "$PYTHON" - "$OUSAC" compare "${model[@]}" -s "$WORK/forty.json" --calibration 24 --samples "$many" -q $json \
        >"$WORK/stdout" 2>"$WORK/said" <<'PYTHON'
"""Interrupts the comparison later and later, until it has had the time for a row, whatever the machine."""
import signal, subprocess, sys, time
for delay in (1, 2, 4, 8, 16, 32, 64):
    job = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate()
    if job.returncode != 130 or "reuse" in out:
        break
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(job.returncode % 256)
PYTHON
    check "a comparison that is interrupted $json: exit code" test $? = 130
    check "a comparison that is interrupted $json: says so" grep -q "interrupted.*; these rows were complete" "$WORK/said"
    if [ -z "$json" ]; then
        check "and prints its rows" grep -qE "^reuse +even +[0-9.]+ +[0-9.]+ +\[" "$WORK/stdout"
    else
        json "and prints its rows" 'r["interrupted"] and [q["method"] for q in r["rows"]][:2] == ["exact", "reuse"]'
    fi
done

# --- the version, and values that look like options ---
for word in --version -V version; do
    check "ousac $word" test "$("$OUSAC" $word)" = "$("$OUSAC" --version)"
done
ousac "an option in place of a value" 2 "--output expects FILE, not the option '-q'; a value that begins so is written --output=-q" \
    schedule --steps 4 --scale 3 -o -q
ousac "a long one" 2 "--name expects TEXT, not the option '--json'" schedule --steps 4 --scale 3 --name --json -o "$WORK/x.json"
ousac "a value that begins with a dash" 0 "" schedule --steps 4 --period 2 --scale 3 --name=-x -o "$WORK/dash.json"
check "is taken" grep -q '"name": "-x"' "$WORK/dash.json"
ousac "a negative number is a value" 0 "" schedule --steps 4 --period 2 --scale -3 -o "$WORK/dash.json"

finish
