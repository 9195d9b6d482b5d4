#!/usr/bin/env python3
"""Texts made by a grammar, read by ousac and by independent readers, which must agree on every one.

    BUILD=build python3 tests/fuzz/grammar.py [--seconds S] [--seed N] [--save DIR] [KIND...]

KIND is safetensors, schedule or config; all without one. What is JSON is decided by Python's json, what is a safetensors
file by the package safetensors where it is installed and by the model below in any case, what is a schedule by a model
of formats/SCHEDULE.md, what a config says of a small DiT by a model of docs/MODELS.md. Where ousac is stricter by intent, `stricter` says so. Cases of the corpus come first. Disagreements
are printed, written into DIR (default: the corpus), and make the exit code 1.
"""
import argparse
import hashlib
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
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


COEFFICIENTS = ("hold", "k", "m", "c", "d")


def bits(value):
    return struct.pack(">d", value + 0.0).hex()


def model_schedule(data):
    root = read_json(data)
    try:
        check_text(root)
    except Stricter as error:
        raise Refused(str(error)) from None  # the document says what a schedule is
    if not isinstance(root, Pairs) or root.get("format") != "ousac-schedule":
        raise Refused("format")
    exact_keys(root, ("format", "version", "name", "solver", "step_count", "steps"))
    version = number(root.get("version"))
    if version not in (1, 2, 3, 4):
        raise Refused("version")
    name, solver, steps = root.get("name"), root.get("solver"), root.get("steps")
    if not isinstance(name, str) or len(name.encode()) > 127 or any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise Refused("name")
    if solver not in ("ddim", "dpmpp-2m", "flow-euler"):
        raise Refused("solver")
    if not isinstance(steps, list) or isinstance(steps, Pairs) or not 1 <= len(steps) <= 100000:
        raise Refused("steps")
    if number(root.get("step_count")) != len(steps):
        raise Refused("step_count")
    plain, fitted, told, before = [], [], [], math.inf
    for step in steps:
        if not isinstance(step, Pairs):
            raise Refused("no object")
        guided = step.get("mode") == "cfg"
        numbers = COEFFICIENTS[guided:] if version == 2 else ()
        free = COEFFICIENTS[guided:] + ("guidance",) if version >= 3 else ()
        exact_keys(step, ("timestep", "mode", "gate") + numbers, ("scale",) + free)
        timestep, mode, gate = number(step.get("timestep")), step.get("mode"), step.get("gate")
        if not 0 <= timestep < before:
            raise Refused("timestep")
        before = timestep
        if mode not in ("cfg", "cond", "uncond") or guided != ("scale" in step.names()):
            raise Refused("mode or scale")
        scale = number(step.get("scale")) if guided else 1.0
        values = [number(step.get(key)) if key in numbers or (key in free and key in step.names()) else 0.0 for key in COEFFICIENTS]
        told.append(bits(number(step.get("guidance"))) if version >= 3 and "guidance" in step.names() else "-")
        gates = [gate, gate]
        if isinstance(gate, Pairs):
            exact_keys(gate, ("cond", "uncond"))
            gates = [gate.get("cond"), gate.get("uncond")]
        if any(not isinstance(g, str) or g not in ("full", "cached", "reuse", "extrapolate", "auto") for g in gates):
            raise Refused("gate")
        if version < 4 and "extrapolate" in gates:
            raise Refused("gate of version 4")
        if mode != "cfg" and gates[0] != gates[1]:
            raise Refused("gates differ")
        shown = [gates[0] if mode != "uncond" else "-", gates[1] if mode != "cond" else "-"]
        plain.append(" ".join([bits(timestep), mode, bits(scale)] + shown))
        fitted.append(values)
    tells = any(word != "-" for word in told)
    if tells or any(v for values in fitted for v in values):
        head = "ousac-schedule/3" if tells else "ousac-schedule/2"
        plain = [line + " " + " ".join(map(bits, values)) for line, values in zip(plain, fitted)]
        plain = [line + " " + word for line, word in zip(plain, told)] if tells else plain
    else:
        head = "ousac-schedule/1"
    lines = [head, "solver=" + solver, "steps=%d" % len(steps)] + plain
    return {"name": name, "digest": hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()}


def judge_schedule(data):
    try:
        return model_schedule(data), None
    except Refused:
        return None, None


# --- configs, of the checkpoint that make_dit writes ---

WIDTH, HIDDEN, BLOCKS, PATCH, CHANNELS, SIDE, ROWS, FREQUENCIES = 24, 96, 2, 2, 3, 8, 6, 256


