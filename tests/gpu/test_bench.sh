#!/usr/bin/env bash
# bench-gpu's script from its first line to its last on the emulation, at sizes for which no device is needed: that every
# part runs, checks, and leaves its numbers. The numbers say nothing.
#
#     BUILD=build bash tests/gpu/test_bench.sh
set -u

BUILD=${BUILD:-build}
HERE=$(dirname "$0")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export OUSAC_CUDA_PLUGIN=$BUILD/tests/plugins/emulated_cuda.so
python=${TORCH_PYTHON:-${PYTHON:-python3}}
bench() { "$python" "$HERE/../bench/bench_gpu.py" --build "$BUILD" --eigen "$BUILD/tests/bench/emulated_bench_eigen" --toy "$@" -o "$WORK/gpu.json" >"$WORK/out" 2>&1; }

OUSAC_EMULATED_DEVICES=0 bench
if [ $? != 77 ] || [ -e "$WORK/gpu.json" ]; then
    echo "without a device: expected exit code 77 and no file"
    exit 1
fi
if ! bench; then
    cat "$WORK/out"
    exit 1
fi
"$python" - "$WORK/gpu.json" <<'PYTHON' || exit 1
import json
import sys

result = json.load(open(sys.argv[1]))
assert set(result["rates"]) == {"f32", "bf16"}
for rates in result["rates"].values():
    assert rates["flops_per_s"] > 0 and rates["bytes_per_s"] > 0 and len(rates["operations"]) == 8
assert [(a["tokens"], a["head_width"]) for a in result["attention"]] == [(16, 8), (40, 72)]
for attention in result["attention"]:
    assert attention["compute"]["f32"]["error"] < 1e-5 < attention["compute"]["bf16"]["error"] < 0.01
    assert all(a["seconds"] > 0 and a["flops"] > 0 for a in attention["compute"].values())
assert [f["compute"] for f in result["forward"]] == ["f32", "bf16"]
for forward in result["forward"]:
    assert 0 < forward["check"] < (1e-4 if forward["compute"] == "f32" else 0.05), forward["check"]
    assert forward["full"]["seconds"] > 0 and forward["full"]["times_floor"] > 0 and forward["cached"]["seconds"] > 0
    assert ("torch" in forward) == ("torch" in result)
    if "torch" in forward:
        assert forward["torch"]["best_seconds"] == min(forward["torch"]["seconds"].values()) > 0
assert result["forward"][1]["check"] > 1e-5  # bfloat16 it was
assert [(b["model"], b["compute"]) for b in result["blocks"]] == [(m, c) for m in ("shapes-pixart", "shapes-flux") for c in ("f32", "bf16")]
for blocks in result["blocks"]:
    for error in blocks["check"].values():
        assert 0 < error < (1e-4 if blocks["compute"] == "f32" else 0.05), blocks["check"]
    assert blocks["full"]["seconds"] > 0 and blocks["full"]["times_floor"] > 0 and blocks["cached"]["seconds"] > 0
assert len(result["profile"]) == 2 and all(p["whole_samples"] == 4 and p["whole_steps"] == 4 for p in result["profile"])
assert [e["order"] for e in result["eigen"]] == [8, 33]
assert all(e[kind] > 0 for e in result["eigen"] for kind in ("looped", "batched", "device", "processor"))
assert [f["seconds"]["sites"] for f in result["factors"]] == [12, 6]
for factors in result["factors"]:
    assert len(factors["kinds"]) == 4 and factors["seconds"]["threads"] == 2 and "left_out" not in factors
    for kind, answer in factors["kinds"].items():
        mine, least = answer["ousac"], answer["least"]
        assert least <= mine["left"] * (1 + 1e-9) and mine["left"] < mine["energy"], kind
        assert len(answer["torch"]) == (3 if "torch" in result else 0)
assert "torch" in result or any("PyTorch" in s["why"] for s in result["skipped"])
PYTHON
if ! bench --brief --parts factors --compute f32; then
    cat "$WORK/out"
    exit 1
fi
"$python" - "$WORK/gpu.json" <<'PYTHON' || exit 1
import json
import sys

result = json.load(open(sys.argv[1]))
first, second = result["factors"]
assert len(first["kinds"]) == 4 and "left_out" not in first and second["seconds"]["seconds"] > 0
if "torch" in result:
    answer = second["kinds"]["q"]
    mine, least = answer["ousac"], answer["least"]
    assert "energies of proj" in second["left_out"] and list(second["kinds"]) == ["q"]
    assert least <= mine["left_leading"] * (1 + 1e-5) < mine["energy"] and "left" not in mine and mine["each_seconds"] > 0
    assert sorted(answer["torch"]) == ["linalg.svd, float32", "svd_lowrank, float32"]
else:
    assert "all energies" in second["left_out"] and not second["kinds"]
PYTHON
echo "3 passed, 0 failed"
