#!/bin/bash
# The engine against PyTorch running the shipped model.py, on the weights of every shipped DiT: relative error of the
# predicted noise at most 1e-4. Skipped (77) where no Python with torch is found. BUILD, TORCH_PYTHON as `make test`
# sets them.
set -u
. "$(dirname "$0")/../support/harness.bash"
python=${TORCH_PYTHON:-python3}

"$python" -c 'import torch' 2>/dev/null || {
    echo "no Python with torch"
    exit 77
}

# Eight inputs over the whole range of timesteps, the unconditional label at two of them.
inputs() { # DIR
    "$python" - "$1" "$WORK" <<'EOF'
import array, json, random, sys
with open(f"{sys.argv[1]}/config.json") as file:
    config = json.load(file)
random.seed(1)
size, classes = config["in_channels"] * config["input_size"] ** 2, config["num_classes"]
cases = [(999, 3), (980, classes), (700, 0), (421, classes - 1), (123, 5), (20, classes), (1, 7), (0, 2)]
for name, kind, values in (("x.f32", "f", [random.gauss(0, 1) for _ in range(len(cases) * size)]),
                           ("t.f32", "f", [t for t, _ in cases]), ("labels.i32", "i", [y for _, y in cases])):
    with open(f"{sys.argv[2]}/{name}", "wb") as file:
        array.array(kind, values).tofile(file)
EOF
}

compare() { # DIR
    "$python" - "$1" "$WORK" <<'EOF'
import array, json, math, sys
def read(name):
    values = array.array("f")
    with open(f"{sys.argv[2]}/{name}", "rb") as file:
        values.frombytes(file.read())
    return values
with open(f"{sys.argv[1]}/config.json") as file:
    config = json.load(file)
size = config["in_channels"] * config["input_size"] ** 2
stride = 2 * size if config["learn_sigma"] else size   # PyTorch's output goes on with the variances
ours, theirs = read("ousac.f32"), read("torch.f32")
assert len(ours) == 8 * size and len(theirs) == 8 * stride, (len(ours), len(theirs))
worst = 0
for i in range(8):
    a, b = ours[i * size:(i + 1) * size], theirs[i * stride:i * stride + size]
    worst = max(worst, math.sqrt(sum((u - v) ** 2 for u, v in zip(a, b)) / sum(v * v for v in b)))
print(f"{sys.argv[1]}: worst relative error against PyTorch: {worst:.2e}")
sys.exit(not worst <= 1e-4)
EOF
}

# agrees DIR
agrees() {
    inputs "$1" &&
        "$python" "$ROOT/tests/interop/dit_torch.py" "$1" --x x.f32 --t t.f32 --labels labels.i32 --out torch.f32 &&
        "$BUILD/tests/interop/dit_forward" "$1/model.safetensors" 0 x.f32 t.f32 labels.i32 ousac.f32 && compare "$1"
}

for model in "$DATA"/*-dit/model.safetensors; do
    model=${model%/*}
    check "${model##*/}" agrees "$model"
    rm -f ./*.f32
done
finish
