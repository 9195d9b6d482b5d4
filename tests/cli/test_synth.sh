#!/usr/bin/env bash
# `ousac synth` from the command line: what it writes, that the other commands take it, its refusals, and that
# nothing is left where it fails.
#
#   OUSAC=build/ousac DATA=data bash tests/cli/test_synth.sh
#
# PYTHON names the interpreter (python3). Works in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
SCHEDULE=$DATA/schedules/sparse.json

# only NAME DIRECTORY FILE...: these files are there and no others.
only() {
    local name=$1 there
    there=$(cd "$2" && find . -mindepth 1 | sort | tr '\n' ' ')
    shift 2
    if [ "$there" = "$(printf './%s\n' "$@" | sort | sed '/^\.\/$/d' | tr '\n' ' ')" ]; then
        pass
    else fail "$name: found $there" "expected $*"; fi
}
tiny=(--preset DiT-S/2 --depth 1 --tokens 4)

# --- help ---
exits "--help" 0 "$OUSAC" synth --help
for text in "usage: ousac synth" "Example" "build/ousac synth" --preset --input-size --profile FLUX-shape; do
    says "--help" out "$text"
done
cp out help
exits "help synth" 0 "$OUSAC" help synth
if cmp -s out help; then pass; else fail "help synth is not synth --help"; fi
exits "ousac --help" 0 "$OUSAC" --help
says "ousac --help" out "synth "

# --- what it writes ---
mkdir one two
exits "synth" 0 "$OUSAC" synth "${tiny[@]}" -o one/m.safetensors --profile one/p.oca -s "$SCHEDULE"
says "synth" out "synthetic DiT-S/2, 1 blocks, 4 tokens"
only "synth" one m.safetensors config.json p.oca
exits "synth --json" 0 "$OUSAC" synth "${tiny[@]}" -o two/m.safetensors --profile two/p.oca -s "$SCHEDULE" --json --threads 1
json "synth --json" 'r["preset"] == "DiT-S/2" and r["depth"] == 1 and r["tokens"] == 4 and r["config"] == "two/config.json"' out
json "sizes" 'all(r[k] == __import__("os").path.getsize(f) for k, f in (("bytes", "two/m.safetensors"), ("profile_bytes", "two/p.oca")))' out
if diff -r one two >/dev/null; then pass; else fail "two runs differ"; fi
exits "another seed" 0 "$OUSAC" synth "${tiny[@]}" --seed 1 -o two/m.safetensors
if cmp -s one/m.safetensors two/m.safetensors; then fail "another seed, the same weights"; else pass; fi
exits "f32" 0 "$OUSAC" synth "${tiny[@]}" --dtype f32 --json -o two/m.safetensors
json "f32" 'abs(r["bytes"] / r["parameters"] - 4) < 0.01' out
exits "the largest, shortened" 0 "$OUSAC" synth --preset DiT-XL/2 --depth 1 --input-size 4 --json -o two/xl.safetensors --config-output two/xl.json
json "the largest, shortened" 'r["tokens"] == 4 and r["config"] == "two/xl.json"' out
"$PYTHON" - two/xl.safetensors >shapes <<'PY'
import json, struct, sys
f = open(sys.argv[1], "rb")
h = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
m = h.pop("__metadata__")
print(m["synthetic"], m["preset"], m["seed"], sorted(m) == sorted("synthetic preset seed depth tokens ousac_version".split()))
for name in ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc2.weight", "y_embedder.embedding_table.weight", "x_embedder.proj.weight"):
    print(name, h[name]["dtype"], h[name]["shape"])
PY
cat >wanted <<'EOF'
true DiT-XL/2 0 True
blocks.0.attn.qkv.weight BF16 [3456, 1152]
blocks.0.mlp.fc2.weight BF16 [1152, 4608]
y_embedder.embedding_table.weight BF16 [1001, 1152]
x_embedder.proj.weight BF16 [1152, 4, 2, 2]
EOF
if cmp -s shapes wanted; then pass; else fail "header of the largest" "$(cat shapes)"; fi

