#!/bin/bash
# The engine against PyTorch running the shipped model.py, on the shipped weights: relative error at most 1e-4.
# Skipped (77) where no Python with torch is found. BUILD, TORCH_PYTHON as `make test` sets them.
set -u
python=${TORCH_PYTHON:-python3}
model=data/shapes-dit
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" -c 'import torch' 2>/dev/null || {
    echo "no Python with torch"
    exit 77
}
"$python" - "$scratch" <<'EOF'
import array, random, sys
random.seed(1)
cases = [(999, 3), (980, 10), (700, 0), (421, 9), (123, 5), (20, 10), (1, 7), (0, 2)]
for name, kind, values in (("x.f32", "f", [random.gauss(0, 1) for _ in range(len(cases) * 3 * 32 * 32)]),
                           ("t.f32", "f", [t for t, _ in cases]), ("labels.i32", "i", [y for _, y in cases])):
    with open(f"{sys.argv[1]}/{name}", "wb") as file:
        array.array(kind, values).tofile(file)
EOF
"$python" tests/interop/dit_torch.py "$model" --x "$scratch/x.f32" --t "$scratch/t.f32" \
    --labels "$scratch/labels.i32" --out "$scratch/torch.f32" || exit 1
"${BUILD:-build}/tests/interop/dit_forward" "$model/model.safetensors" 0 "$scratch/x.f32" "$scratch/t.f32" \
    "$scratch/labels.i32" "$scratch/ousac.f32" || exit 1
"$python" - "$scratch" <<'EOF'
import array, math, sys
def read(name):
    values = array.array("f")
    with open(f"{sys.argv[1]}/{name}", "rb") as file:
        values.frombytes(file.read())
    return values
ours, theirs = read("ousac.f32"), read("torch.f32")
assert len(ours) == len(theirs) == 8 * 3072, (len(ours), len(theirs))
worst = 0
for i in range(8):
    a, b = ours[i * 3072:(i + 1) * 3072], theirs[i * 3072:(i + 1) * 3072]
    worst = max(worst, math.sqrt(sum((u - v) ** 2 for u, v in zip(a, b)) / sum(v * v for v in b)))
print(f"worst relative error against PyTorch: {worst:.2e}")
if not worst <= 1e-4:
    print("0 passed, 1 failed")
    sys.exit(1)
print("1 passed, 0 failed")
EOF
