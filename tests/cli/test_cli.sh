#!/usr/bin/env bash
# Command line tests of ousac: options, messages, exit codes, JSON, interruption, files left behind.
#
#   OUSAC=build/ousac DATA=data bash tests/cli/test_cli.sh
#
# PYTHON names the interpreter (python3). Works in a temporary directory and removes it.
# shellcheck disable=SC2016 # scripts in single quotes are for `bash -c` and Python

set -u
. "$(dirname "$0")/../support/harness.bash"

# silent NAME FILE: `out` or `err` is empty.
silent() {
    if [ -s "$2" ]; then fail "$1: $2 is not empty" "it has: $(head -c 400 "$2")"; else pass; fi
}
# one_line NAME: the message on standard error is exactly one line.
one_line() {
    if [ "$(wc -l <err)" -eq 1 ]; then pass; else fail "$1: stderr is not one line" "$(head -c 400 err)"; fi
}
# empty NAME DIRECTORY: nothing, not even a temporary file, was left there.
empty() {
    if [ -z "$(ls -A "$2")" ]; then pass; else fail "$1: left behind: $(ls -A "$2")"; fi
}
# holds NAME EXPRESSION ARGUMENT...: a Python expression over the arguments `a` is true.
holds() {
    if "$PYTHON" -c 'import json, struct, sys
a = sys.argv[2:]
sys.exit(0 if eval(sys.argv[1]) else 1)' "${@:2}" 2>py_err; then
        pass
    else
        fail "$1: not true: $2" "$(tail -n 1 py_err)"
    fi
}

# ---------------------------------------------------------------- program

exits "no command" 2 "$OUSAC"
silent "no command" out
exits "--help" 0 "$OUSAC" --help
silent "--help" err
for text in "Exit codes:" "130  interrupted" calibrate schedule profile merge allocate pack eval sample inspect verify diff; do
    says "--help" out "$text"
done
exits "--version" 0 "$OUSAC" --version
holds "--version is a version" '__import__("re").fullmatch(r"ousac \d+\.\d+\.\d+\n", open("out").read())'
exits "unknown command" 2 "$OUSAC" inspekt
says "unknown command" err "the nearest is 'inspect'"
exits "unknown command, far from any" 2 "$OUSAC" xyzzyx
says "unknown command, far from any" err "ousac --help"
exits "help of an unknown command" 2 "$OUSAC" help nothing

for command in calibrate schedule profile merge allocate pack eval sample inspect verify diff; do
    exits "$command --help" 0 "$OUSAC" "$command" --help
    silent "$command --help" err
    says "$command --help" out "usage: ousac $command"
    says "$command --help" out "Example"
    says "$command --help" out "build/ousac $command"
    says "$command --help" out "--json"
    cp out help
    exits "help $command" 0 "$OUSAC" help "$command"
    if cmp -s out help; then pass; else fail "help $command is not $command --help"; fi
    exits "$command, help beside nonsense" 0 "$OUSAC" "$command" --no-such-option --help
    exits "$command, unknown option" 2 "$OUSAC" "$command" --no-such-option
    one_line "$command, unknown option"
    says "$command, unknown option" err "ousac $command: unknown option '--no-such-option'"
    exits "$command, misspelt option" 2 "$OUSAC" "$command" --jsno
    says "$command, misspelt option" err "the nearest is '--json'"
    exits "$command, unknown letter" 2 "$OUSAC" "$command" -Z
    exits "$command, JSON error" 2 "$OUSAC" "$command" --threads 0 --json
    json "$command, JSON error" 'r["error"]["status"] == "usage" and "--threads" in r["error"]["message"]' out
    exits "$command, full standard output" 1 bash -c '"$0" "$1" --help >/dev/full' "$OUSAC" "$command"
    says "$command, full standard output" err "standard output"
done

# ---------------------------------------------------------------- values of options

exits "not a number" 2 "$OUSAC" schedule --steps ten --cfg none --period 3
says "not a number" err "--steps expects a whole number from 1 to 100000, not 'ten'"
exits "too small" 2 "$OUSAC" schedule --steps 0 --cfg none --period 3
exits "negative" 2 "$OUSAC" schedule --steps -5 --cfg none --period 3
exits "with a blank" 2 "$OUSAC" schedule --steps ' 5' --cfg none --period 3
exits "hexadecimal" 2 "$OUSAC" schedule --steps 0x10 --cfg none --period 3
exits "beyond 64 bits" 2 "$OUSAC" schedule --steps 99999999999999999999999 --cfg none --period 3
exits "not finite" 2 "$OUSAC" schedule --scale inf --period 3
exits "overflowing real" 2 "$OUSAC" schedule --scale 1e999 --period 3
exits "empty text" 2 "$OUSAC" schedule --cfg '' --period 3
exits "forgotten value" 2 "$OUSAC" schedule --cfg --period 3
says "forgotten value" err "--cfg expects LIST"
exits "value missing at the end" 2 "$OUSAC" schedule --period
exits "given twice" 2 "$OUSAC" schedule --cfg none --period 3 --period 4
says "given twice" err "--period is given twice"
exits "a flag with a value" 2 "$OUSAC" schedule --cfg none --uncached=1
exits "stray argument" 2 "$OUSAC" schedule --cfg none --period 3 stray
says "stray argument" err "'stray'"
exits "stray argument after --" 2 "$OUSAC" schedule --cfg none --period 3 -- --json
exits "required option" 2 "$OUSAC" sample --schedule s.json
says "required option" err "--model FILE is required"
for range in 5:5 6:5 a:b 0 : 1: :0 -1:4 0:99999999999999999999; do
    exits "range '$range'" 2 "$OUSAC" sample --model "$MODEL" --schedule s.json -o x.png --samples "$range"
    says "range '$range'" err "--samples expects FIRST:END"
