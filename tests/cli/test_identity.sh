#!/usr/bin/env bash
# What decides a trajectory is part of a model's identity in every command: noise levels, prediction, guided channels,
# inputs. Files of version 1 are read as they are.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_identity.sh
set -u
. "$(dirname "$0")/../support/harness.bash"
export OPENBLAS_NUM_THREADS=1

"$MAKE_DIT" dit && "$MAKE_DIT" other 2 || exit 1
"$OUSAC" schedule --steps 6 --scale 3 --cfg 0:6:2 --period 3 --name six -o s.json -q || exit 1
"$PYTHON" - <<'PYTHON' || exit 1
import json, struct

config = json.load(open("dit/config.json"))
for name, change in (("betas", {"betas": "scaled_linear 0.00085 0.012 1000"}), ("v", {"prediction": "v_prediction"}),
                     ("guided", {"guided_channels": 2}),
                     ("same", {"betas": "linear 0.0001 0.02 1000", "prediction_type": "epsilon", "guided_channels": 3})):
    config_of = dict(config, **change)
    if name == "same":
        del config_of["prediction"]
    json.dump(config_of, open(name + ".json", "w"))

def tensors(path, **values):
    header, data = {}, b""
    for name, (dtype, shape, packed) in values.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)

tensors("labels.safetensors", label=("I64", [2], struct.pack("<2q", 1, 3)))
tensors("others.safetensors", label=("I64", [2], struct.pack("<2q", 1, 4)))
tensors("text.safetensors", pooled=("F32", [1, 2], struct.pack("<2f", 1, 2)))
PYTHON

m=(-m dit/model.safetensors) ms=(-m dit/model.safetensors -s s.json)
ousac "a profile" 0 "" profile "${ms[@]}" --samples 0:4 --weights-plain -o p.oca
ousac "its other half" 0 "" profile "${ms[@]}" --samples 4:8 --weights-plain -o q.oca
ousac "merge" 0 "" merge p.oca q.oca -o pq.oca
ousac "a pilot" 0 "" profile "${ms[@]}" --pilot --pilot-samples 4 -o w.oca
ousac "a plan" 0 "" allocate "${m[@]}" --profile pq.oca --budget-step 0.5 --method uniform --forecast off -o plan.oca
ousac "a bundle" 0 "" pack "${m[@]}" --profile pq.oca --plan plan.oca -o b.oca

for other in betas v guided; do
    case $other in
    betas) why='noise levels diffusion/1000/[0-9a-f]*, and this one predicts epsilon' ;;
    v) why='and this one predicts v' ;;
    guided) why='and this one predicts epsilon, guidance on 2 of 3 channels' ;;
    esac
    c=(--config "$other.json")
    ousac "$other: a profile of its own" 0 "" profile "${ms[@]}" "${c[@]}" --samples 8:12 --weights-plain -o "$other.oca"
    ousac "$other: merge" 4 "predicts epsilon, guidance on" merge p.oca "$other.oca" -o x.oca
    ousac "$other: weights" 4 "$why" profile "${ms[@]}" "${c[@]}" --samples 8:12 --weights w.oca -o x.oca
    ousac "$other: allocate" 4 "$why" allocate "${m[@]}" "${c[@]}" --profile p.oca --budget-step 0.5 -o x.oca
    ousac "$other: pack" 4 "$why" pack "${m[@]}" "${c[@]}" --profile pq.oca --plan plan.oca -o x.oca
    ousac "$other: verify" 3 "$why" verify "${m[@]}" "${c[@]}" p.oca plan.oca b.oca
    check "$other: verify refuses all three" test "$(grep -c FAILED out)" = 3
    ousac "$other: eval" 4 "$why" eval "${m[@]}" "${c[@]}" --bundle b.oca --samples 20:24
    ousac "$other: sample" 4 "$why" sample "${m[@]}" "${c[@]}" --bundle b.oca --samples 20:24 -o x.png
    ousac "$other: forced" 0 "warning: .*$why" sample "${m[@]}" "${c[@]}" --bundle b.oca --samples 20:24 -o y.png --force
    check "$other: nothing was left" test ! -e x.oca -a ! -e x.png
