#!/usr/bin/env python3
"""Texts made by a grammar, read by ousac and by independent readers, which must agree on every one.

    BUILD=build python3 tests/fuzz/grammar.py [--seconds S] [--seed N] [--save DIR] [KIND...]

KIND is safetensors or schedule; both without one. What is JSON is decided by Python's json, what is a safetensors file
by the package safetensors where it is installed and by the model below in any case, what is a schedule by a model of
formats/SCHEDULE.md. Where ousac is stricter by intent, `stricter` says so. Cases of the corpus come first. Disagreements
are printed, written into DIR (default: the corpus), and make the exit code 1.
"""
import argparse
import hashlib
import json
import math
import os
import random
import struct
import subprocess
import sys
import time

try:
    import safetensors
except ImportError:
    safetensors = None

HERE = os.path.dirname(os.path.abspath(__file__))
JUDGE = os.path.join(os.environ.get("BUILD", "build"), "tests", "fuzz", "judge")
DEPTH_MAX = 64  # formats/json.h


class Raw(str):
    """A token that is written as it is."""


UNJUDGED = object()


class Refused(Exception):
    """By the format."""


class Stricter(Exception):
    """The format would allow it, ousac does not, and says so in its header."""


# --- JSON as Python reads it, with what ousac adds to RFC 8259 ---

class Pairs(list):
    """An object, its duplicates included."""

    def get(self, key):
        return next((v for k, v in self if k == key), None)

    def names(self):
        return [k for k, _ in self]


def no_constant(name):
    raise Refused("constant " + name)


class Whole(float):
    """A number written as an integer, exact beyond 2^53."""

    def __new__(cls, text):
        try:
            self = super().__new__(cls, text)
        except OverflowError:
            self = super().__new__(cls, math.inf)
        self.exact = int(text) if len(text) < 4000 else None
        return self