done
exits "--name=value" 0 "$OUSAC" schedule --steps=4 --scale=-1.5 --period=2 --name=--odd--
holds "--name=value" 'json.load(open("out"))["name"] == "--odd--" and json.load(open("out"))["steps"][0]["scale"] == -1.5'
exits "--quiet" 0 "$OUSAC" schedule --cfg none --period 3 --quiet -o quiet.json
silent "--quiet" err
silent "--quiet" out

# ---------------------------------------------------------------- schedule

# steps FILE: indices of guided and of full steps, from the file itself
steps() {
    "$PYTHON" -c 'import json, sys
s = json.load(open(sys.argv[1]))["steps"]
print([i for i, x in enumerate(s) if x["mode"] == "cfg"], [i for i, x in enumerate(s) if x["gate"] == "full"])' "$1"
}
same() { if [ "$2" = "$3" ]; then pass; else fail "$1" "got      $2" "expected $3"; fi; }

exits "schedule to standard output" 0 "$OUSAC" schedule --steps 10 --scale 4 --cfg 0,3:9:2 --period 4 --name t
says "schedule to standard output" err "10 steps, ddim, 4 guided (scale 4), 3 refreshes"
mv out s.json
same "lists of guided steps" "$(steps s.json)" "[0, 3, 5, 7] [0, 4, 8]"
exits "schedule to a file" 0 "$OUSAC" schedule --steps 10 --scale 4 --cfg 0,3:9:2 --period 4 --name t -o t.json
if cmp -s s.json t.json; then pass; else fail "a schedule on standard output is not the one in a file"; fi
exits "schedule --json" 0 "$OUSAC" schedule --steps 10 --scale 4 --cfg 0,3:9:2 --period 4 --json -o t.json
json "schedule --json" 'r["steps"] == 10 and r["guided_steps"] == 4 and r["forwards"] == {"full": 4, "cached": 10, "reuse": 0, "extrapolate": 0} and len(r["digest"]) == 64' out
exits "schedule --json without a file" 2 "$OUSAC" schedule --cfg none --period 3 --json

exits "scales" 0 "$OUSAC" schedule --steps 8 --scales 5@0:8:2,4,3@2,2.5@7 --full 0,6 -o t.json
holds "scales: later items override" '[s.get("scale") for s in json.load(open("t.json"))["steps"]] == [5, None, 3, None, 5, None, 5, 2.5]'
same "--full" "$(steps t.json)" "[0, 2, 4, 6, 7] [0, 6]"
exits "unguided steps of the other branch" 0 "$OUSAC" schedule --steps 4 --cfg none --other uncond --uncached -o t.json
holds "unguided steps of the other branch" '{s["mode"] for s in json.load(open("t.json"))["steps"]} == {"uncond"}'
same "--uncached" "$(steps t.json)" "[] [0, 1, 2, 3]"
exits "--gates auto" 0 "$OUSAC" schedule --steps 4 --scale 2 --gates auto -o t.json
says "--gates auto" err "gates left to the plan"
holds "--gates auto" '{s["gate"] for s in json.load(open("t.json"))["steps"]} == {"auto"}'
exits "--gate reuse" 0 "$OUSAC" schedule --steps 4 --scale 2 --period 2 --gate reuse -o t.json
holds "--gate reuse" '[s["gate"] for s in json.load(open("t.json"))["steps"]] == ["full", "reuse"] * 2'

exits "--solver" 0 "$OUSAC" schedule --steps 4 --scale 2 --period 2 --solver dpmpp-2m -o t.json
says "--solver" err "4 steps, dpmpp-2m,"
holds "--solver" 'json.load(open("t.json"))["solver"] == "dpmpp-2m"'
exits "unknown solver" 2 "$OUSAC" schedule --steps 4 --scale 2 --period 2 --solver euler -o t.json
says "unknown solver" err "--solver expects ddim, dpmpp-2m or flow-euler, not 'euler'"

