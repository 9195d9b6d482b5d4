#!/usr/bin/env bash
# Signing and verifying on the command line, and against the minisign program where it is installed.
#
#   OUSAC=build/ousac DATA=data bash tests/cli/test_sign.sh
#
# Works in a temporary directory and removes it.
set -u
OUSAC=${OUSAC:-build/ousac}
DATA=${DATA:-data}
OUSAC=$(realpath "$OUSAC") && DATA=$(realpath "$DATA") || exit 2
WORK=$(mktemp -d) || exit 2
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 2
passed=0 failed=0 skipped=0

# exits NAME CODE TEXT COMMAND...: the exit code, and TEXT somewhere in what the command says.
exits() {
    local name=$1 want=$2 text=$3 got
    shift 3
    "$@" >out 2>&1 </dev/null
    got=$?
    if [ $got -eq "$want" ] && grep -qF -- "$text" out; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name: exit code $got, expected $want and '$text': $(head -c 400 out)" >&2
    fi
}
# yes NAME COMMAND...
yes() {
    local name=$1
    shift
    if "$@" >out 2>&1 </dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name: $*: $(head -c 400 out)" >&2
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "skipped: $1" >&2
}

cp "$DATA/schedules/sparse.json" sparse.json
cp "$DATA/schedules/constant.json" constant.json

# --- keys ---
exits "generate" 0 "public key RW" "$OUSAC" sign --generate --key own.key --public own.pub
yes "the secret key is its owner's alone" test "$(stat -c %a own.key)" = 600
cp own.key before
exits "keys are not replaced unasked" 2 "exists" "$OUSAC" sign --generate --key own.key --public other.pub
yes "and stay as they were" cmp own.key before
yes "nor is half of a pair made" test ! -e other.pub
exits "a second pair" 0 "" "$OUSAC" sign --generate --key other.key --public other.pub
exits "generate needs both names" 2 "--public" "$OUSAC" sign --generate --key x.key

# --- signing and verifying ---
exits "sign two files" 0 "constant.json.minisig" "$OUSAC" sign --key own.key sparse.json constant.json
exits "both verify" 0 "constant.json: ok" "$OUSAC" verify --key own.pub sparse.json constant.json
exits "the comment is shown" 0 "file:sparse.json" "$OUSAC" verify --key own.pub sparse.json
exits "the key itself serves" 0 "signed; " "$OUSAC" verify --key "$(tail -n 1 own.pub)" sparse.json
exits "JSON says who" 0 '"signed":' "$OUSAC" verify --json --key own.pub sparse.json
exits "another key" 3 "expected one by key" "$OUSAC" verify --key other.pub sparse.json
exits "no such key" 1 "cannot open" "$OUSAC" verify --key none.pub sparse.json
exits "a key that is none" 3 "public key" "$OUSAC" verify --key sparse.json sparse.json
exits "legacy" 0 "" "$OUSAC" sign --legacy --key own.key -o legacy.sig --trusted-comment "made by us" sparse.json
exits "legacy verifies" 0 "made by us" "$OUSAC" verify --key own.pub --signature legacy.sig sparse.json
exits "a signature of another file" 3 "not a signature of this file" \
    "$OUSAC" verify --key own.pub --signature sparse.json.minisig constant.json
rm constant.json.minisig
exits "a missing signature" 3 "constant.json.minisig" "$OUSAC" verify --key own.pub constant.json
sed 's/file:sparse/file:worse!/' sparse.json.minisig >altered.sig
exits "an altered comment" 3 "trusted comment was altered" \
    "$OUSAC" verify --key own.pub --signature altered.sig sparse.json

# The signature is looked at before anything else: a file that is no archive at all gets no other message.
printf '\x89OCA\r\n\x1a\nnot an archive' >wrong.oca
exits "without a key the archive is found malformed" 3 "wrong.oca: FAILED: truncated" "$OUSAC" verify wrong.oca
cp sparse.json.minisig wrong.oca.minisig
exits "with a key the signature fails first" 3 "not a signature of this file" "$OUSAC" verify --key own.pub wrong.oca
exits "a signed file may still be malformed" 0 "" "$OUSAC" sign --key own.key wrong.oca
exits "and is then told so" 3 "wrong.oca: FAILED" "$OUSAC" verify --key own.pub wrong.oca
printf 'x' >>sparse.json
exits "one byte more" 3 "not a signature of this file" "$OUSAC" verify --key own.pub sparse.json

