#!/usr/bin/env bash
# No command writes over what it reads, nor one result over another, however the files are named; and a name that cannot be
# written is told before any work.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_files.sh
set -u
. "$(dirname "$0")/../support/harness.bash"

check "a model" "$MAKE_DIT" dit
check "a schedule" "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 -o s.json
check "a profile" "$OUSAC" profile -m dit/model.safetensors -s s.json --samples 0:4 --weights-plain -q -o p.oca
check "another" "$OUSAC" profile -m dit/model.safetensors -s s.json --samples 4:8 --weights-plain -q -o q.oca
check "a plan" "$OUSAC" allocate -m dit/model.safetensors -p p.oca --method uniform --forecast off --budget-step 0.5 -q -o plan.oca
check "a bundle" "$OUSAC" pack -m dit/model.safetensors -p p.oca --plan plan.oca -q -o b.oca
check "an evaluation" "$OUSAC" eval -m dit/model.safetensors -b b.oca --samples 16:20 -q -o eval.json
check "keys" "$OUSAC" sign --generate --key k --public k.pub
check "a checkpoint" "$OUSAC" export --safetensors b.oca -o b.safetensors
check "scales of a bundle" "$OUSAC" export --sd-cpp b.oca -q -o b.txt
check "are those of its schedule" grep -qx -- "--steps 4 --extra-sample-args guidance_schedule=1x1+3x1+1x1+3x2" b.txt
mkdir dir
cp b.oca eval.json dir
ln -s ../b.oca dir/link.oca
ln b.oca dir/hard.oca
ln -s new.oca dangling.oca
sums() { find . -type f ! -name out ! -name err ! -name stdout ! -name checked ! -name '.*' -exec sha256sum {} + | sort -k 2; }
sums >"$WORK/.before"

# same NAME ARGUMENT...: refused as two names of one file, nothing written.
same() {
    local name=$1
    shift
    ousac "$name" 2 "is the same file as" "$@"
    sums >"$WORK/.after"
    cmp -s .before .after || fail "$name: a file was changed: $(diff .before .after | head -3)"
}
model=(-m dit/model.safetensors)
same "a public key over the secret one" sign --generate --key new --public new
same "and by another spelling" sign --generate --key new --public ./new
same "and through a directory" sign --generate --key new --public dit/../new
same "and through a link to what is not there" sign --generate --key new.oca --public dangling.oca
same "a key over an old one, forced" sign --generate --force --key k --public k
same "a signature over the file" sign --key k -o b.oca b.oca
same "a signature over the key" sign --key k -o k b.oca
same "a signature of its own name over the key" sign --key b.oca.minisig b.oca
same "a profile over the model" profile "${model[@]}" -s s.json --samples 0:4 -o dit/model.safetensors
same "a profile over the config" profile "${model[@]}" -s s.json --samples 0:4 -o dit/config.json
same "a profile over the schedule" profile "${model[@]}" -s s.json --samples 0:4 -o s.json
same "a profile over its weights" profile "${model[@]}" -s s.json --samples 0:4 --weights q.oca -o q.oca
mv q.oca q.oca.part
sums >.before
same "a partial profile over the weights" profile "${model[@]}" -s s.json --samples 0:4 --weights q.oca.part -o q.oca
mv q.oca.part q.oca
sums >.before
same "a plan over the model" allocate "${model[@]}" -p p.oca -o dit/model.safetensors
same "a plan over the profile" allocate "${model[@]}" -p p.oca -o ./p.oca
same "a bundle over the plan" pack "${model[@]}" -p p.oca --plan plan.oca -o plan.oca
same "a bundle over a plan among the arguments" pack "${model[@]}" -p p.oca plan.oca -o plan.oca
same "an evaluation over the bundle" eval "${model[@]}" -b b.oca --samples 16:20 -o b.oca
same "an evaluation over a link to the bundle" eval "${model[@]}" -b b.oca --samples 16:20 -o dir/link.oca
same "an evaluation over the bundle by a hard link" eval "${model[@]}" -b b.oca --samples 16:20 -o dir/hard.oca
same "samples over the bundle" sample "${model[@]}" -b b.oca --samples 0:1 -o b.oca
same "samples over raw ones" sample "${model[@]}" -s s.json --samples 0:1 -o new.png --raw new.png
same "raw samples over the schedule" sample "${model[@]}" -s s.json --samples 0:1 -o new.png --raw s.json
same "a report over the bundle" report b.oca -o b.oca

