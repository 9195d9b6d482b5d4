#!/usr/bin/env bash
# What a kill, a failing disk or a full one leaves behind: under the final name the file that was there before or the
# whole new one, never anything else.
#
#   OUSAC=build/ousac BUILD=build bash tests/cli/test_faults.sh
#
# strace kills a command at every system call that changes files, and makes each such call fail in turn; the results
# are compared, byte for byte, with what an undisturbed run writes. Works in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"
mounted=
trap '[ -z "$mounted" ] || umount "$WORK/full"; chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
export OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 # leak detection does not work while being traced

# --- a tiny model, and commands that write one file, $out, each ---
mkdir d
{
    "$MAKE_DIT" dit && "$OUSAC" schedule --steps 4 --scale 3 --cfg 0:4:2 --period 2 -o s.json -q &&
        "$OUSAC" profile -m dit/model.safetensors -s s.json --samples 0:4 --pilot-samples 4 -o p.oca -q &&
        "$OUSAC" allocate -m dit/model.safetensors -p p.oca --method uniform --budget-step 0.5 -o plan.oca -q &&
        "$OUSAC" pack -m dit/model.safetensors -p p.oca --plan plan.oca -o b.oca -q &&
        "$OUSAC" export --safetensors b.oca -o b.safetensors &&
        "$OUSAC" sign --generate --key k --public k.pub
} >out 2>err || {
    cat err >&2
    exit 1
}
out=d/out
set_command() {
    local pack=(pack --threads 1 -q -m dit/model.safetensors -p p.oca --plan plan.oca)
    local profile=(profile --threads 1 -q -m dit/model.safetensors -s s.json --samples 0:4 --weights-plain)
    case $1 in
    pack) command=("$OUSAC" "${pack[@]}" -o "$out") ;;
    profile) command=("$OUSAC" "${profile[@]}" -o "$out") ;;
    export) command=("$OUSAC" export --safetensors b.oca -o "$out") ;;
    import) command=("$OUSAC" import b.safetensors -o "$out") ;;
    icc) command=("$OUSAC" export --icc b.oca -o "$out") ;;
    sign) command=("$OUSAC" sign -k k --trusted-comment t -o "$out" b.oca) ;;
    esac
}

# --- every system call that changes files ---
calls=(open openat creat write writev pwrite64 pwritev ftruncate fallocate fsync fdatasync rename renameat renameat2
    link linkat symlink symlinkat unlink unlinkat mkdir mkdirat chmod fchmod)