# --- the other commands take it ---
exits "inspect the model" 0 "$OUSAC" inspect --json one/m.safetensors
exits "inspect the profile" 0 "$OUSAC" inspect one/p.oca
says "inspect the profile" out "48 (0:48)"
exits "verify" 0 "$OUSAC" verify one/m.safetensors one/p.oca
exits "sample" 0 "$OUSAC" sample -m one/m.safetensors -s "$SCHEDULE" --samples 0:4 --rows exact,reuse -o grid.png
exits "allocate" 0 "$OUSAC" allocate -m one/m.safetensors -p one/p.oca --method uniform -o plan.oca
exits "pack" 0 "$OUSAC" pack -m one/m.safetensors -p one/p.oca --plan plan.oca -o b.oca
exits "verify the bundle" 0 "$OUSAC" verify b.oca
exits "sample with the bundle" 0 "$OUSAC" sample -m one/m.safetensors -b b.oca --samples 48:52 --rows exact,calibrated -o grid.png

# --- refusals ---
mkdir no
denied() { # NAME CODE TEXT OPTION...
    local name=$1 code=$2 text=$3
    shift 3
    exits "$name" "$code" "$OUSAC" synth "$@"
    says "$name" err "$text"
    if [ "$(wc -l <err)" = 1 ]; then pass; else fail "$name: stderr is not one line"; fi
    only "$name" no
}
denied "unknown preset" 2 "DiT-XL/2, DiT-L/2, DiT-B/2, DiT-S/2, FLUX-shape" --preset DiT-H/2 -o no/m.safetensors
denied "no preset" 2 "--preset" -o no/m.safetensors
denied "no output" 2 "--output" --preset DiT-S/2
denied "tokens that are no square" 2 "--tokens: 5 tokens: expected a square" --preset DiT-S/2 --tokens 5 -o no/m.safetensors
denied "an odd input size" 2 "multiple of the patch" --preset DiT-S/2 --input-size 5 -o no/m.safetensors
denied "both sizes" 2 "exclude each other" --preset DiT-S/2 --input-size 4 --tokens 4 -o no/m.safetensors
denied "unknown dtype" 2 "--dtype expects bf16 or f32, not 'f16'" "${tiny[@]}" --dtype f16 -o no/m.safetensors
denied "a profile without a schedule" 2 "--schedule" "${tiny[@]}" --profile no/p.oca -o no/m.safetensors
denied "a schedule without a profile" 2 "--profile" "${tiny[@]}" -s "$SCHEDULE" -o no/m.safetensors
denied "no such schedule" 1 "none.json" "${tiny[@]}" -s no/none.json --profile no/p.oca -o no/m.safetensors
denied "no such directory" 1 "missing" "${tiny[@]}" -o missing/m.safetensors
denied "config elsewhere, no such directory" 1 "missing" "${tiny[@]}" --config-output missing/c.json -o no/m.safetensors
"$OUSAC" schedule --steps 4 --cfg none --gates auto -o auto.json -q
denied "gates left to a plan" 2 "auto.json" "${tiny[@]}" -s auto.json --profile undecided.oca -o undecided.safetensors
mkdir other
echo '{"hidden_size": 5}' >other/config.json
exits "another model's config" 2 "$OUSAC" synth "${tiny[@]}" -o other/m.safetensors
says "another model's config" err "other/config.json exists and is of another model"
only "another model's config" other config.json
exits "a config under another name" 0 "$OUSAC" synth "${tiny[@]}" -o other/m.safetensors --config-output other/m.json
exits "a config under another name, loaded" 0 "$OUSAC" sample -m other/m.safetensors --config other/m.json -s "$SCHEDULE" --samples 0:4 -o grid.png
if grep -q '"hidden_size": 5}' other/config.json; then pass; else fail "another model's config was lost"; fi

# --- a full disk, an interruption ---
# A limit on the size of files stands in for a full disk. bash counts in KiB: the weights take 11 MB.
full() (
    trap '' XFSZ
    ulimit -f 4000
    "$OUSAC" synth "${tiny[@]}" -o no/m.safetensors
)
exits "a full disk" 1 full
says "a full disk" err "no/m.safetensors"
only "a full disk" no
"$OUSAC" synth --preset DiT-L/2 -q -o no/m.safetensors >out 2>err &
pid=$!
for _ in $(seq 200); do
    [ -n "$(find no -name '.*.tmp')" ] && break
    sleep 0.05
done
kill -TERM $pid
wait $pid
got=$?
if [ $got = 130 ]; then pass; else fail "an interruption: exit code $got, expected 130"; fi
only "an interruption" no

finish
