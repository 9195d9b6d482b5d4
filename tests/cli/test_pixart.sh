#!/usr/bin/env bash
# A model that is told captions, on the command line: looked at, sampled, calibrated, and what is said where its inputs
# do not fit.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_pixart.sh
set -u
. "$(dirname "$0")/../support/harness.bash"
MAKE=$(realpath "${BUILD:-build}")/tests/tools/make_pixart
FILE=diffusion_pytorch_model.safetensors

check "a model" "$MAKE" m 1 5
check "one without inputs of the unconditional branch" "$MAKE" half 1 5 0
check "one that is told no sizes" "$MAKE" told 1 5 1 0
check "a schedule" "$OUSAC" schedule --steps 6 --scale 4.5 --cfg 0:6:2 --period 3 --name plain -o s.json
check "one without guidance" "$OUSAC" schedule --steps 4 --cfg none --period 2 --name alone -o alone.json
model=(-m "m/$FILE" --inputs m/inputs.safetensors)

ousac "the model looked at" 0 "model     pixart: 2 blocks, 9 tokens, width 24, 16 sites" inspect "m/$FILE"
keep
check "its captions" grep -q "stream    caption: 5 tokens" stdout
check "and what is constant" grep -q "constant  4 linears, .* once a sample and branch" stdout
ousac "the model as JSON" 0 "" inspect "m/$FILE" --json
keep
json "tells its streams" "r['model']['family'] == 'pixart' and r['model']['streams'][1] == {'name': 'caption', 'tokens': 5}"
json "and its constant groups" "r['model']['constant_macs'] == 5 * (24 * 7 + 24 * 24) + 2 * 5 * 48 * 24"
ousac "the inputs looked at" 0 "inputs    of 5 samples; sample j takes row j mod 5" inspect m/inputs.safetensors
keep
check "with the lengths of their captions" grep -q "prompt_mask: 1 to 5 of 5 tokens" stdout
ousac "the inputs as JSON" 0 "" inspect m/inputs.safetensors --json
keep
json "hold the same" "r['inputs']['rows'] == 5 and r['inputs']['negative_prompt_mask']['tokens_least'] == 1"

ousac "no inputs" 2 "is told captions: give an inputs file with prompt_embeds and prompt_mask" \
    sample -m "m/$FILE" -s s.json --samples 0:2 -o x.png
dry=(profile -s s.json --samples 0:4 --micro-batch 2 --dry-run -o dry.oca)
ousac "a dry run with captions" 0 "would write dry.oca" "${dry[@]}" "${model[@]}"
ousac "a dry run without" 2 "is told captions: give an inputs file" "${dry[@]}" -m "m/$FILE"
ousac "a dry run of a calibration without" 2 "is told captions: give an inputs file" calibrate -m "m/$FILE" -s s.json --dry-run -o dry
"$OUSAC" schedule --steps 4 --cfg none --guidance 3 --period 2 -q -o told.json
for refused in "half/inputs.safetensors s.json negative_prompt_embeds" "m/inputs.safetensors told.json guidance.embedder" \
    "m/inputs.safetensors absent.json absent.json" "absent.safetensors s.json absent.safetensors"; do
    read -r inputs schedule why <<<"$refused"
    "$OUSAC" profile -m "m/$FILE" --inputs "$inputs" -s "$schedule" --samples 0:4 --micro-batch 2 --dry-run -o dry.oca >out 2>err
    check "a dry run refuses $inputs $schedule" test $? != 0 -a "$(wc -l <err)" = 1
    check "a dry run says $why" grep -q "$why" err
done
ousac "a dry run of too many segments" 2 "the schedule has" "${dry[@]}" "${model[@]}" --segments 500
ousac "a dry run of too many tokens" 2 "the model has 9 tokens" "${dry[@]}" "${model[@]}" --tokens 10
ousac "a dry run of absent weights" 1 "absent.oca" "${dry[@]}" "${model[@]}" --weights absent.oca
check "dry runs write nothing" test ! -e dry.oca -a ! -e dry
ousac "guidance without negative prompts" 2 "mode cfg, but the inputs file for half/$FILE has no negative_prompt_embeds" \
    sample -m "half/$FILE" --inputs half/inputs.safetensors -s s.json --samples 0:2 -o x.png
ousac "no guidance, and none needed" 0 "" \
    sample -m "half/$FILE" --inputs half/inputs.safetensors -s alone.json --samples 0:2 -o x.png
ousac "sizes for a model that is told none" 3 "tensor resolution: a model of family pixart has no such input" \
    sample -m "told/$FILE" --inputs m/inputs.safetensors -s s.json --samples 0:2 -o x.png

ousac "a calibration" 0 "" calibrate "${model[@]}" -s s.json --samples 8 --validation 4 --test 4 --method uniform -q -o cal
ousac "its bundle" 0 "" verify cal/bundle.oca -m "m/$FILE"
ousac "samples with it" 0 "calibrated" sample "${model[@]}" -b cal/bundle.oca --samples 0:4 -o y.png
ousac "its evaluation" 0 "" eval "${model[@]}" -b cal/bundle.oca --samples 100:104
ousac "captions for a model that takes none" 2 "inputs-output: a DiT-S/2 takes no captions" \
    synth --preset DiT-S/2 --depth 1 -o synth.safetensors --inputs-output no.safetensors
check "which wrote nothing" test ! -e synth.safetensors
finish