calls_set=$(printf ',?%s' "${calls[@]}")
calls_set=${calls_set#,}

# is_new: a profile records what its run cost, so that only its content is the same in every run.
is_new() {
    cmp -s $out new || { [ $job = profile ] && "$OUSAC" verify $out && "$OUSAC" diff $out new; } >/dev/null 2>&1
}
# state: "old", "new" or "none", whatever else is a damaged file.
state() {
    if [ ! -e $out ]; then
        echo none
    elif [ -f old ] && cmp -s $out old; then
        echo old
    elif is_new; then
        echo new
    else
        echo damaged
    fi
}
prepare() {
    rm -rf d && mkdir d
    if [ -f old ]; then cp old $out; fi
}
# left: temporary files in the directory.
left() {
    find d -name '.*.tmp' | wc -l
}

# inject WHAT COMMAND...: the exit code in $got, messages in err. The shell's own note of a kill goes nowhere.
inject() {
    (strace -f -qq -o /dev/null -e "trace=${1%%:*}" -e "inject=$1" "${@:2}" >/dev/null 2>err </dev/null; exit $?) 2>/dev/null
    got=$?
}

# disturb NAME MODE COMMAND...: every call of the command in turn, MODE being kill or an error.
disturb() {
    local name=$1 mode=$2 call count n what inject before
    shift 2
    before=none
    if [ -f old ]; then before=old; fi
    for call in "${calls[@]}"; do
        count=$(grep -cE "^[0-9]+ +$call\(" trace)
        for ((n = 1; n <= count; n++)); do
            prepare
            inject="$call:error=$mode:when=$n"
            if [ "$mode" = kill ]; then inject="$call:signal=KILL:when=$n"; fi
            inject "$inject" "$@"
            # a sanitizer that could not read its own options says nothing about the program
            if grep -q LeakSanitizer err; then continue; fi
            what=$(state)
            if [ "$what" = $before ]; then
                if [ $got = 0 ]; then
                    fail "$name, $mode at $call $n: exit code 0, and nothing was written"
                    continue
                fi
            elif [ "$what" != new ]; then
                fail "$name, $mode at $call $n: the file is $what"
                continue
            elif [ "$mode" != kill ] && [ $got != 0 ] && ! grep -q "written, but\|standard output" err; then
                fail "$name, $mode at $call $n: exit code $got, but the file was written"
                continue
            fi
            if [ "$mode" != kill ] && [ "$call" != unlink ] && [ "$(left)" != 0 ]; then
                fail "$name, $mode at $call $n: left a temporary file"
                continue
            fi
            # An error message of ousac, not of the loader that did not find a library.
            if [ "$mode" != kill ] && [ $got != 0 ] && [ $got != 127 ] && [ "$(wc -l <err)" != 1 ]; then
                fail "$name, $mode at $call $n: the message is not one line"
                continue
            fi
            pass
        done
    done
}

# undisturbed COMMAND...: what it writes becomes `new`, the calls that it makes `trace`.
undisturbed() {
    prepare
    if ! strace -f -qq -o all -e "trace=$calls_set" "$@" >/dev/null 2>err </dev/null; then return 1; fi
    cp $out new
    # Opening for reading changes nothing; the program's own files come after those of the loader and of libraries.
    grep -v 'ENOENT' all | awk '/openat?\(/ && !/O_CREAT|O_DIRECTORY/ { next } { print }' >trace
    # Calls are counted with those that were left out, since strace counts them all.
    if grep -q openat trace; then cp all trace; fi
    prepare
    "$@" >/dev/null 2>err </dev/null && is_new
}

if ! command -v strace >/dev/null; then
    skip "strace is not installed"
elif ! strace -qq -o /dev/null -e trace=write -e inject=write:error=EIO:when=99 true 2>/dev/null; then
    skip "strace may not trace or inject here"
else
    for job in pack profile export import icc sign; do
        rm -f old new
        set_command $job
        if ! undisturbed "${command[@]}"; then
            fail "$job: does not write the same file twice"
            continue
        fi
        disturb "$job" kill "${command[@]}"
        if [ $job = pack ] || [ $job = profile ]; then
            # an older file of that name must survive whatever happens
            head -c 1000 p.oca >old
            disturb "$job over an older file" kill "${command[@]}"
            for error in EIO ENOSPC EINTR; do
                disturb "$job over an older file" $error "${command[@]}"
            done
        fi
        # an error in the very calls that write the file, all of them from the n-th on
        rm -f old
        for error in EIO ENOSPC; do
            for call in write pwrite64 fsync rename; do
                if ! grep -qE "^[0-9]+ +$call\(" all; then continue; fi
                prepare
                inject "$call:error=$error:when=1+" "${command[@]}"
                # where no write succeeds, neither does that of the message
                if [ $call = write ]; then echo $out >>err; fi
                if [ $got = 1 ] && [ "$(state)" = none ] && [ "$(left)" = 0 ] && grep -qF $out err; then
                    pass
                else
                    fail "$job, $error at every $call: exit code $got, the file is $(state)"
                fi
            done
        done
    done
    if "$OUSAC" verify b.oca p.oca plan.oca >/dev/null 2>err; then pass; else fail "the inputs were harmed"; fi
fi

# --- a full disk ---
# A limit on the size of files stands in for a full disk where nothing can be mounted.
job=pack
set_command pack
head -c 1000 p.oca >old
prepare
(
    trap '' XFSZ
    ulimit -f 8 # KiB or half of them; a bundle has 30
    exec "${command[@]}"
) >/dev/null 2>err </dev/null
got=$?
if [ $got = 1 ] && [ "$(state)" = old ] && [ "$(left)" = 0 ] && grep -q "d/out" err; then
    pass
else
    fail "a limit on file sizes: exit code $got, the file is $(state)"
fi
mkdir full
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=16k none full 2>/dev/null; then
    mounted=1
    cp old full/out
    "$OUSAC" pack --threads 1 -q -m dit/model.safetensors -p p.oca --plan plan.oca -o full/out >/dev/null 2>err
    got=$?
    if [ $got = 1 ] && cmp -s full/out old && [ "$(find full -name '.*.tmp' | wc -l)" = 0 ] &&
        grep -q "No space left" err; then
        pass
    else
        fail "a full disk: exit code $got"
    fi
    umount full && mounted=
else
    skip "no small file system may be mounted"
fi

# --- a directory that may not be written ---
rm -f old
prepare
chmod a-w d
as_user=()
if [ "$(id -u)" = 0 ]; then as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups); fi
chmod a+rx "$WORK" dit
if "${as_user[@]}" "$OUSAC" --version >/dev/null 2>&1 && [ -r p.oca ]; then
    "${as_user[@]}" "${command[@]}" >/dev/null 2>err </dev/null
    got=$?
    if [ $got = 1 ] && [ "$(state)" = none ] && grep -q "d/out\|d:" err; then
        pass
    else
        fail "a read-only directory: exit code $got, the file is $(state)"
    fi
else
    skip "no other user can run the program here"
fi

finish
