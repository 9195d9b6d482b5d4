#!/usr/bin/env bash
# What a file is, is told from its content and said; and what `verify` passes, every command reads.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_kinds.sh
set -u
. "$(dirname "$0")/../support/harness.bash"

check "a model" "$BUILD/tests/tools/make_dit" dit
check "a schedule" "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 --name plain -o s.json
check "a calibration" "$OUSAC" calibrate -m dit/model.safetensors -s s.json --samples 8 --validation 4 --test 4 --method uniform \
    --forecast off -q -o cal
model=(-m dit/model.safetensors)

# --- files of other programs, as a model, as an archive, as a schedule, and to look at ---
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n' >lfs
printf '<!DOCTYPE html>\n<html>Not found</html>\n' >html
printf 'GGUF\3\0\0\0\1\0\0\0\0\0\0\0' >gguf
printf 'PK\3\4\24\0\0\0\10\0archive/data.pkl' >zip
printf '\200\2}q\0.' >pickle
printf '{"metadata": {"total_size": 1}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}' >index
while read -r file words; do
    ousac "$file as a model" 3 "$file: is $words, expected a safetensors file" sample -m "$file" -s s.json --samples 0:1 -o x.png
    ousac "$file as a bundle" 3 "$file: is $words, expected an .oca archive" eval "${model[@]}" -b "$file" --samples 100:104
    ousac "$file as a schedule" 3 "$file: is $words, expected a schedule" profile "${model[@]}" -s "$file" --samples 0:4 -o x.oca
    [ "$file" = index ] && continue
    ousac "$file looked at" 3 "$file: is $words, expected an .oca archive, a safetensors file or a schedule" inspect "$file"
    ousac "$file verified" 3 "is $words" verify "$file"
done <<'EOF'
lfs a Git LFS pointer
html an HTML page
gguf a GGUF file
zip a zip archive
pickle a Python pickle
index an index of shards
EOF

# --- nor is an archive in its safetensors form one ---
check "a profile" "$OUSAC" profile "${model[@]}" -s s.json --samples 0:4 --weights-plain -q -o p.oca
check "its safetensors form" "$OUSAC" export --safetensors p.oca -o p.safetensors -q
ousac "an exported archive as a model" 6 "p.safetensors: what an ousac archive of format ousac-profile was exported to, no model; \`ousac import\`" \
    sample -m p.safetensors -s s.json --samples 0:1 -o x.png

# --- a model is also a folder, or an index of shards ---
ousac "inspect of a folder" 0 "weights   dit/model.safetensors" inspect dit
ousac "inspect --json of a folder" 0 "" inspect dit --json
keep
json "is the model in it" "r['kind'] == 'model' and r['weights'] == 'dit/model.safetensors' and r['model']['family'] == 'dit'"
mkdir shards empty && cp dit/config.json shards
"$PYTHON" - <<'EOF' || exit 1
import json
data = open("dit/model.safetensors", "rb").read()
size = int.from_bytes(data[:8], "little")
header, body = json.loads(data[8:8 + size]), data[8 + size:]
header.pop("__metadata__", None)
where = {}
for shard in range(2):
    name, part, out = f"model-0000{shard + 1}-of-00002.safetensors", {}, b""
    for i, (tensor, entry) in enumerate(sorted(header.items())):
        if i % 2 == shard:
            first, last = entry["data_offsets"]
            part[tensor] = dict(entry, data_offsets=[len(out), len(out) + last - first])
            out += body[first:last]
            where[tensor] = name
    text = json.dumps(part).encode()
    open("shards/" + name, "wb").write(len(text).to_bytes(8, "little") + text + out)
json.dump({"metadata": {}, "weight_map": where}, open("shards/model.safetensors.index.json", "w"))
EOF
ousac "inspect of an index of shards" 0 "model.safetensors.index.json, in shards" inspect shards/model.safetensors.index.json
digest=$("$OUSAC" inspect dit | grep ^digest)
ousac "the same model" 0 "$digest" inspect shards
ousac "inspect of a folder without a model" 1 "empty: a folder without weights" inspect empty
cp index lone.safetensors.index.json
ousac "inspect of an index without its shards" 1 "model-00001-of-00002.safetensors" inspect lone.safetensors.index.json

# --- the JSON texts of ousac are looked at too ---
echo '{"kind": "ousac search", "version": 1, "reference": {"name": "today", "steps": 50}}' >search.json
while read -r file kind words; do
    ousac "inspect of $file" 0 "$words" inspect "$file"
    ousac "inspect --json of $file" 0 "" inspect "$file" --json
    keep
    json "tells its kind" "r['kind'].replace(' ', '-') == '$kind' and isinstance(r['content'], dict)"
    ousac "verify of $file" 0 "ok .${kind//-/ }" verify "$file"
done <<'EOF'
cal/eval.json evaluation model_digest
cal/cost.json calibration-cost wall_s
search.json search reference
dit/config.json model-config num_heads
EOF
printf '{"kind": "ousac evaluation", }' >broken.json
ousac "a broken one does not verify" 3 "not valid JSON" verify broken.json

# --- verify reads what commands read ---
cat >spoil.py <<'EOF'
"""spoil.py OUSAC IN OUT EXPRESSION: an .oca archive with its metadata m and its tensors' bytes t(name) changed."""
import json, struct, subprocess, sys
ousac, source, target, change = sys.argv[1:]
subprocess.run([ousac, "export", "--safetensors", source, "-o", "t.st"], check=True, stdout=subprocess.DEVNULL)
data = bytearray(open("t.st", "rb").read())
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
m, body = header["__metadata__"], data[8 + size:]
def put(name, index, value):
    struct.pack_into("<f", body, header[name]["data_offsets"][0] + 4 * index, value)
exec(change)
text = json.dumps(header).encode()
open("t.st", "wb").write(struct.pack("<Q", len(text)) + text + body)
subprocess.run([ousac, "import", "t.st", "-o", target], check=True, stdout=subprocess.DEVNULL)
EOF
spoil() { check "$1" "$PYTHON" spoil.py "$OUSAC" "$2" "$3" "$4"; }
spoil "a bundle as it was" cal/bundle.oca same.oca "pass"
ousac "verifies" 0 "ok" verify same.oca
n=0
for provenance in '{bad' '[]' '{"seed": 1}' '{"seed": "1"}' '{"seed": "1", "calibration": [[4, 0]], "pilot": [], "validation": []}' \
    '{"seed": "18446744073709551616", "calibration": [], "pilot": [], "validation": []}'; do
    n=$((n + 1))
    spoil "a bundle of junk provenance $n" cal/bundle.oca junk.oca "m['provenance'] = '$provenance'"
    ousac "verify refuses it" 3 "junk.oca: FAILED" verify junk.oca
    ousac "as eval does" 3 "junk.oca" eval "${model[@]}" -b junk.oca --samples 100:104
done
spoil "a profile of junk runs" cal/profile.oca junk.oca "m['run'] = '{\"pilot\": 3}'"
ousac "verify refuses it" 3 "junk.oca: FAILED" verify junk.oca
spoil "samples that are not finite" cal/samples.oca nan.oca "put('samples/exact', 7, float('nan'))"
ousac "verify refuses them" 3 "nan.oca: FAILED: tensor \"samples/exact\": value 7 is not finite" verify nan.oca
cp -r cal nan
cp nan.oca nan/samples.oca
ousac "as the plots do" 5 "value 7 is not finite" plot samples nan -o plots
ousac "sound samples verify" 0 "ok" verify cal/samples.oca

finish
