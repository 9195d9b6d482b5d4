#!/usr/bin/env bash
# Every command that computes, on a device, with small models of all three families and plans that do have factors of
# low rank: that each ends well. Called by the tests that choose the plug-in; skipped (77) where no device can be opened.
#
#     OUSAC=build/ousac BUILD=build DATA=data [OUSAC_CUDA_PLUGIN=FILE] [DEVICE=cuda] bash tests/gpu/test_commands.sh [DIRECTORY]
#
# What they write is left in DIRECTORY, for comparisons. On the emulation, which takes minutes for a second, what runs the
# same operations as others do, and the largest model, are left out.
set -u

AT=$(realpath -m "${1:-/nonexistent}")
. "$(dirname "$0")/../support/harness.bash"
[ $# -gt 0 ] || AT=$WORK
DEVICE=${DEVICE:-cuda}

"$MAKE_DIT" dit >/dev/null && "$BUILD/tests/tools/make_pixart" pixart || exit 1
"$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 --name short -o s.json -q &&
    "$OUSAC" schedule --steps 6 --scale 3 --period 1 --name today -o today.json -q &&
    "$OUSAC" schedule --steps 3 --scale 3 --period 2 --name even -o even.json -q &&
    "$OUSAC" schedule --solver flow-euler --steps 4 --scale 3 --period 2 --name flux -o flux.json -q || exit 1
model=(-q -m dit/model.safetensors --device "$DEVICE")
"$OUSAC" sample "${model[@]}" -s s.json --samples 1 -o probe.png >out 2>err
case $? in
0) ;;
6) head -n 1 err && exit 77 ;;
*) cat err && exit 1 ;;
esac
mkdir -p "$AT"
few=(--samples 4 --validation 2 --test 2 --micro-batch 2 --threads 2)
whole=1
case ${OUSAC_CUDA_PLUGIN:-} in *emulated*) whole=0 ;; esac
low='[1-9][0-9]* low rank'

# --- from the model to the bundle, in one go and step by step ---
ousac "calibrate" 0 "$low" calibrate "${model[@]}" -s s.json "${few[@]}" --budget-step 0.6 -o "$AT/dit"
ousac "scaled factors" 0 "" calibrate "${model[@]}" -s s.json "${few[@]}" --budget-step 0.6 --factors cd-svd --forecast off --method uniform -o "$AT/scaled"
ousac "profile" 0 "" profile "${model[@]}" -s s.json --samples 0:4 --micro-batch 2 --magnitudes --segments 2 --tokens 2 --pilot-samples 2 --reproducible -o "$AT/p.oca"
for factors in delta-cov svd ca-svd cd-svd; do
    ousac "allocate, $factors" 0 "" allocate "${model[@]}" -p "$AT/p.oca" --budget-step 0.6 --method uniform,knapsack --factors $factors --granularity 1 --rank-min 1 -o plan.oca
    for dtype in auto i8; do
        ousac "pack $dtype, $factors" 0 "" pack "${model[@]}" -p "$AT/p.oca" --plan plan.oca --factors $factors --dtype $dtype --keep-all -o "$AT/$factors.$dtype.oca"
    done
done
ousac "regions and descent" 0 "plan ships" allocate "${model[@]}" -p "$AT/p.oca" --budget-step 0.6 --method regions,descent --evaluations 4 \
    --validate 4:6 --forecast auto -o plan.oca

# --- what a bundle is used for ---
bundle=(-b "$AT/dit/bundle.oca")
ousac "eval" 0 "calibrated" eval "${model[@]}" "${bundle[@]}" --samples 8:10 --micro-batch 2 -o "$AT/eval.json"
ousac "eval, calibrating anew" 0 "calibrated" eval "${model[@]}" "${bundle[@]}" -s today.json --samples 8:10 --micro-batch 2 --recalibrate-samples 4
ousac "sample" 0 "" sample "${model[@]}" "${bundle[@]}" --samples 2 -o sample.png --raw "$AT/sample.safetensors"
ousac "fit" 0 "" fit "${model[@]}" --reference today.json --steps 3 --samples 4 --validation 2 --test 2 --newton 1 --micro-batch 2 -o "$AT/fitted.json"
ousac "fit with a cache" 0 "" fit "${model[@]}" --reference today.json "${bundle[@]}" --samples 4 --validation 2 --test 2 --micro-batch 2 -o "$AT/fitted.cached.json"
[ $whole = 0 ] || ousac "refit" 0 "" refit "${model[@]}" --reference today.json -s "$AT/fitted.json" --samples 8:10 --settings seed,scale --fitting 4 --validation 2 --micro-batch 2
ousac "time" 0 "" time "${model[@]}" -s even.json --ranks 2,4 --repeat 1 --micro-batch 2 -o time.json

# --- searches ---
ousac "place" 0 "" place "${model[@]}" -s s.json --budget-step 0.6 --samples 2 --probe-samples 2 --evaluations 2 --full 2 --micro-batch 2 --threads 1 -o "$AT/placed.json"
[ $whole = 0 ] || ousac "compare" 0 "regions|ours" compare "${model[@]}" -s s.json --period 2 --budget-step 0.6 --evaluations 4 --calibration 8 --validation 2 --samples 24:26 --micro-batch 2
methods=goc
[ $whole = 0 ] || methods=reuse,extrapolation,goc,ca-svd
ousac "compare with published methods" 0 "goc" compare "${model[@]}" --reference today.json --budget-total 0.5 --method $methods --calibration 24 \
    --validation 2 --samples 40:42 --micro-batch 2
[ $whole = 0 ] || ousac "search" 0 "" calibrate "${model[@]}" --reference today.json --budget-total 0.5 --effort quick "${few[@]}" --evaluations 2 -o "$AT/searched"

# --- other families ---
ousac "PixArt" 0 "$low" calibrate -q -m pixart/diffusion_pytorch_model.safetensors --inputs pixart/inputs.safetensors --device "$DEVICE" -s s.json "${few[@]}" \
    --budget-step 0.6 -o "$AT/pixart"
[ $whole = 0 ] || ousac "FLUX.1" 0 "$low" calibrate -q -m "$DATA/shapes-flux/model.safetensors" --inputs "$DATA/shapes-flux/prompts.safetensors" --device "$DEVICE" -s flux.json "${few[@]}" \
    --budget-step 0.3 --method uniform --forecast off -o "$AT/flux"

finish