exits "spacing of flow-euler" 0 "$OUSAC" schedule --steps 4 --cfg none --uncached --solver flow-euler -o t.json
holds "spacing of flow-euler" '[s["timestep"] for s in json.load(open("t.json"))["steps"]] == [1000, 750, 500, 250]'
exits "flow-euler has one spacing" 2 "$OUSAC" schedule --steps 4 --cfg none --uncached --solver flow-euler --spacing leading -o t.json
exits "spacing of dpmpp-2m" 0 "$OUSAC" schedule --steps 4 --cfg none --uncached --solver dpmpp-2m -o t.json
holds "spacing of dpmpp-2m" '[s["timestep"] for s in json.load(open("t.json"))["steps"]] == [999, 749, 500, 250]'

echo '{"_class_name": "DDIMScheduler", "clip_sample": false, "steps_offset": 1}' >scheduler_config.json
exits "--from" 0 "$OUSAC" schedule --from scheduler_config.json --steps 4 --scale 2 --period 2 --name theirs -o t.json
says "--from" err "DDIMScheduler, for a model that predicts epsilon, over 1000 timesteps of the betas"
holds "--from" '[s["timestep"] for s in json.load(open("t.json"))["steps"]] == [751, 501, 251, 1]'
holds "--from, gates and name" '[s["gate"] for s in json.load(open("t.json"))["steps"]] == ["full", "cached"] * 2 and json.load(open("t.json"))["name"] == "theirs"'
exits "--from excludes --spacing" 2 "$OUSAC" schedule --from scheduler_config.json --spacing leading --cfg none --uncached -o t.json
says "--from excludes --spacing" err "it excludes --spacing"
exits "--size without --from" 2 "$OUSAC" schedule --size 64x64 --cfg none --uncached -o t.json
echo '{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}' >scheduler_config.json
exits "a size that is none" 2 "$OUSAC" schedule --from scheduler_config.json --size 64 --cfg none --uncached -o t.json
says "a size that is none" err "--size expects HEIGHTxWIDTH"
exits "--from by size" 0 "$OUSAC" schedule --from scheduler_config.json --size 1024x1024 --steps 4 --cfg none --uncached -o t.json
holds "--from by size" 'abs(json.load(open("t.json"))["steps"][2]["timestep"] - 1000 / (1 + 2.718281828 ** -1.15)) < 1e-4'