def read_json(data):
    """The value, and why ousac alone would refuse it, or None."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=Pairs, parse_constant=no_constant, parse_int=Whole)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from None
    return value


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, Pairs):
        for key, item in value:
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def numbers(value):
    if isinstance(value, float):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item[1] if isinstance(value, Pairs) else item)


def depth(value):
    if isinstance(value, Pairs):
        return 1 + max([depth(v) for _, v in value], default=0)
    return 1 + max([depth(v) for v in value], default=0) if isinstance(value, list) else 0


def check_text(value):
    """What formats/json.h adds: no U+0000, whole surrogates, a bounded depth, an object or an array."""
    if not isinstance(value, list):
        raise Stricter("a bare value")
    if depth(value) > DEPTH_MAX:
        raise Stricter("depth")
    for text in strings(value):
        if "\0" in text:
            raise Stricter("U+0000")
        if any(0xD800 <= ord(c) < 0xE000 for c in text):
            raise Refused("a lone surrogate")


# --- safetensors ---

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "F64": 64, "I64": 64, "U64": 64}


def whole(value):
    if not isinstance(value, Whole):
        raise Refused("not written as an integer")
    if value.exact is None or value.exact < 0 or value.exact >= 1 << 64 or math.copysign(1, value) < 0:
        raise Refused("not in 64 bits")
    if value.exact >= 1 << 53:
        raise Stricter("2^53")
    return value.exact


def model_safetensors(data):
    if len(data) < 8:
        raise Refused("short")
    size = struct.unpack("<Q", data[:8])[0]
    if size > 100000000 or size > len(data) - 8 or size == 0:
        raise Refused("length")
    if data[8:9] in (b" ", b"\t", b"\n", b"\r"):
        raise Stricter("a blank first")  # which the format's document forbids and its package takes
    if data[8:9] != b"{":
        raise Refused("no object")
    root = read_json(data[8:8 + size])
    for value in numbers(root):
        if not math.isfinite(value):
            raise Refused("beyond the range of a double")
    check_text(root)
    if len(set(root.names())) < len(root):
        raise Stricter("a name twice")
    end, tensors, metadata = len(data) - 8 - size, [], {}
    for name, item in root:
        if name == "__metadata__":
            if item is None:
                continue
            if not isinstance(item, Pairs) or not all(isinstance(v, str) for _, v in item):
                raise Refused("metadata")
            if len(set(item.names())) < len(item):
                raise Stricter("a key twice")
            metadata = dict(item)
            continue
        if not isinstance(item, Pairs):
            raise Refused("a tensor that is no object")
        for key in ("dtype", "shape", "data_offsets"):
            if item.names().count(key) != 1:
                raise Refused(key + " missing or twice")
        dtype, shape, offsets = item.get("dtype"), item.get("shape"), item.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in BITS:
            raise Refused("dtype")
        if not isinstance(shape, list) or isinstance(shape, Pairs) or not isinstance(offsets, list) or isinstance(offsets, Pairs):
            raise Refused("shape or offsets")
        if len(offsets) != 2:
            raise Refused("offsets")
        shape, offsets = [whole(d) for d in shape], [whole(d) for d in offsets]
        if len(shape) > 8:
            raise Stricter("9 dimensions")
        bits = 1
        for factor in shape + [BITS[dtype]]:
            bits *= factor
            if bits >= 1 << 64:
                raise Refused("overflow")  # also where a zero follows
        if bits % 8 or offsets[1] - offsets[0] != bits // 8 or offsets[1] > end or offsets[0] > offsets[1]:
            raise Refused("range")
        tensors.append({"name": name, "dtype": dtype, "shape": shape, "offset": 8 + size + offsets[0], "bytes": bits // 8})
    at = 8 + size
    for tensor in sorted(tensors, key=lambda t: (t["offset"], t["bytes"])):
        if tensor["offset"] != at:
            raise Refused("a gap or an overlap")
        at += tensor["bytes"]
    if at != len(data):
        raise Refused("trailing bytes")
    return {"tensors": sorted(tensors, key=lambda t: t["name"].encode()), "metadata": metadata}


def package_safetensors(data):
    """Names, dtypes and shapes as the package has them; Refused; None where it is not installed."""
    if safetensors is None:
        return None
    try:
        found = safetensors.deserialize(bytes(data))
    except safetensors.SafetensorError as error:
        raise Refused(str(error)) from None
    return sorted((name, tensor["dtype"], list(tensor["shape"]), len(tensor["data"])) for name, tensor in found)


def judge_safetensors(data):
    """(value or None, None or why only ousac refuses)."""
    value, strict = None, None
    try:
        value = model_safetensors(data)
    except Refused:
        pass
    except Stricter as error:
        strict = str(error)
    if strict is None and safetensors is not None:
        try:
            theirs = package_safetensors(data)
        except Refused as error:
            assert value is None, "the package refuses what the model takes: %s" % error
        else:
            assert value is not None, "the package takes what the model refuses"
            # the package's names for dtypes are its own
            mine = sorted((t["name"], t["shape"], t["bytes"]) for t in value["tensors"])
            assert mine == sorted((n, s, b) for n, _, s, b in theirs), (mine, theirs)
    return value, strict


# --- schedules ---

def exact_keys(value, wanted, optional=()):
    if not isinstance(value, Pairs):
        raise Refused("no object")
    keys = value.names()
    if len(set(keys)) < len(keys) or set(keys) - set(wanted) - set(optional) or set(wanted) - set(keys):
        raise Refused("keys")


def number(value):
    if not isinstance(value, float) or not math.isfinite(value):
        raise Refused("number")
    return value + 0.0


def model_schedule(data):
    root = read_json(data)
    try:
        check_text(root)
    except Stricter as error:
        raise Refused(str(error)) from None  # the document says what a schedule is
    if not isinstance(root, Pairs) or root.get("format") != "ousac-schedule":
        raise Refused("format")
    exact_keys(root, ("format", "version", "name", "solver", "step_count", "steps"))
    if number(root.get("version")) != 1:
        raise Refused("version")
    name, solver, steps = root.get("name"), root.get("solver"), root.get("steps")
    if not isinstance(name, str) or len(name.encode()) > 127 or any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise Refused("name")
    if solver not in ("ddim", "dpmpp-2m"):
        raise Refused("solver")
    if not isinstance(steps, list) or isinstance(steps, Pairs) or not 1 <= len(steps) <= 100000:
        raise Refused("steps")
    if number(root.get("step_count")) != len(steps):
        raise Refused("step_count")
    lines, before = ["ousac-schedule/1", "solver=" + solver, "steps=%d" % len(steps)], math.inf

    def bits(value):
        return struct.pack(">d", value + 0.0).hex()

    for step in steps:
        exact_keys(step, ("timestep", "mode", "gate"), ("scale",))
        timestep, mode, gate = number(step.get("timestep")), step.get("mode"), step.get("gate")
        if not 0 <= timestep < before:
            raise Refused("timestep")
        before = timestep
        if mode not in ("cfg", "cond", "uncond") or (mode == "cfg") != ("scale" in step.names()):
            raise Refused("mode or scale")
        scale = number(step.get("scale")) if mode == "cfg" else 1.0
        gates = [gate, gate]
        if isinstance(gate, Pairs):
            exact_keys(gate, ("cond", "uncond"))
            gates = [gate.get("cond"), gate.get("uncond")]
        if any(not isinstance(g, str) or g not in ("full", "cached", "reuse", "auto") for g in gates):
            raise Refused("gate")
        if mode != "cfg" and gates[0] != gates[1]:
            raise Refused("gates differ")
        shown = [gates[0] if mode != "uncond" else "-", gates[1] if mode != "cond" else "-"]
        lines.append(" ".join([bits(timestep), mode, bits(scale)] + shown))
    digest = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    return {"name": name, "digest": digest}


def judge_schedule(data):
    try:
        root = read_json(data)
        if isinstance(root, Pairs) and isinstance(root.get("version"), float) and root.get("version") == 2:
            return None, UNJUDGED  # the model is of version 1
        return model_schedule(data), None
    except Refused:
        return None, None


# --- the grammar ---

NUMBERS = ["0", "1", "-0", "-1", "2", "3.0", "1e0", "1E+2", "0.5", "1e-3", "01", "1.", ".5", "+1", "1e", "1e400", "-1e400", "1e-400",
           "9007199254740991", "9007199254740992", "9007199254740993", "18446744073709551615", "18446744073709551616", "0x10",
           "4294967296", "NaN", "Infinity", "-Infinity", "1_000", "2" + "0" * 400, "0.1" + "0" * 300, "1e0000000001", "--1", "-", "1.5e3"]
TEXTS = ["", "a", "\u00fc", "\U0001f600", "\"", "\\", "/", "\b\f\n\r\t", "\u009b31m", "\x7f", "x" * 127, "\u00e9" * 64, "w" * 300, "null",
         "__metadata__", "\ufeff", "\u2028"]
LITERALS = ["true", "false", "null", "True", "nul", "undefined", "{}", "[]", "\"\"", "[[]]", "{\"a\":{}}"]


class Maker:
    def __init__(self, rng):
        self.rng = rng
        self.oddity = 0.0  # of spelling, in the text being made

    def chance(self, p):
        return self.rng.random() < p

    def blank(self):
        if not self.chance(0.05 + self.oddity):
            return ""
        blanks = [" ", "\n", "\t", "\r\n", "  "] + (["\v", "\f", "\u00a0", "/**/", "\0"] if self.chance(self.oddity) else [])
        return self.rng.choice(blanks)

    def string(self, text):
        out = []
        for c in text:
            if c in "\"\\" or ord(c) < 32:
                out.append({"\"": "\\\"", "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}.get(c, "\\u%04x" % ord(c)))
            elif self.chance(0.02 + self.oddity / 2):
                pair = c.encode("utf-16-be")
                form = self.rng.choice(["\\u%04x", "\\u%04X"])
                out.append("".join(form % struct.unpack(">H", pair[i:i + 2]) for i in range(0, len(pair), 2)))
            else:
                out.append("\\/" if c == "/" and self.chance(0.3) else c)
        if self.chance(self.oddity / 4):
            out.insert(self.rng.randrange(len(out) + 1), self.rng.choice(["\\u0000", "\\ud800", "\\udc00", "\\x", "\\u12", "\n", "\\"]))
        return "\"" + "".join(out) + "\""

    def write(self, value):
        if isinstance(value, Raw):
            return str(value)
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return repr(value)
        if isinstance(value, Pairs):
            parts = [self.blank() + self.string(k) + self.blank() + ":" + self.blank() + self.write(v) + self.blank() for k, v in value]
            return "{" + self.join(parts) + "}"
        return "[" + self.join([self.blank() + self.write(v) + self.blank() for v in value]) + "]"

    def join(self, parts):
        text = ",".join(parts)
        if self.chance(self.oddity / 4):
            text = self.rng.choice([text + ",", "," + text, text.replace(",", ",,", 1), text.replace(",", " ", 1)])
        return text

    def anything(self):
        pick = self.rng.randrange(4)
        if pick == 0:
            return Raw(self.rng.choice(NUMBERS))
        if pick == 1:
            return self.rng.choice(TEXTS)
        if pick == 2:
            return Raw(self.rng.choice(LITERALS))
        deep = self.rng.choice([1, 3, DEPTH_MAX - 3, DEPTH_MAX - 2, DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 130, 2000])
        return Raw("[" * deep + "]" * deep)

    def mutate(self, value):
        """One change somewhere in a tree, in place."""
        places = []

        def walk(node):
            if isinstance(node, list):
                places.append(node)
                for child in node:
                    walk(child[1] if isinstance(node, Pairs) else child)

        walk(value)
        node = self.rng.choice(places)
        act = self.rng.randrange(7)
        if not node or act == 0:
            node.insert(self.rng.randrange(len(node) + 1),
                        (self.rng.choice(TEXTS + ["dtype", "shape", "scale", "gate", "x"]), self.anything()) if isinstance(node, Pairs) else self.anything())
            return
        at = self.rng.randrange(len(node))
        if act == 1:
            del node[at]
        elif act == 2:
            node.insert(self.rng.randrange(len(node) + 1), node[at])
        elif act == 3 and len(node) > 1:
            other = self.rng.randrange(len(node))
            node[at], node[other] = node[other], node[at]
        elif isinstance(node, Pairs) and act == 4:
            node[at] = (self.rng.choice(TEXTS + [k for n in places if isinstance(n, Pairs) for k in n.names()]), node[at][1])
        elif act == 5 and isinstance(node, Pairs) and isinstance(node[at][1], int):
            node[at] = (node[at][0], node[at][1] + self.rng.choice([-1, 1, 8, 1 << 32]))
        elif act == 5 and not isinstance(node, Pairs) and isinstance(node[at], int):
            node[at] += self.rng.choice([-1, 1, 8, 1 << 32])
        else:
            node[at] = (node[at][0], self.anything()) if isinstance(node, Pairs) else self.anything()

    def spoil(self, data):
        """One change of the bytes."""
        data = bytearray(data)
        at = self.rng.randrange(len(data)) if data else 0
        act = self.rng.randrange(5)
        if act == 0 and data:
            data[at] ^= 1 << self.rng.randrange(8)
        elif act == 1:
            data[at:at + self.rng.choice([1, 1, 4])] = b""
        elif act == 2:
            data[at:at] = self.rng.choice([b"\0", b" ", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\"", b"}", b"]", b",", b"0"])
        elif act == 3:
            del data[at:]
        else:
            data += self.rng.choice([b" ", b"\n", b"x", b"{}", b"\0"])
        return bytes(data)

    def safetensors(self):
        rng, root, at = self.rng, Pairs(), 0
        for i in range(rng.choice([0, 1, 1, 2, 3, 6])):
            dtype = rng.choice(list(BITS))
            shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.choice([0, 1, 2, 2, 3, 8, 9]))]
            if rng.random() < 0.1:
                shape = rng.choice([[0, 1 << 40], [1 << 32, 1 << 32], [0, 1 << 53], [1 << 62, 4, 0], [(1 << 53) - 1, 0]])
            bits = math.prod(shape) * BITS[dtype]
            size = (bits + 7) // 8 if bits < 8 << 16 else 4
            item = Pairs([("dtype", dtype), ("shape", list(shape)), ("data_offsets", [at, at + size])])
            rng.shuffle(item)
            if rng.random() < 0.15:
                item.append((rng.choice(["note", "x", ""]), self.anything()))
            root.append(("t%d" % i if rng.random() < 0.8 else rng.choice(TEXTS), item))
            at += size
        if rng.random() < 0.5:
            root.insert(rng.randrange(len(root) + 1), ("__metadata__", rng.choice(
                [Pairs([("format", "pt")]), Pairs([("a", "b"), ("c", rng.choice(TEXTS))]), Pairs(), Raw("null"), [], Pairs([("k", 1)])])))
        if rng.random() < 0.3:
            rng.shuffle(root)
        self.change(root)
        text = self.write(root).encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            text += b" " * rng.randrange(9)
        if rng.random() < 0.1:
            text = self.spoil(text)
        size = len(text) + (rng.choice([-1, 1, 8, 1 << 33, -len(text)]) if rng.random() < 0.03 else 0)
        data = struct.pack("<Q", size & (1 << 64) - 1) + text + bytes(at + (rng.choice([-1, 1]) if rng.random() < 0.03 else 0) if at else 0)
        return self.spoil(data) if rng.random() < 0.05 else data

    def schedule(self):
        rng, steps, timestep = self.rng, [], 1000.0
        for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
            timestep -= rng.choice([1, 10, 0.5, 1 / 3, 0, 100])
            mode = rng.choice(["cfg", "cond", "uncond"])
            gate = rng.choice(["full", "cached", "reuse", "auto"])
            if rng.random() < 0.3:
                gate = Pairs([("cond", gate), ("uncond", rng.choice(["full", gate, gate]))])
            written = Raw(rng.choice(["%.17g", "%g", "%.3e", "%d"]) % timestep)
            step = Pairs([("timestep", written), ("mode", mode), ("gate", gate)])
            if mode == "cfg":
                step.insert(2, ("scale", Raw(rng.choice(["1", "4.5", "-0", "1e3", "0.30000000000000004", "1e-310", rng.choice(NUMBERS)]))))
            if rng.random() < 0.2:
                rng.shuffle(step)
            steps.append(step)
        root = Pairs([("format", "ousac-schedule"), ("version", Raw(rng.choice(["1"] * 20 + ["1.0", "1e0", "2", "0"]))),
                      ("name", rng.choice(TEXTS)), ("solver", rng.choice(["ddim", "dpmpp-2m"])),
                      ("step_count", Raw(rng.choice(["%d"] * 9 + ["%d.0", "%de0"]) % len(steps))), ("steps", steps)])
        if rng.random() < 0.2:
            rng.shuffle(root)
        self.change(root)
        text = self.write(root).encode("utf-8", "surrogatepass")
        return self.spoil(text) if rng.random() < 0.1 else text

    def change(self, root):
        self.oddity = self.rng.choice([0, 0, 0, 0.02, 0.2])
        for _ in range(self.rng.choice([0, 0, 1, 1, 2, 4])):
            self.mutate(root)


KINDS = {"safetensors": (Maker.safetensors, judge_safetensors), "schedule": (Maker.schedule, judge_schedule)}


class Judge:
    def __init__(self, kind):
        self.process = subprocess.Popen([JUDGE, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, data):
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the judge died of %r" % data)
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def disagreement(kind, data, found):
    """What is wrong, or None."""
    try:
        wanted, strict = KINDS[kind][1](data)
    except AssertionError as error:
        return "the references differ: %s" % error
    if strict is UNJUDGED:
        return None
    if strict is not None:
        return None if found["status"] != "ok" else "taken in spite of: " + strict
    if wanted is None:
        return None if found["status"] != "ok" else "taken, and the references refuse it"
    if found["status"] != "ok":
        return "refused: " + found["message"]
    for key, value in wanted.items():
        if found[key] != value:
            return "%s is %r, expected %r" % (key, found[key], value)
    return None


def run(kind, seconds, seed, save):
    judge, rng = Judge(kind), random.Random(seed)
    maker, bad, count, taken = Maker(rng), 0, 0, 0
    corpus = os.path.join(HERE, "corpus", kind)
    seeds = [open(os.path.join(corpus, name), "rb").read() for name in sorted(os.listdir(corpus))]
    end = time.monotonic() + seconds
    while seeds or time.monotonic() < end:
        data = seeds.pop() if seeds else KINDS[kind][0](maker)
        found = judge(data)
        wrong = disagreement(kind, data, found)
        count += 1
        taken += found["status"] == "ok"
        if wrong:
            bad += 1
            name = os.path.join(save, kind, "grammar-" + hashlib.sha256(data).hexdigest()[:12])
            os.makedirs(os.path.dirname(name), exist_ok=True)
            with open(name, "wb") as file:
                file.write(data)
            print("%s: %s: %r" % (name, wrong, data[:300]))
            if bad == 20:
                break
    judge.close()
    print("%s: %d texts, %d of them taken, %d disagreements" % (kind, count, taken, bad))
    return bad, count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", default=os.path.join(HERE, "corpus"))
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    arguments = parser.parse_args()
    sys.setrecursionlimit(10000)
    passed = failed = 0
    for kind in arguments.kinds or KINDS:
        bad, count = run(kind, arguments.seconds, arguments.seed, arguments.save)
        failed, passed = failed + bad, passed + count - bad
    if safetensors is None:
        print("skipped: the package safetensors is not installed; its model decides")
    print("%d passed, %d failed, %d skipped" % (passed, failed, safetensors is None))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
