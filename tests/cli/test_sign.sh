#!/usr/bin/env bash
# Signing and verifying on the command line, and against the minisign program where it is installed.
#
#   OUSAC=build/ousac DATA=data bash tests/cli/test_sign.sh
#
# Works in a temporary directory and removes it.
set -u
. "$(dirname "$0")/../support/harness.bash"

# tells NAME CODE TEXT COMMAND...: the exit code, and TEXT somewhere in what the command says.
tells() {
    exits "$1" "$2" "${@:4}" </dev/null
    cat out err >said
    says "$1" said "$3"
}

cp "$DATA/schedules/sparse.json" sparse.json
cp "$DATA/schedules/constant.json" constant.json

# --- keys ---
tells "generate" 0 "public key RW" "$OUSAC" sign --generate --key own.key --public own.pub
check "the secret key is its owner's alone" test "$(stat -c %a own.key)" = 600
cp own.key before
tells "keys are not replaced unasked" 2 "exists" "$OUSAC" sign --generate --key own.key --public other.pub
check "and stay as they were" cmp own.key before
check "nor is half of a pair made" test ! -e other.pub
tells "a second pair" 0 "" "$OUSAC" sign --generate --key other.key --public other.pub
tells "generate needs both names" 2 "--public" "$OUSAC" sign --generate --key x.key

# --- signing and verifying ---
tells "sign two files" 0 "constant.json.minisig" "$OUSAC" sign --key own.key sparse.json constant.json
tells "both verify" 0 "constant.json: ok" "$OUSAC" verify --key own.pub sparse.json constant.json
tells "the comment is shown" 0 "file:sparse.json" "$OUSAC" verify --key own.pub sparse.json
tells "the key itself serves" 0 "signed; " "$OUSAC" verify --key "$(tail -n 1 own.pub)" sparse.json
tells "JSON says who" 0 '"signed":' "$OUSAC" verify --json --key own.pub sparse.json
tells "another key" 3 "expected one by key" "$OUSAC" verify --key other.pub sparse.json
tells "no such key" 1 "cannot open" "$OUSAC" verify --key none.pub sparse.json
tells "a key that is none" 3 "public key" "$OUSAC" verify --key sparse.json sparse.json
tells "legacy" 0 "" "$OUSAC" sign --legacy --key own.key -o legacy.sig --trusted-comment "made by us" sparse.json
tells "legacy verifies" 0 "made by us" "$OUSAC" verify --key own.pub --signature legacy.sig sparse.json
tells "a signature of another file" 3 "not a signature of this file" \
    "$OUSAC" verify --key own.pub --signature sparse.json.minisig constant.json
rm constant.json.minisig
tells "a missing signature" 3 "constant.json.minisig" "$OUSAC" verify --key own.pub constant.json
sed 's/file:sparse/file:worse!/' sparse.json.minisig >altered.sig
tells "an altered comment" 3 "trusted comment was altered" \
    "$OUSAC" verify --key own.pub --signature altered.sig sparse.json

# The signature is looked at before anything else: a file that is no archive at all gets no other message.
printf '\x89OCA\r\n\x1a\nnot an archive' >wrong.oca
tells "without a key the archive is found malformed" 3 "wrong.oca: FAILED: truncated" "$OUSAC" verify wrong.oca
cp sparse.json.minisig wrong.oca.minisig
tells "with a key the signature fails first" 3 "not a signature of this file" "$OUSAC" verify --key own.pub wrong.oca
tells "a signed file may still be malformed" 0 "" "$OUSAC" sign --key own.key wrong.oca
tells "and is then told so" 3 "wrong.oca: FAILED" "$OUSAC" verify --key own.pub wrong.oca
printf 'x' >>sparse.json
tells "one byte more" 3 "not a signature of this file" "$OUSAC" verify --key own.pub sparse.json