same "a report over what a directory holds" report dir -o dir/eval.json
same "a report over a plot" report b.oca --plots dir -o dir/ranks.svg
same "a model over its config" synth --preset DiT-S/2 -o new --config-output new
same "a model over the config beside it" synth --preset DiT-S/2 -o config.json
same "a model over its profile" synth --preset DiT-S/2 -s s.json -o new --profile new
same "a placement over the schedule" place "${model[@]}" -s s.json -o s.json
same "a placement over the model" place "${model[@]}" -s s.json -o dit/model.safetensors
same "an export over the bundle" export --safetensors b.oca -o b.oca
same "an import over the checkpoint" import b.safetensors -o b.safetensors
same "a comparison over its schedule" compare "${model[@]}" -s s.json --samples 0:4 -o s.json
same "a comparison over the searched schedule" compare "${model[@]}" -s s.json --samples 0:4 -o new.json --placed new.json
mkdir out.d
cp s.json out.d/schedule.json
sums >.before
same "a calibration over its schedule" calibrate "${model[@]}" -s out.d/schedule.json -o out.d
rm -r out.d

# --- merge may replace what it reads, as a whole ---
cp p.oca sum.oca
ousac "merge into one of its profiles" 0 "" merge sum.oca q.oca -o sum.oca
check "holds both" "$OUSAC" merge p.oca q.oca -o both.oca
check "to the byte" cmp sum.oca both.oca
ousac "different files are no trouble" 0 "" export --safetensors b.oca -o "$PWD/../$(basename "$PWD")/c.safetensors"
ousac "nor are devices" 1 "only a regular file can be replaced" export --safetensors b.oca -o /dev/null

# --- names that cannot be written, told before the work ---
long=$(printf 'n%.0s' $(seq 255))
sums >.before
for name in "missing/x" "s.json/x" "dir" "$long.oca" "${long:0:252}" "/proc/x.oca"; do
    ousac "a profile named ${name:0:20}" 1 "" profile "${model[@]}" -s s.json --samples 0:400000 -o "$name"
done
ousac "the directory is named" 1 "missing/x: cannot write into its directory" profile "${model[@]}" -s s.json --samples 0:4 -o missing/x
ousac "a signature with a name too long" 1 "File name too long" sign --key k "${long:0:250}"
sums >.after
check "nothing was left by any" cmp .before .after

# --- standard output as an output, a pipe as an input ---
check "a small bundle" "$OUSAC" pack -m dit/model.safetensors -p p.oca --plan plan.oca -q -o b.oca
for name in - /dev/stdout; do
    ousac "a schedule to $name" 0 "" schedule --steps 4 --scale 3 --period 2 -q -o $name
    keep
    json "is one" 'r["format"] == "ousac-schedule"'
    ousac "a placement to $name" 0 "" place "${model[@]}" -s s.json --samples 4 --evaluations 2 -q -o $name
    keep
    json "is one" 'r["format"] == "ousac-schedule"'
    ousac "an evaluation to $name" 0 "" eval "${model[@]}" -b b.oca --samples 16:20 -q -o $name
    keep
    json "is one" 'r["kind"] == "ousac evaluation"'
    for arguments in "profile ${model[*]} -s s.json --samples 0:4" "allocate ${model[*]} -p p.oca" "export --safetensors b.oca" \
        "sample ${model[*]} -s s.json --samples 0:1" "report b.oca" "merge p.oca q.oca"; do
        # shellcheck disable=SC2086 # words without blanks
        ousac "${arguments%% *} to $name" 2 "--output $name: this is not written to standard output; expected the name of a file" \
            $arguments -o $name
    done
done
check "no file of that name" test ! -e ./-
ousac "an evaluation of a bundle from a pipe" 0 "calibrated against exact" eval "${model[@]}" -b <(cat b.oca) --samples 16:20 -q
ousac "with its own digest" 0 "ok" verify <(cat b.oca) <(cat p.oca) <(cat s.json)
ousac "a profile from pipes" 0 "" profile -m <(cat dit/model.safetensors) --config dit/config.json -s <(cat s.json) --samples 0:4 \
    --weights-plain -q -o piped.oca
ousac "is the same" 0 "equal" diff p.oca piped.oca
ousac "a pipe in place of standard input" 0 "schedule" inspect /dev/stdin < <(cat s.json)

# --- too few file handles are the system's refusal ---
for handles in 3 4 5 6 7 8; do
    for arguments in "inspect b.oca" "verify b.oca" "eval ${model[*]} -b b.oca --samples 16:20 -q" \
        "pack ${model[*]} -p p.oca --plan plan.oca -q -o few.oca" "plot ranks b.oca --term"; do
        # shellcheck disable=SC2086 # words without blanks
        (ulimit -n $handles && exec "$OUSAC" $arguments) >out 2>err
        code=$?
        if [ $code = 0 ] || [ $code = 1 ] || [ $code = 127 ]; then pass "${arguments%% *} with $handles file handles"; else
            echo "exit code $code" >>err
            fail "${arguments%% *} with $handles file handles"
        fi
    done
done

finish