done
ousac "the same in other words" 0 "b.oca: ok" verify "${m[@]}" --config same.json p.oca plan.oca b.oca

# --- an interrupted recording of another process is not gone on with ---
cp p.oca r.oca.part
ousac "resume: what is not a part" 4 "r.oca.part" profile "${ms[@]}" --config betas.json --samples 0:8 --weights-plain -o r.oca

# --- another file with the same corrected linears ---
"$PYTHON" - <<'PYTHON' || exit 1
import json, struct

data = bytearray(open("dit/model.safetensors", "rb").read())
size, = struct.unpack_from("<Q", data)
at = json.loads(data[8:8 + size])["final_layer.linear.bias"]["data_offsets"][0]
struct.pack_into("<f", data, 8 + size + at, 0.5)
open("dit/changed.safetensors", "wb").write(data)
PYTHON
ousac "matched by projections, and said so" 0 "note: .*another file, matched by the projections" \
    sample -m dit/changed.safetensors --bundle b.oca --samples 20:24 -o y.png
ousac "but not with other heads" 4 "constants of the forward are dit heads=2 .*, not dit heads=4" \
    sample -m dit/changed.safetensors --heads 4 --bundle b.oca --samples 20:24 -o x.png
ousac "nor the same file with other heads" 4 "not dit heads=4" sample "${m[@]}" --heads 4 --bundle b.oca --samples 20:24 -o x.png

# --- inputs ---
ousac "inputs: labels" 0 "" profile "${ms[@]}" --inputs labels.safetensors --samples 0:4 --weights-plain -o l.oca
ousac "inputs: other labels" 0 "" profile "${ms[@]}" --inputs others.safetensors --samples 4:8 --weights-plain -o o.oca
ousac "inputs: other files do not merge" 4 "different inputs" merge l.oca o.oca -o x.oca
ousac "inputs: nor with drawn ones" 4 "different inputs: drawn and" merge p.oca o.oca -o x.oca
ousac "inputs: the same ones do" 0 "" profile "${ms[@]}" --inputs labels.safetensors --samples 4:8 --weights-plain -o l2.oca
ousac "inputs: and so they do" 0 "" merge l.oca l2.oca -o ll.oca
ousac "inputs: weights of others" 4 "other --inputs" profile "${ms[@]}" --inputs labels.safetensors --samples 0:4 --weights w.oca -o x.oca
ousac "inputs: samples say their row" 0 "class 3" sample --json "${ms[@]}" --inputs labels.safetensors --samples 1:2 --micro-batch 1 -o y.png
ousac "inputs: text is none of a DiT's" 3 "text.safetensors: tensor pooled: a model of family dit has no such input" \
    profile "${ms[@]}" --inputs text.safetensors --samples 0:4 -o x.oca

# --- version 1 ---
v1=$ROOT/tests/golden/v1
ousac "version 1: verified" 0 "bundle.oca: ok" verify -m "$v1/model.safetensors" "$v1/profile.oca" "$v1/plan.oca" "$v1/bundle.oca"
ousac "version 1: a note" 0 "note: .*version 1, which does not say" sample -m "$v1/model.safetensors" --bundle "$v1/bundle.oca" \
    --samples 20:24 -o y.png
ousac "version 1: a plan of an old profile" 0 "" allocate -m "$v1/model.safetensors" --profile "$v1/profile.oca" \
    --budget-step 0.75 --method uniform --forecast off -o old.oca
ousac "version 1: tokens chosen by an unknown rule" 4 "by which rule" merge "$v1/tokens.oca" "$v1/tokens.oca" -o x.oca
check "nothing was left" test ! -e x.oca -a ! -e x.png

finish