# --- wrong use ---
tells "nothing to sign" 2 "at least one file" "$OUSAC" sign --key own.key
tells "no key" 2 "--key" "$OUSAC" sign sparse.json
tells "one output, two files" 2 "--output" "$OUSAC" sign --key own.key -o x sparse.json constant.json
tells "a public key cannot sign" 3 "secret key" "$OUSAC" sign --key own.pub sparse.json
tells "--signature without --key" 2 "--key" "$OUSAC" verify --signature x sparse.json
check "nothing was left behind" test -z "$(find . -name '.*.tmp')"

# --- passwords: scrypt with its 1 GiB of memory ---
available=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null || echo 0)
echo "the password" >password
echo "another" >wrong
encrypted=0
if [ "$available" -gt 1500 ] && [ -z "${OUSAC_TEST_SMALL:-}" ]; then
    encrypted=1
    tells "an encrypted key" 0 "encrypted" \
        "$OUSAC" sign --generate --key locked.key --public locked.pub --password-file password
    if ! command -v minisign >/dev/null; then
        tells "signs with its password" 0 "" "$OUSAC" sign --key locked.key --password-file password constant.json
        tells "which verifies" 0 "signed" "$OUSAC" verify --key locked.pub constant.json
    fi
    tells "not with another password" 4 "wrong password" "$OUSAC" sign --key locked.key --password-file wrong constant.json
else
    skip "encrypted keys: 1 GiB of memory is not free"
fi

# --- minisign ---
if ! command -v minisign >/dev/null; then
    skip "the minisign program is not installed"
else
    printf 'anything at all\n' >f
    ours() { "$OUSAC" sign --key "$1" "${@:2}" f; }
    check "ours, hashed" ours own.key
    tells "minisign accepts it" 0 "signature verified" minisign -Vm f -p own.pub
    tells "and by the key alone" 0 "verified" minisign -Vm f -P "$(tail -n 1 own.pub)"
    tells "but not from another key" 1 "key id" minisign -Vm f -p other.pub
    sed -i 's/file:f/file:g/' f.minisig
    tells "nor with an altered comment" 1 "verification failed" minisign -Vm f -p own.pub
    check "ours, legacy" ours own.key --legacy --trusted-comment "with a	tab"
    tells "minisign accepts that" 0 "with a	tab" minisign -Vm f -p own.pub

    cp constant.json g.json
    for form in "" -l; do
        # shellcheck disable=SC2086 # an option or nothing
        check "minisign signs with our key $form" minisign -S $form -s own.key -m g.json -t "a comment $form"
        tells "ours accepts minisign's $form" 0 "a comment $form" "$OUSAC" verify --key own.pub g.json
    done
    check "minisign makes keys" minisign -G -W -p mini.pub -s mini.key
    check "ours signs with minisign's key" "$OUSAC" sign --key mini.key g.json
    tells "which minisign accepts" 0 "verified" minisign -Vm g.json -p mini.pub
    tells "and ours" 0 "signed" "$OUSAC" verify --key mini.pub g.json
    : >empty
    check "an empty file" "$OUSAC" sign --key mini.key empty
    tells "which minisign accepts too" 0 "verified" minisign -Vm empty -p mini.pub

    if [ $encrypted = 1 ]; then
        with_password() { minisign "$@" <password; }
        printf 'the password\nthe password\n' >twice
        if minisign -G -p scrypt.pub -s scrypt.key <twice >/dev/null 2>&1; then
            tells "ours opens minisign's encrypted key" 0 "signed by" \
                "$OUSAC" sign --key scrypt.key --password-file password g.json
            tells "and minisign accepts the signature" 0 "verified" minisign -Vm g.json -p scrypt.pub
            with_password -S -s locked.key -m g.json >/dev/null 2>&1
            tells "minisign opens ours" 0 "signed" "$OUSAC" verify --key locked.pub g.json
        else
            skip "this minisign takes passwords from a terminal only"
        fi
    fi
fi

finish
