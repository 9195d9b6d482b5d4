#!/usr/bin/env bash
# Text of strangers' files reaches neither a terminal nor a page as anything but text: no escape sequence, no control of C1,
# no line of its own; and what is written for machines is UTF-8, whatever paths and options hold.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_text.sh
set -u
. "$(dirname "$0")/../support/harness.bash"

check "a model" "$BUILD/tests/tools/make_dit" dit
check "a schedule" "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 --name plain -o s.json
check "a profile" "$OUSAC" profile -m dit/model.safetensors -s s.json --samples 0:4 --weights-plain -q -o p.oca
check "a plan" "$OUSAC" allocate -m dit/model.safetensors -p p.oca --method uniform --forecast off --budget-step 0.5 -q -o plan.oca
check "a bundle" "$OUSAC" pack -m dit/model.safetensors -p p.oca --plan plan.oca -q -o b.oca
check "an evaluation" "$OUSAC" eval -m dit/model.safetensors -b b.oca --samples 16:20 -q -o eval.json

# Escape sequence, C1 as a character, a line of its own, a right-to-left override.
evil=$'x\e]0;title\a\e[2J\u009b31m\nFAKE: ok\u202e'

# --- a checkpoint with such names, keys and values ---
check "a checkpoint" "$PYTHON" - "$evil" <<'EOF'
import json, struct, sys
evil = sys.argv[1]
header = json.dumps({"__metadata__": {"key " + evil: "value " + evil}, "w" + evil: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
open("names.safetensors", "wb").write(struct.pack("<Q", len(header)) + header + bytes(4))
EOF
# --- a bundle whose texts are such: every text of its metadata that may be any ---
cat >spoil.py <<'EOF'
"""spoil.py IN OUT TEXT: an .oca archive, its free texts replaced, its checksums made good by export and import."""
import json, struct, subprocess, sys
ousac, source, target, evil = sys.argv[1:]
subprocess.run([ousac, "export", "--safetensors", source, "-o", "t.st"], check=True, stdout=subprocess.DEVNULL)
data = open("t.st", "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
for key, value in header["__metadata__"].items():
    if key.endswith("/note") or key in ("note", "made_by", "tool", "backend") or key.endswith("/error_model"):
        header["__metadata__"][key] = value + evil
header["__metadata__"]["stranger " + evil] = evil
text = json.dumps(header).encode()
open("t.st", "wb").write(struct.pack("<Q", len(text)) + text + data[8 + size:])
subprocess.run([ousac, "import", "t.st", "-o", target], check=True, stdout=subprocess.DEVNULL)
EOF
for file in b p plan; do
    check "a spoilt $file.oca" "$PYTHON" spoil.py "$OUSAC" $file.oca evil-$file.oca "$evil"
done
check "that its text is there" grep -aq $'\e]0;title' evil-b.oca

# plain NAME ARGUMENT...: whatever the command says of it, nothing in it is obeyed.
plain() {
    local name=$1
    shift
    "$OUSAC" "$@" >"$WORK/out" 2>"$WORK/err" </dev/null
    if LC_ALL=C grep -qaP '[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|^FAKE' "$WORK/out" "$WORK/err"; then
        echo "a control or a line of its own reached the terminal" >>"$WORK/err"
        fail "$name"
    elif ! iconv -f UTF-8 -t UTF-8 <"$WORK/out" >/dev/null; then
        fail "$name: not UTF-8"
    else
        pass "$name"
    fi
}
for json in "" --json; do
    for file in names.safetensors evil-b.oca evil-p.oca evil-plan.oca; do
        # shellcheck disable=SC2086 # no option or one
        plain "inspect $file $json" inspect $file $json
        # shellcheck disable=SC2086
        plain "verify $file $json" verify $file $json
    done
    for pair in "b.oca evil-b.oca" "plan.oca evil-plan.oca" "p.oca evil-p.oca" "dit/model.safetensors names.safetensors"; do
        # shellcheck disable=SC2086
        plain "diff $pair $json" diff $pair $json
    done
    # shellcheck disable=SC2086
    plain "a model that it is not $json" sample -m names.safetensors -s s.json --samples 0:1 -o x.png $json
    # shellcheck disable=SC2086
    plain "eval $json" eval -m dit/model.safetensors -b evil-b.oca --samples 16:20 $json
    # shellcheck disable=SC2086
    plain "pack $json" pack -m dit/model.safetensors -p p.oca --plan evil-plan.oca -o "b$evil.oca" $json
    # shellcheck disable=SC2086
    plain "a path that is not there $json" inspect "$evil" $json
    # shellcheck disable=SC2086
    plain "an option $json" schedule "--$evil" $json
    # shellcheck disable=SC2086
    plain "a word for a value $json" profile -m dit/model.safetensors -s s.json --compute "$evil" --samples 0:4 -o x.oca $json
    # shellcheck disable=SC2086
    plain "plots $json" plot all evil-b.oca evil-p.oca eval.json --output plots $json
done
plain "a command" "$evil"
plain "plots as text" plot all evil-b.oca --term
plain "a report" report evil-b.oca evil-p.oca eval.json -o report.html
check "the report holds no control" "$PYTHON" - <<'EOF'
text = open("report.html", encoding="utf-8").read()
assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text and "\nFAKE" not in text
EOF

# --- paths and options that are not UTF-8 ---
raw=$'caf\xe9'
mkdir "$raw"
cp b.oca "$raw/b.oca"
for arguments in "inspect $raw/b.oca" "verify $raw/b.oca" "inspect $raw/none" "plot all $raw/b.oca -o $raw/plots" \
    "export --safetensors b.oca -o $raw/x.st" "report $raw/b.oca -o $raw/report.html" "schedule --name=$raw" \
    "eval -m dit/model.safetensors -b $raw/b.oca --samples 16:20 -q -o $raw/eval.json"; do
    # shellcheck disable=SC2086 # words without blanks
    "$OUSAC" $arguments --json >"$WORK/stdout" 2>"$WORK/err"
    json "JSON of ${arguments%% *} with such a path" "len(r) > 0"
done
for file in "$raw/report.html" "$raw/eval.json"; do
    check "${file##*/} is UTF-8" iconv -f UTF-8 -t UTF-8 "$file"
done

# --- a terminal that redraws no line is not asked to ---
check "TERM=dumb gets no escape sequence, another terminal does" "$PYTHON" - "$OUSAC" <<'EOF'
import os, pty, sys
def seen(term):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM=term, NO_COLOR="1")
        os.execv(sys.argv[1], [sys.argv[1], "profile", "-m", "dit/model.safetensors", "-s", "s.json", "--samples", "0:2000", "--weights-plain",
                               "--threads", "1", "-o", "term.oca"])
    data = b""
    while True:
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        if not part:
            break
        data += part
    os.waitpid(pid, 0)
    return data
assert b"\x1b" in seen("xterm") and b"\x1b" not in seen("dumb")
EOF

finish
