#!/usr/bin/env bash
# An installation in a scratch prefix: another program finds the library by pkg-config, links nothing else of ousac, and
# calibrates the shipped model with it; the reader's example computes a cached linear; headers stand alone; pages and
# completions are there.
#
#   OUSAC=build/ousac BUILD=build bash tests/interop/test_install.sh
set -u
. "$(dirname "$0")/../support/harness.bash"
command -v pkg-config >/dev/null || { echo "pkg-config is not installed" && exit 77; }

read -ra cc <<<"${CC:-gcc}" # a compiler may be two words
flags=${SANITIZE:+-fsanitize=$SANITIZE}
make -s -C "$ROOT" install BUILD="$BUILD" PREFIX="$WORK/prefix" ${SANITIZE:+SANITIZE="$SANITIZE"} >made 2>&1 || {
    cat made
    exit 1
}
export PKG_CONFIG_PATH=$WORK/prefix/lib/pkgconfig LD_LIBRARY_PATH=$WORK/prefix/lib
# shellcheck disable=SC2046,SC2086 # lists of words
compile() { # compile OUTPUT SOURCE [FLAG...]
    "${cc[@]}" -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror $flags "$2" -o "$1" $(pkg-config --cflags --libs ousac) "${@:3}"
}
check "the version of pkg-config" test "$(pkg-config --modversion ousac)" = "$("$WORK/prefix/bin/ousac" --version | cut -d' ' -f2)"
cp "$ROOT/examples/library/calibrate.c" .
check "a program compiles against what is installed" compile "$WORK/calibrate" "$WORK/calibrate.c"
mkdir "$WORK/out.d"
exits "and calibrates the shipped model" 0 "$WORK/calibrate" "$DATA/shapes-dit/model.safetensors" "$DATA/schedules/sparse.json" "$WORK/out.d"
cp out said
check "into a bundle that verifies" "$WORK/prefix/bin/ousac" verify --model "$DATA/shapes-dit/model.safetensors" "$WORK/out.d/bundle.oca"
check "which the program evaluates alike" "$WORK/prefix/bin/ousac" eval --model "$DATA/shapes-dit/model.safetensors" \
    --bundle "$WORK/out.d/bundle.oca" --samples 32:40 -o "$WORK/eval.json"
check "to the same figure" python3 -c '
import json, re, sys
said = float(re.search(r"relative error ([0-9.]+)", open(sys.argv[1]).read()).group(1))
pairs = json.load(open(sys.argv[2]))["errors"]
measured = next(p["relative_error"]["mean"] for p in pairs if p["run"] == "calibrated" and p["against"] == "exact")
sys.exit(abs(said - measured) > 1e-4)' said "$WORK/eval.json"
cp "$ROOT/examples/library/host.c" .
check "a program that hosts a model compiles" compile "$WORK/host" "$WORK/host.c" -lm
mkdir "$WORK/hosted.d"
check "and calibrates it" "$WORK/host" "$DATA/schedules/sparse.json" "$WORK/hosted.d"
check "into a bundle" "$WORK/prefix/bin/ousac" verify "$WORK/hosted.d/bundle.oca"
cp "$ROOT/examples/library/capture.c" .
check "a program that captures its own loop compiles" compile "$WORK/capture" "$WORK/capture.c" -lm
mkdir "$WORK/captured.d"
check "and captures it" "$WORK/capture" "$WORK/captured.d"
for file in profile.oca bundle.oca; do
    check "into a $file" "$WORK/prefix/bin/ousac" verify "$WORK/captured.d/$file"
done
check "of 16 samples, and of the model that the other program hosts" python3 -c '
import json, subprocess, sys
ousac, captured, hosted = sys.argv[1:]
shown = [json.loads(subprocess.check_output([ousac, "inspect", "--json", f + "/profile.oca"])) for f in (captured, hosted)]
assert shown[0]["samples"] == 16, shown[0]
assert shown[0]["model"]["digest"] == shown[1]["model"]["digest"]' "$WORK/prefix/bin/ousac" "$WORK/captured.d" "$WORK/hosted.d"
check "it says what it cannot write" bash -c "! '$WORK/capture' '$WORK/nowhere' 2>'$WORK/why' && grep -q nowhere/schedule.json '$WORK/why'"
check "what is missing is said" bash -c "! '$WORK/calibrate' no.safetensors '$DATA/schedules/sparse.json' '$WORK/out.d' 2>'$WORK/why'"
check "by name" grep -q 'no.safetensors' "$WORK/why"

# --- nothing else is visible, and everything that is declared ---
nm -D --defined-only "$WORK/prefix/lib/libousac.so" | awk '{print $3}' | sort >"$WORK/visible"
grep -ohE '\b(ousac|oca)_[a-z0-9_]+\(' "$WORK"/prefix/include/ousac/*.h | tr -d '(' | sort -u >"$WORK/named"
check "only what the headers declare is visible" test -z "$(comm -23 "$WORK/visible" "$WORK/named")"
for name in ousac_context_open ousac_context_open_host ousac_context_calibrate ousac_host_linear ousac_context_sample ousac_version ousac_status_name oca_open_path oca_read; do
    check "$name is visible" grep -qx "$name" "$WORK/visible"
done
for header in "$WORK"/prefix/include/ousac/*.h; do
    check "$(basename "$header") alone in C" "${cc[@]}" -std=c11 -I"$WORK/prefix/include" -Wall -Werror -fsyntax-only -x c "$header"
    check "$(basename "$header") alone in C++" g++ -std=c++17 -I"$WORK/prefix/include" -Wall -Werror -fsyntax-only -x c++ "$header"
done

# --- the reader's example ---
site=$("$WORK/prefix/bin/ousac" inspect --tensors "$WORK/out.d/bundle.oca" | grep -o 'factor/[^ ]*/A' | head -n 1 | cut -d/ -f2)
check "a cached linear from the bundle" "$BUILD/examples/cached_linear" "$WORK/out.d/bundle.oca" "$site"
check "of a layer that is not there" bash -c "! '$BUILD/examples/cached_linear' '$WORK/out.d/bundle.oca' blocks.99.x 2>/dev/null"

# --- pages and completions ---
commands=$("$WORK/prefix/bin/ousac" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')
for command in $commands; do
    check "a page of $command" test -s "$WORK/prefix/share/man/man1/ousac-$command.1"
    check "completions of $command" grep -q "^    $command)" "$WORK/prefix/share/bash-completion/completions/ousac"
done
check "the completion of bash parses" bash -n "$WORK/prefix/share/bash-completion/completions/ousac"
completed=$(bash -c 'source "$1"; COMP_WORDS=(ousac pack --dt); COMP_CWORD=2; _ousac; echo "${COMPREPLY[@]}"' - \
    "$WORK/prefix/share/bash-completion/completions/ousac")
check "an option is completed" test "$completed" = "--dtype"
completed=$(bash -c 'source "$1"; COMP_WORDS=(ousac pack --dtype b); COMP_CWORD=3; _ousac; echo "${COMPREPLY[@]}"' - \
    "$WORK/prefix/share/bash-completion/completions/ousac")
check "and its choices" test "$completed" = "bf16"

make -s -C "$ROOT" uninstall BUILD="$BUILD" PREFIX="$WORK/prefix" >/dev/null 2>&1
check "nothing is left behind" test -z "$(find "$WORK/prefix" -type f)"
finish