for spacing in linspace leading trailing; do
    exits "spacing $spacing" 0 "$OUSAC" schedule --steps 7 --train-steps 101 --spacing $spacing --cfg none --period 2 -o t.json
    holds "spacing $spacing" '[s["timestep"] for s in json.load(open("t.json"))["steps"]] == {
        "linspace": [int(100 - i * 100 / 6 + 0.5) for i in range(7)],
        "leading": [(6 - i) * (101 // 7) for i in range(7)],
        "trailing": [int((7 - i) * 101 / 7 + 0.5) - 1 for i in range(7)]}[a[0]]' $spacing
done
for placement in "17 1" "17 1.2" "17 2.5" "17 0.4" "50 3" "1 2" "2 9" "49 0.1"; do
    count=${placement% *}
    exits "refreshes $placement" 0 "$OUSAC" schedule --steps 50 --cfg none --refreshes "$count" --power "${placement#* }" -o t.json
    holds "refreshes $placement: as many as asked for" 'len([s for s in json.load(open("t.json"))["steps"] if s["gate"] == "full"]) == int(a[0])' "$count"
done
exits "refreshes, no collisions" 0 "$OUSAC" schedule --steps 50 --cfg none --refreshes 6 --power 1.5 -o t.json
holds "refreshes, no collisions" '[i for i, s in enumerate(json.load(open("t.json"))["steps"]) if s["gate"] == "full"] == [int(49 * (1 - (1 - k / 5) ** 1.5) + 0.5) for k in range(6)]'

conflict() {
    exits "conflict: $*" 2 "$OUSAC" schedule "$@"
    one_line "conflict: $*"
}
conflict --period 3
conflict --cfg 0,5 --period 3
conflict --cfg none --scale 3 --period 3
conflict --scales 3@0 --scale 3 --period 3
conflict --scales 3@0 --cfg all --period 3
conflict --cfg none
conflict --cfg none --period 3 --refreshes 4
conflict --cfg none --period 3 --uncached
conflict --cfg none --gates auto --full 0
conflict --cfg none --period 3 --power 2
conflict --cfg none --uncached --gate reuse
conflict --cfg none --gates auto --gate cached
conflict --cfg none --gates full
conflict --cfg none --period 3 --gate full
conflict --cfg none --period 3 --other cfg
conflict --cfg none --period 3 --spacing even
conflict --cfg none --refreshes 51
conflict --cfg none --period 3 --steps 60 --train-steps 50
for list in 50 0:51 5:5 0:10:0 1,,2 '1,' ',' a 0:10:2:3 -1 99999999999999999999; do
    conflict --scale 3 --cfg="$list" --period 3
done
for list in @3 3@ x@3 3@50 1,3@2 '3@1,' nan@1; do
    conflict --scales="$list" --period 3
done

# ---------------------------------------------------------------- malformed schedules

edit() { "$PYTHON" -c 'import json, sys
j = json.load(open("s.json"))
exec(sys.argv[2])
json.dump(j, open(sys.argv[1], "w"))' "$1" "$2"; }
malformed() { # NAME EDIT TEXT...
    edit bad.json "$2"
    exits "schedule: $1" 3 "$OUSAC" inspect bad.json
    one_line "schedule: $1"
    says "schedule: $1" err bad.json
    for text in "${@:3}"; do says "schedule: $1" err "$text"; done
    exits "verify, schedule: $1" 3 "$OUSAC" verify bad.json
    says "verify, schedule: $1" out "bad.json: FAILED"
}
malformed "wrong step count" 'j["step_count"] = 11' step_count
malformed "unknown mode" 'j["steps"][2]["mode"] = "both"' both
malformed "unknown gate" 'j["steps"][2]["gate"] = "ajar"' ajar
malformed "unknown key" 'j["colour"] = 1' colour
malformed "no steps" 'j["steps"] = []; j["step_count"] = 0'
malformed "timesteps that rise" 'j["steps"][3]["timestep"] = 999.5'
malformed "scale beside cond" 'j["steps"][1]["scale"] = 2'
malformed "missing scale" 'del j["steps"][0]["scale"]'
head -c 200 s.json >bad.json
exits "schedule: cut short" 3 "$OUSAC" inspect bad.json
exits "schedule: in sample" 3 "$OUSAC" sample --model "$MODEL" --schedule bad.json -o x.png
exits "schedule: missing file" 1 "$OUSAC" inspect missing.json
says "schedule: missing file" err "missing.json"
exits "schedule: a directory" 1 "$OUSAC" inspect .
: >empty
exits "an empty file" 3 "$OUSAC" inspect empty
head -c 1000 /dev/zero >zeros
exits "zeros" 3 "$OUSAC" inspect zeros

# ---------------------------------------------------------------- checkpoints

exits "inspect a checkpoint" 0 "$OUSAC" inspect "$MODEL"
says "inspect a checkpoint" out "12 blocks, 64 tokens, width 192"
exits "inspect --json a checkpoint" 0 "$OUSAC" inspect --json --tensors "$MODEL"
# 12 N d^2 + 2 N^2 d + 6 d^2 for each block
json "inspect --json a checkpoint" 'r["kind"] == "safetensors" and len(r["tensors"]) == 132 and r["model"]["forward_macs"] == 12 * (12 * 64 * 192**2 + 2 * 64**2 * 192 + 6 * 192**2)' out
exits "verify a checkpoint" 0 "$OUSAC" verify "$MODEL"
says "verify a checkpoint" out "ok (safetensors, 132 tensors, 16.4 MB)"

cp "$DATA/shapes-dit/config.json" config.json
head -c 1000000 "$MODEL" >short.safetensors
exits "verify, truncated checkpoint" 3 "$OUSAC" verify short.safetensors
exits "sample, truncated checkpoint" 3 "$OUSAC" sample --model short.safetensors --schedule s.json -o x.png
says "sample, truncated checkpoint" err short.safetensors
head -c 20 "$MODEL" >header.safetensors
exits "truncated header" 3 "$OUSAC" verify header.safetensors
exits "missing checkpoint" 1 "$OUSAC" sample --model missing.safetensors --schedule s.json -o x.png

"$PYTHON" - "$MODEL" nan.safetensors <<'PY'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
tensor = header["blocks.3.attn.qkv.weight"]
assert tensor["dtype"] == "BF16"
at = 8 + size + tensor["data_offsets"][0] + 40
data[at:at + 2] = struct.pack("<H", 0x7fc0)
open(sys.argv[2], "wb").write(data)
PY
exits "sample, NaN weight" 5 "$OUSAC" sample --model nan.safetensors --schedule s.json -o x.png
says "sample, NaN weight" err "blocks.3.attn.qkv.weight"
exits "verify, NaN weight" 3 "$OUSAC" verify nan.safetensors
says "verify, NaN weight" out "blocks.3.attn.qkv.weight"
exits "inspect shows a checkpoint that cannot be run" 0 "$OUSAC" inspect nan.safetensors
says "inspect shows a checkpoint that cannot be run" out "cannot be run"

# ---------------------------------------------------------------- sample

# A PNG decoder for 8-bit RGB without interlacing (the PNG specification, third edition).
cat >png.py <<'PY'
import struct, zlib

def paeth(a, b, c):
    p = a + b - c
    return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]

def decode(path):
    """(width, height, rows of 3 * width bytes)"""
    data = open(path, "rb").read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", body)
            assert (depth, colour, interlace) == (8, 2, 0)
        if kind == b"IDAT":
            packed += body
        at += 12 + size
    raw, stride, rows = zlib.decompress(packed), 3 * width, []
    assert len(raw) == height * (1 + stride)
    for y in range(height):
        kind, line = raw[y * (1 + stride)], bytearray(raw[y * (1 + stride) + 1:(y + 1) * (1 + stride)])
        above = rows[-1] if rows else bytes(stride)
        for x in range(stride):
            left, corner = (line[x - 3], above[x - 3]) if x >= 3 else (0, 0)
            line[x] = line[x] + [0, left, above[x], (left + above[x]) // 2, paeth(left, above[x], corner)][kind] & 255
        rows.append(line)
    return width, height, rows
PY

"$OUSAC" schedule --steps 5 --scale 3 --cfg 0:5:2 --period 3 --name short -q -o short.json
exits "sample" 0 "$OUSAC" sample --model "$MODEL" --schedule short.json --samples 0:2 --micro-batch 2 --rows exact,reuse --zoom 2 --raw a.oca -o a.png
says "sample" out "reuse"
# a margin of (5 + 1) characters of 12 pixels, 2 pixels around every cell of 64
same "sample: a PNG of the size expected" "$("$PYTHON" -c 'import png; print(*png.decode("a.png")[:2])')" \
    "$((72 + 2 + 2 * 66)) $((2 + 2 * 66))"
# Every pixel of every cell against the raw samples, which a decoder of its own reads.
PYTHONPATH=$ROOT/tests/interop "$PYTHON" - <<'PY' >out 2>err
import array, sys
import oca_decode, png
try:
    archive = oca_decode.Archive(open("a.oca", "rb").read())
    tensors = {name: array.array("f", tensor.decode_f32()) for name, tensor in archive.tensors.items()}
except oca_decode.NoZstd as missing:
    sys.exit(77)
rows = png.decode("a.png")[2]
for r, name in enumerate(("samples/exact", "samples/reuse")):
    for sample in range(2):
        for y in range(64):
            for x in range(64):
                for c in range(3):
                    value = tensors[name][((sample * 3 + c) * 32 + y // 2) * 32 + x // 2]
                    wanted = min(max((value + 1) * 127.5, 0), 255)
                    got = rows[2 + 66 * r + y][3 * (74 + 66 * sample + x) + c]
                    assert abs(got - wanted) < 0.51, (name, sample, y, x, c, value, got)
PY
case $? in
0) pass ;;
77) skip "pixels against raw samples: no Zstandard for Python" ;;
*) fail "pixels against raw samples" "$(tail -n 1 err)" ;;
esac
exits "verify raw samples" 0 "$OUSAC" verify a.oca
says "verify raw samples" out "ok (archive, 2 tensors"
exits "inspect raw samples" 0 "$OUSAC" inspect --json a.oca
json "inspect raw samples" '[t["name"] for t in r["tensors"]] == ["samples/exact", "samples/reuse"] and r["tensors"][0]["shape"] == [2, 3, 32, 32]' out
exits "sample --json" 0 "$OUSAC" sample --json --threads 1 --model "$MODEL" --schedule short.json --samples 0:2 --micro-batch 2 --rows exact,reuse --zoom 2 --raw b.oca -o b.png
json "sample --json" '[r["row"] for r in r["rows"]] == ["exact", "reuse"] and len(r["inputs"]) == 2 and r["rows"][0]["forwards"] == {"full": 16, "cached": 0, "reuse": 0, "extrapolate": 0} and 0 < r["rows"][1]["relative_error"]["mean"] < 1' out
exits "the same samples again" 0 cmp a.oca b.oca
exits "the same picture again" 0 cmp a.png b.png
for rows in exact,exact nothing 'exact,' calibrated; do
    exits "rows '$rows'" 2 "$OUSAC" sample --model "$MODEL" --schedule short.json --rows "$rows" -o x.png
done
exits "neither schedule nor bundle" 2 "$OUSAC" sample --model "$MODEL" -o x.png
exits "a plan without a bundle" 2 "$OUSAC" sample --model "$MODEL" --schedule short.json --plan default -o x.png
exits "unaligned samples" 2 "$OUSAC" sample --model "$MODEL" --schedule short.json --samples 1:3 -o x.png
exits "a bundle that is a schedule" 3 "$OUSAC" sample --model "$MODEL" --bundle short.json -o x.png

# ---------------------------------------------------------------- outputs that cannot be written

# Checked before the model is run, so that a long run cannot end in vain.
mkdir clean
exits "directory missing" 1 "$OUSAC" sample --model "$MODEL" --schedule short.json -o clean/none/x.png
says "directory missing" err "clean/none/x.png"
exits "directory is a file" 1 "$OUSAC" schedule --cfg none --period 3 -o s.json/x.json
exits "output is a directory" 1 "$OUSAC" schedule --cfg none --period 3 -o clean
exits "a file system that refuses" 1 "$OUSAC" schedule --cfg none --period 3 -o /proc/x.json
exits "output is a device" 1 "$OUSAC" schedule --cfg none --period 3 -o /dev/full
if [ -c /dev/full ]; then pass; else fail "output is a device: /dev/full was replaced"; fi
exits "schedule to a full standard output" 1 bash -c '"$0" schedule --cfg none --period 3 >/dev/full' "$OUSAC"
exits "inspect to a full standard output" 1 bash -c '"$0" inspect s.json >/dev/full' "$OUSAC"
empty "outputs that cannot be written" clean
if [ "$(id -u)" -eq 0 ]; then
    skip "a directory without write permission: root may write anywhere"
else
    mkdir locked && chmod 555 locked
    exits "a directory without write permission" 1 "$OUSAC" schedule --cfg none --period 3 -o locked/x.json
    empty "a directory without write permission" locked
fi
exits "an older file survives a failure" 3 "$OUSAC" sample --model short.safetensors --schedule short.json -o a.png
exits "an older file survives a failure" 0 cmp a.png b.png

# ---------------------------------------------------------------- interruption

interrupt() { # SIGNAL COMMAND...: sends it once the command catches it and has had half a second to work
    "$PYTHON" - "$@" <<'PY'
import signal, subprocess, sys, time
number = getattr(signal, sys.argv[1])
reset = lambda: signal.signal(number, signal.SIG_DFL)
p = subprocess.Popen(sys.argv[2:], preexec_fn=reset, stdout=open("out", "w"), stderr=open("err", "w"))
end = time.time() + 60
while time.time() < end and p.poll() is None:
    line = [l for l in open("/proc/%d/status" % p.pid) if l.startswith("SigCgt")]
    if line and int(line[0].split()[1], 16) >> (number - 1) & 1:
        break
    time.sleep(0.01)
time.sleep(0.5)
p.send_signal(number)
sys.exit(p.wait(60) & 255)
PY
}
for signal in SIGINT SIGTERM; do
    interrupt $signal "$OUSAC" sample --model "$MODEL" --schedule "$DATA/schedules/constant.json" --samples 0:400 -o clean/x.png --raw clean/x.oca
    same "sample, $signal: exit code" "$?" 130
    says "sample, $signal" err "ousac sample:"
    one_line "sample, $signal"
    empty "sample, $signal" clean
done

# ---------------------------------------------------------------- profiles, plans, bundles

profile() { "$OUSAC" profile -q --model "$MODEL" --schedule short.json --micro-batch 2 --seed 4 "$@" >out 2>err || fail "profile $*" "$(cat err)"; }
profile --pilot --pilot-samples 2 -o pilot.oca
profile --weights pilot.oca --samples 0:4 -o p.oca
profile --weights pilot.oca --samples 0:2 -o p0.oca
profile --weights pilot.oca --samples 2:4 -o p1.oca
profile --weights pilot.oca --samples 8:10 -o p2.oca

exits "merge" 0 "$OUSAC" merge -o m.oca p0.oca p1.oca
says "merge" out "2 profiles, 4 samples (0:4)"
exits "merge in another order" 0 "$OUSAC" merge -o n.oca p1.oca p0.oca
exits "merge in another order: the same file" 0 cmp m.oca n.oca
exits "merged parts are the whole" 0 "$OUSAC" diff --tolerance 1e-12 p.oca m.oca
exits "merge --json" 0 "$OUSAC" merge --json -o n.oca m.oca p2.oca
json "merge --json" 'r["samples"] == 6 and r["ranges"] == [[0, 4], [8, 10]] and r["profiles"] == 2' out
exits "run costs of a merged profile" 0 "$OUSAC" inspect --json n.oca
json "run costs of a merged profile" 'len(r["run"]) == 3 and all("wall_s" in r for r in r["run"])' out
exits "merge, overlapping samples" 4 "$OUSAC" merge -o clean/x.oca p.oca p1.oca
says "merge, overlapping samples" err "p1.oca"
exits "merge, other weights" 4 "$OUSAC" merge -o clean/x.oca p0.oca pilot.oca
exits "merge, one file" 2 "$OUSAC" merge -o clean/x.oca p.oca
exits "merge, no profile" 3 "$OUSAC" merge -o clean/x.oca p.oca s.json
exits "merge, missing file" 1 "$OUSAC" merge -o clean/x.oca p.oca missing.oca
empty "merge that fails" clean

"$OUSAC" allocate -q --model "$MODEL" --profile p.oca --method uniform --budget-step 0.25 -o plan.oca >out 2>err || fail "allocate" "$(cat err)"
"$OUSAC" allocate -q --model "$MODEL" --profile p.oca --method uniform --budget-step 0.2 -o plan2.oca >out 2>err || fail "allocate" "$(cat err)"
"$OUSAC" pack -q --model "$MODEL" --profile p.oca --plan plan.oca -o bundle.oca >out 2>err || fail "pack" "$(cat err)"

for file in p.oca pilot.oca plan.oca bundle.oca; do
    exits "verify $file" 0 "$OUSAC" verify --model "$MODEL" --schedule short.json $file
    says "verify $file" out "$file: ok ("
    exits "inspect $file" 0 "$OUSAC" inspect $file
    exits "inspect --json $file" 0 "$OUSAC" inspect --json --tensors $file
    json "inspect --json $file" 'r["kind"] in ("profile", "plan", "bundle") and len(r["tensors"]) >= 1' out
    cp $file renamed.txt
    exits "the kind of $file is told from its content" 0 "$OUSAC" inspect renamed.txt
    exits "verify $file, cut short" 3 bash -c 'head -c $(($(stat -c %s "$1") - 64)) "$1" >cut.oca; "$0" verify cut.oca' "$OUSAC" $file
done
exits "verify several" 3 "$OUSAC" verify --json p.oca cut.oca bundle.oca
json "verify several" 'r["failed"] == 1 and [f["ok"] for f in r["files"]] == [True, False, True]' out
exits "verify, another schedule" 3 "$OUSAC" verify --schedule s.json bundle.oca p.oca
same "verify, another schedule: both fail" "$(grep -c FAILED out)" 2
exits "verify, missing file" 3 "$OUSAC" verify missing.oca
exits "verify, no file" 2 "$OUSAC" verify
exits "inspect, two files" 2 "$OUSAC" inspect p.oca m.oca
exits "inspect a bundle" 0 "$OUSAC" inspect --json bundle.oca
json "inspect a bundle" 'len(r["plans"]) == 1 and len(r["plans"][0]["ranks"]) == 72 and 0.2 < r["plans"][0]["cached_step"] <= 0.25' out

# Every byte of the file counts: damage in the header, the index, a factor and the padding of the last chunk.
for place in 3 20 70 2000 100000 1000000 -1; do
    "$PYTHON" -c 'import sys
d = bytearray(open("bundle.oca", "rb").read())
d[int(sys.argv[1])] ^= 0x40
open("damaged.oca", "wb").write(d)' $place
    exits "verify, byte $place damaged" 3 "$OUSAC" verify damaged.oca
done

exits "diff, equal" 0 "$OUSAC" diff p.oca p.oca
says "diff, equal" out equal
exits "diff, profiles" 1 "$OUSAC" diff --json p0.oca p1.oca
json "diff, profiles" 'not r["equal"] and "ranges" in [f["field"] for f in r["identity"]] and any(t["tensor"].startswith("moment/") and t["max_abs"] > 0 for t in r["tensors"])' out
exits "diff, plans" 1 "$OUSAC" diff --json plan.oca plan2.oca
json "diff, plans" 'len(r["ranks"]) == 72 and all(r["a"] > r["b"] for r in r["ranks"])' out
exits "diff, schedules" 1 "$OUSAC" diff --json s.json t.json
json "diff, schedules" 'r["kind"] == "schedule" and len(r["steps"]) == 50' out
exits "diff, a schedule and itself" 0 "$OUSAC" diff --json s.json s.json
json "diff, a schedule and itself" 'r["equal"] and r["steps"] == []' out
exits "diff, files of two kinds" 4 "$OUSAC" diff p.oca plan.oca
exits "diff, a checkpoint" 3 "$OUSAC" diff "$MODEL" "$MODEL"
exits "diff, one file" 2 "$OUSAC" diff p.oca
exits "diff, missing file" 1 "$OUSAC" diff p.oca missing.oca

exits "sample with a bundle" 0 "$OUSAC" sample --json --model "$MODEL" --bundle bundle.oca --samples 4:6 --micro-batch 2 -o c.png
json "sample with a bundle" '[r["row"] for r in r["rows"]] == ["exact", "calibrated", "reuse"] and r["rows"][1]["relative_error"]["mean"] < r["rows"][2]["relative_error"]["mean"]' out
exits "sample, the bundle's own schedule" 0 "$OUSAC" sample --model "$MODEL" --bundle bundle.oca --schedule short.json --samples 2 --micro-batch 2 --rows calibrated -o c.png
exits "sample, another schedule" 4 "$OUSAC" sample --model "$MODEL" --bundle bundle.oca --schedule s.json --samples 2 --micro-batch 2 -o clean/x.png
says "sample, another schedule" err "schedule"
exits "sample, another schedule, forced" 0 "$OUSAC" sample --force --model "$MODEL" --bundle bundle.oca --schedule s.json --samples 2 --micro-batch 2 --rows calibrated -o c.png
says "sample, another schedule, forced" err "warning"
"$PYTHON" - "$MODEL" other.safetensors <<'PY'
import json, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
size = struct.unpack("<Q", data[:8])[0]
tensor = json.loads(data[8:8 + size])["blocks.0.mlp.fc1.weight"]
assert tensor["dtype"] == "BF16"
first, end = (8 + size + offset for offset in tensor["data_offsets"])
values = struct.unpack("<%dH" % ((end - first) // 2), data[first:end])
data[first:end] = struct.pack("<%dH" % len(values), *reversed(values))
open(sys.argv[2], "wb").write(data)
PY
exits "sample, another model" 4 "$OUSAC" sample --model other.safetensors --bundle bundle.oca --samples 2 --micro-batch 2 -o clean/x.png
exits "sample, another model, forced" 0 "$OUSAC" sample --force --model other.safetensors --bundle bundle.oca --samples 2 --micro-batch 2 --rows calibrated -o c.png
says "sample, another model, forced" err "warning"
exits "verify, another model" 3 "$OUSAC" verify --model other.safetensors bundle.oca p.oca plan.oca
same "verify, another model: all fail" "$(grep -c FAILED out)" 3
exits "sample, unknown plan" 2 "$OUSAC" sample --model "$MODEL" --bundle bundle.oca --plan none -o clean/x.png
exits "sample, damaged bundle" 3 "$OUSAC" sample --model "$MODEL" --bundle damaged.oca -o clean/x.png
empty "sample that fails" clean

# ---------------------------------------------------------------- schedules with fitted coefficients

sed -n '/"version": 2/,/^```/p' "$ROOT/formats/SCHEDULE.md" | sed '/^```/d; 1i {"format": "ousac-schedule",' >fitted.json
exits "inspect a fitted schedule" 0 "$OUSAC" inspect --json fitted.json
json "inspect a fitted schedule" '[s["c"] for s in r["steps"]] == [0, 0.25, 0.125] and r["steps"][1]["hold"] == 2' out
exits "the digest of the document" 0 grep -q "$("$PYTHON" -c 'import json; print(json.load(open("out"))["digest"])')" "$ROOT/formats/SCHEDULE.md"
exits "inspect a fitted schedule, as text" 0 "$OUSAC" inspect fitted.json
says "inspect a fitted schedule, as text" out "-0.06250"
sed 's/"m": 0.03125/"m": 0.03/' fitted.json >moved.json
exits "diff of a coefficient" 1 "$OUSAC" diff fitted.json moved.json
says "diff of a coefficient" out "m 0.03125"
exits "verify a fitted schedule" 0 "$OUSAC" verify fitted.json

# ---------------------------------------------------------------- schedules that tell the model a guidance

sed -n '/"version": 3/,/^```/p' "$ROOT/formats/SCHEDULE.md" | sed '/^```/d; 1i {"format": "ousac-schedule",' >told.json
exits "inspect a telling schedule" 0 "$OUSAC" inspect --json told.json
json "inspect a telling schedule" '[s.get("guidance") for s in r["steps"]] == [3.5, 5, None] and r["told_steps"] == 2' out
exits "the digest of the document, version 3" 0 grep -q "$("$PYTHON" -c 'import json; print(json.load(open("out"))["digest"])')" "$ROOT/formats/SCHEDULE.md"
exits "inspect a telling schedule, as text" 0 "$OUSAC" inspect told.json
says "inspect a telling schedule, as text" out "2 told (guidance 3.5 to 5)"
sed 's/"guidance": 5/"guidance": 4/' told.json >moved.json
exits "diff of guidance" 1 "$OUSAC" diff told.json moved.json
says "diff of guidance" out "guidance 4"
exits "verify a telling schedule" 0 "$OUSAC" verify told.json
exits "schedule --guidance, by step" 0 "$OUSAC" schedule --steps 4 --solver flow-euler --guidance 3.5@0:2,5@3 --uncached -o by.json
exits "schedule --guidance, one" 0 "$OUSAC" schedule --steps 4 --solver flow-euler --guidance 3.5 --scale 2 --uncached -o one.json
exits "what is told" 0 "$PYTHON" -c 'import json
by, one = (json.load(open(name)) for name in ("by.json", "one.json"))
assert [s.get("guidance") for s in by["steps"]] == [3.5, 3.5, None, 5] and {s["mode"] for s in by["steps"]} == {"cond"}
assert [s["guidance"] for s in one["steps"]] == [3.5] * 4 and [s["scale"] for s in one["steps"]] == [2] * 4'
for list in x 3@9 @1 3@ "3,"; do
    exits "schedule --guidance $list" 2 "$OUSAC" schedule --steps 4 --guidance "$list" --uncached -o clean/s.json
    says "schedule --guidance $list" err "--guidance expects"
done
"$OUSAC" schedule --steps 4 --guidance 3.5 --uncached -q -o ddim.json
exits "no model without an embedder is told" 2 "$OUSAC" sample --model "$MODEL" --schedule ddim.json -o clean/x.png
says "no model without an embedder is told" err "has no guidance embedder"
exits "the export of a schedule that tells" 6 "$OUSAC" export --sd-cpp one.json -o clean/line
says "the export of a schedule that tells" err "guidance"
empty "guidance that fails" clean

# ---------------------------------------------------------------- shipped schedules

exits "data/schedules/fitted15.json" 0 "$OUSAC" verify "$DATA/schedules/fitted15.json"
for name in constant sparse none; do
    exits "data/schedules/$name.json" 0 "$OUSAC" verify "$DATA/schedules/$name.json"
    # The command that made it stands in the README beside it.
    command=$(grep -o "build/ousac schedule .*-o data/schedules/$name.json" "$DATA/schedules/README.md")
    arguments=${command#build/ousac } arguments=${arguments% -o *}
    read -r -a words <<<"$arguments"
    exits "the command of $name.json" 0 "$OUSAC" "${words[@]}" -o again.json
    exits "the command of $name.json writes it" 0 cmp again.json "$DATA/schedules/$name.json"
done

finish