class Config:
    def __init__(self, root):
        self.root = root

    def item(self, key):
        return self.root.get(key)

    def size(self, *keys):
        found = []
        for key in keys:
            value = self.item(key)
            if value is None:
                continue
            if not isinstance(value, float) or not 0 <= value < 1 << 31 or value != math.floor(value):
                raise Refused(key)
            found.append(int(value))
        if len(set(found)) > 1:
            raise Refused("two sizes")
        return found[0] if found else None

    def real(self, key, default):
        value = self.item(key)
        if value is None:
            return default
        if not isinstance(value, float) or not math.isfinite(value):
            raise Refused(key)
        return float(value)

    def kind(self, key, kind):
        value = self.item(key)
        if value is not None and not isinstance(value, kind):
            raise Refused(key)
        return value


def betas(config):
    own, kind = config.kind("betas", str), config.kind("beta_schedule", str)
    first, last = config.real("beta_start", None), config.real("beta_end", None)
    steps = config.size("num_train_timesteps")
    stated = any(v is not None for v in (kind, first, last, steps))
    if stated and kind not in ("linear", "scaled_linear"):
        raise Refused("beta_schedule")
    if own is not None and stated:
        raise Refused("both")
    if own is not None:
        words = own.split(" ")
        if not all(re.fullmatch(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?", w) for w in words[1:-1]) or not re.fullmatch(r"[0-9]+", words[-1]):
            raise Refused("betas")
        if words[0] == "flow" and len(words) == 2:
            return flow(int(words[1]))
        if len(words) != 4 or words[0] not in ("linear", "scaled_linear"):
            raise Refused("betas")
        kind, first, last, steps = words[0], float(words[1]), float(words[2]), int(words[3])
    if kind is None:
        kind = "linear"
    first, last = 1e-4 if first is None else first, 0.02 if last is None else last
    steps = 1000 if steps is None else steps
    if not (0 < first < 1 and 0 < last < 1) or not 1 <= steps <= 1000000:
        raise Refused("betas")
    root = kind == "scaled_linear"
    a, b = (math.sqrt(first), math.sqrt(last)) if root else (first, last)
    product, hash = 1.0, hashlib.sha256()
    for t in range(steps):
        beta = a + (b - a) * t / (steps - 1) if steps > 1 else a
        product *= 1 - (beta * beta if root else beta)
        hash.update(struct.pack("<d", product))
    return "diffusion/%d/%s" % (steps, hash.hexdigest()[:16])


def flow(steps):
    if not 1 <= steps <= 1000000:
        raise Refused("flow")
    return "flow/%d" % steps


def model_config(data):
    root = read_json(data)
    try:
        check_text(root)
    except Stricter as error:
        raise Refused(str(error)) from None
    if not isinstance(root, Pairs):
        raise Refused("no object")

    def unique(node):
        if isinstance(node, Pairs) and len(set(node.names())) < len(node):
            raise Refused("a key twice")
        for child in node:
            child = child[1] if isinstance(node, Pairs) else child
            if isinstance(child, list):
                unique(child)

    unique(root)
    config = Config(root)
    for key, wanted in (("activation_fn", "gelu-approximate"), ("norm_type", "ada_norm_zero")):
        if config.kind(key, str) not in (None, wanted):
            raise Refused(key)
    if config.kind("norm_elementwise_affine", bool):
        raise Refused("affine")
    for key in ("cross_attention_dim", "caption_channels", "num_vector_embeds", "trained_betas"):
        if config.item(key) is not None:
            raise Refused(key)
    for keys, value in ((("input_size", "sample_size"), SIDE), (("depth",), BLOCKS), (("num_layers",), BLOCKS), (("hidden_size",), WIDTH),
                        (("patch_size",), PATCH), (("in_channels",), CHANNELS), (("out_channels",), CHANNELS)):
        if config.size(*keys) not in (None, value):
            raise Refused(keys[0])
    if abs(config.real("mlp_ratio", HIDDEN / WIDTH) * WIDTH - HIDDEN) >= 1 or config.kind("learn_sigma", bool):
        raise Refused("mlp_ratio or learn_sigma")
    heads, head = config.size("num_heads", "num_attention_heads"), config.size("attention_head_dim")
    if heads is None or (head is not None and heads * head != WIDTH) or heads < 1 or WIDTH % heads:
        raise Refused("heads")
    eps, denominator = 1e-6, FREQUENCIES / 2
    if "_class_name" in root.names() or "num_attention_heads" in root.names():
        eps, denominator = config.real("norm_eps", 1e-5), denominator - 1
        if not 0 <= eps <= 1:
            raise Refused("norm_eps")
    classes = config.size("num_classes", "num_embeds_ada_norm")
    if classes is None:
        classes = ROWS - 1
    if classes < 1 or classes not in (ROWS, ROWS - 1):
        raise Refused("classes")
    names = config.item("classes")
    if names is not None and (not isinstance(names, list) or isinstance(names, Pairs) or len(names) != classes
                              or not all(isinstance(n, str) for n in names)):
        raise Refused("names")
    stated = [p for p in (config.kind("prediction", str), config.kind("prediction_type", str)) if p is not None]
    known = {"epsilon": "epsilon", "v": "v", "v_prediction": "v", "flow": "flow", "flow_prediction": "flow", "sample": "sample"}
    if any(p not in known for p in stated) or len({known[p] for p in stated}) > 1:
        raise Refused("prediction")
    prediction = known[stated[0]] if stated else "epsilon"
    if config.kind("rescale_betas_zero_snr", bool):
        raise Refused("zero snr")
    levels = betas(config)
    if (prediction == "v" and levels.startswith("flow")) or (prediction == "flow" and not levels.startswith("flow")):
        raise Refused("prediction and levels")
    span = config.item("data_range")
    if span is not None:
        if not isinstance(span, list) or isinstance(span, Pairs) or len(span) != 2:
            raise Refused("data_range")
        if not number(span[0]) < number(span[1]):
            raise Refused("data_range")
    guided = config.size("guided_channels")
    if guided is not None and not 1 <= guided <= CHANNELS:
        raise Refused("guided")
    singles = [struct.unpack("<f", struct.pack("<f", e))[0] for e in (1e-6, eps, 1e-6)]
    return {"constants": "dit heads=%d denominator=%.17g eps=%.9g,%.9g,%.9g classes=%d" % (heads, denominator, *singles, classes),
            "process": "predicts %s, guidance on %d of %d channels, noise levels %s" % (prediction, guided or CHANNELS, CHANNELS, levels), "uncond": classes + 1 == ROWS}


def judge_config(data):
    try:
        return model_config(data), None
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
        rng, steps, timestep, fitted, tells = self.rng, [], 1000.0, self.rng.random() < 0.5, self.rng.random() < 0.3
        extrapolates = rng.random() < 0.3
        for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
            timestep -= rng.choice([1, 10, 0.5, 1 / 3, 0, 100])
            mode = rng.choice(["cfg", "cond", "uncond"])
            gate = rng.choice(["full", "cached", "reuse", "auto"] + ["extrapolate"] * extrapolates)
            if rng.random() < 0.3:
                gate = Pairs([("cond", gate), ("uncond", rng.choice(["full", gate, gate]))])
            written = Raw(rng.choice(["%.17g", "%g", "%.3e", "%d"]) % timestep)
            step = Pairs([("timestep", written), ("mode", mode), ("gate", gate)])
            if mode == "cfg":
                step.insert(2, ("scale", Raw(rng.choice(["1", "4.5", "-0", "1e3", "0.30000000000000004", "1e-310", rng.choice(NUMBERS)]))))
            if fitted:
                for key in COEFFICIENTS[mode == "cfg" and rng.random() < 0.95:]:
                    step.append((key, Raw(rng.choice(["0", "0", "-0", "0.25", "-1e-3", "1e-310", rng.choice(NUMBERS)]))))
            if tells and rng.random() < 0.7:
                step.append(("guidance", Raw(rng.choice(["3.5", "1e1", "-0", "0.30000000000000004", "1e-310", rng.choice(NUMBERS)]))))
            if rng.random() < 0.2:
                rng.shuffle(step)
            steps.append(step)
        versions = ["2"] * 20 + ["2.0", "1", "3"] if fitted else ["1"] * 20 + ["1.0", "1e0", "2", "3", "0"]
        if tells:
            versions = ["3"] * 20 + ["3.0", "2", "4"]
        if extrapolates:
            versions = ["4"] * 20 + ["4.0", "3", "5"] if tells or not fitted or rng.random() < 0.5 else ["2"]
        root = Pairs([("format", "ousac-schedule"), ("version", Raw(rng.choice(versions))),
                      ("name", rng.choice(TEXTS)), ("solver", rng.choice(["ddim", "dpmpp-2m", "flow-euler"])),
                      ("step_count", Raw(rng.choice(["%d"] * 9 + ["%d.0", "%de0"]) % len(steps))), ("steps", steps)])
        if rng.random() < 0.2:
            rng.shuffle(root)
        self.change(root)
        text = self.write(root).encode("utf-8", "surrogatepass")
        return self.spoil(text) if rng.random() < 0.1 else text

    def config(self):
        rng = self.rng
        usual = {"num_heads": ["2", "4", "24", "2.0", "5", "0"], "num_attention_heads": ["2", "4", "3"], "attention_head_dim": ["12", "6", "8"],
                 "num_classes": ["5", "6", "4", "4.7", "1e300"], "num_embeds_ada_norm": ["5", "6"], "input_size": ["8", "4"],
                 "sample_size": ["8", "16"], "depth": ["2", "3"], "num_layers": ["2", "2e0"], "hidden_size": ["24", "25"], "patch_size": ["2"],
                 "in_channels": ["3"], "out_channels": ["3", "6"], "mlp_ratio": ["4", "4.0", "4.04", "4.05", "3"], "norm_eps": ["1e-5", "0", "2", "1e-46"],
                 "learn_sigma": ["false", "true", "null", "0"], "beta_start": ["1e-4", "0", "0.00085"], "beta_end": ["0.02", "0.012", "1"],
                 "num_train_timesteps": ["1000", "1", "17", "1000001"], "guided_channels": ["1", "3", "4", "0"],
                 "rescale_betas_zero_snr": ["false", "true"], "trained_betas": ["null", "[]"], "norm_elementwise_affine": ["false", "true", "null"],
                 "cross_attention_dim": ["null", "1024"], "caption_channels": ["null"], "num_vector_embeds": ["null", "1"], "dropout": ["0.1"],
                 "data_range": ["[-1,1]", "[1,-1]", "null", "[0,1,2]", "{\"a\":0,\"b\":1}", "[-1e400,1]"]}
        texts = {"betas": ["linear 1e-4 0.02 1000", "scaled_linear 0.00085 0.012 50", "flow 1000", "flow 0", "linear 0 0.02 10", "cosine", ""],
                 "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"], "_class_name": ["DiTTransformer2DModel"],
                 "prediction": ["epsilon", "v", "flow", "sample", "x0"], "prediction_type": ["epsilon", "v_prediction", "flow_prediction", "sample_prediction"],
                 "activation_fn": ["gelu-approximate", "geglu"], "norm_type": ["ada_norm_zero", "layer_norm"]}
        root = Pairs([("num_heads", Raw("2"))] if rng.random() < 0.8 else [])
        for key in rng.sample(sorted(usual), rng.choice([0, 1, 2, 4])):
            first = usual[key][0] if rng.random() < 0.6 else rng.choice(usual[key])
            root.append((key, Raw(first)))
        for key in rng.sample(sorted(texts), rng.choice([0, 0, 1, 2])):
            root.append((key, texts[key][0] if rng.random() < 0.5 else rng.choice(texts[key])))
        if rng.random() < 0.1:
            root.append(("classes", ["ring", "disc", "bar", "a", "b"][:rng.choice([5, 5, 4])]))
        if rng.random() < 0.9:
            seen = set()
            root = Pairs([(k, v) for k, v in root if not (k in seen or seen.add(k))])
        rng.shuffle(root)
        self.change(root)
        text = self.write(root).encode("utf-8", "surrogatepass")
        return self.spoil(text) if rng.random() < 0.1 else text

    def change(self, root):
        self.oddity = self.rng.choice([0, 0, 0, 0.02, 0.2])
        for _ in range(self.rng.choice([0, 0, 1, 1, 2, 4])):
            self.mutate(root)


KINDS = {"safetensors": (Maker.safetensors, judge_safetensors), "schedule": (Maker.schedule, judge_schedule),
         "config": (Maker.config, judge_config)}


class Judge:
    def __init__(self, kind):
        self.folder, arguments = None, []
        if kind == "config":
            self.folder = tempfile.TemporaryDirectory()
            subprocess.run([os.path.join(os.path.dirname(JUDGE), "..", "tools", "make_dit"), self.folder.name], check=True)
            arguments = [os.path.join(self.folder.name, "model.safetensors")]
        self.process = subprocess.Popen([JUDGE, kind] + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, data):
        self.process.stdin.write(struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the judge died of %r" % data)
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        if self.folder:
            self.folder.cleanup()


def disagreement(kind, data, found):
    """What is wrong, or None."""
    try:
        wanted, strict = KINDS[kind][1](data)
    except AssertionError as error:
        return "the references differ: %s" % error
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