# --- wrong use ---
exits "nothing to sign" 2 "at least one file" "$OUSAC" sign --key own.key
exits "no key" 2 "--key" "$OUSAC" sign sparse.json
exits "one output, two files" 2 "--output" "$OUSAC" sign --key own.key -o x sparse.json constant.json
exits "a public key cannot sign" 3 "secret key" "$OUSAC" sign --key own.pub sparse.json
exits "--signature without --key" 2 "--key" "$OUSAC" verify --signature x sparse.json
yes "nothing was left behind" test -z "$(find . -name '.*.tmp')"

# --- passwords: scrypt with its 1 GiB of memory ---
available=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null || echo 0)
echo "the password" >password
echo "another" >wrong
encrypted=0
if [ "$available" -gt 1500 ] && [ -z "${OUSAC_TEST_SMALL:-}" ]; then
    encrypted=1
    exits "an encrypted key" 0 "encrypted" \
        "$OUSAC" sign --generate --key locked.key --public locked.pub --password-file password
    if ! command -v minisign >/dev/null; then
        exits "signs with its password" 0 "" "$OUSAC" sign --key locked.key --password-file password constant.json
        exits "which verifies" 0 "signed" "$OUSAC" verify --key locked.pub constant.json
    fi
    exits "not with another password" 4 "wrong password" "$OUSAC" sign --key locked.key --password-file wrong constant.json
else
    skip "encrypted keys: 1 GiB of memory is not free"
fi

# --- minisign ---
if ! command -v minisign >/dev/null; then
    skip "the minisign program is not installed"
else
    printf 'anything at all\n' >f
    ours() { "$OUSAC" sign --key "$1" "${@:2}" f; }
    yes "ours, hashed" ours own.key
    exits "minisign accepts it" 0 "signature verified" minisign -Vm f -p own.pub
    exits "and by the key alone" 0 "verified" minisign -Vm f -P "$(tail -n 1 own.pub)"
    exits "but not from another key" 1 "key id" minisign -Vm f -p other.pub
    sed -i 's/file:f/file:g/' f.minisig
    exits "nor with an altered comment" 1 "verification failed" minisign -Vm f -p own.pub
    yes "ours, legacy" ours own.key --legacy --trusted-comment "with a	tab"
    exits "minisign accepts that" 0 "with a	tab" minisign -Vm f -p own.pub

    cp constant.json g.json
    for form in "" -l; do
        # shellcheck disable=SC2086 # an option or nothing
        yes "minisign signs with our key $form" minisign -S $form -s own.key -m g.json -t "a comment $form"
        exits "ours accepts minisign's $form" 0 "a comment $form" "$OUSAC" verify --key own.pub g.json
    done
    yes "minisign makes keys" minisign -G -W -p mini.pub -s mini.key
    yes "ours signs with minisign's key" "$OUSAC" sign --key mini.key g.json
    exits "which minisign accepts" 0 "verified" minisign -Vm g.json -p mini.pub
    exits "and ours" 0 "signed" "$OUSAC" verify --key mini.pub g.json
    : >empty
    yes "an empty file" "$OUSAC" sign --key mini.key empty
    exits "which minisign accepts too" 0 "verified" minisign -Vm empty -p mini.pub

    if [ $encrypted = 1 ]; then
        with_password() { minisign "$@" <password; }
        printf 'the password\nthe password\n' >twice
        if minisign -G -p scrypt.pub -s scrypt.key <twice >/dev/null 2>&1; then
            exits "ours opens minisign's encrypted key" 0 "signed by" \
                "$OUSAC" sign --key scrypt.key --password-file password g.json
            exits "and minisign accepts the signature" 0 "verified" minisign -Vm g.json -p scrypt.pub
            with_password -S -s locked.key -m g.json >/dev/null 2>&1
            exits "minisign opens ours" 0 "signed" "$OUSAC" verify --key locked.pub g.json
        else
            skip "this minisign takes passwords from a terminal only"
        fi
    fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
