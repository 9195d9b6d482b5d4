#!/usr/bin/env python3
"""A second decoder of .oca archives, written from formats/OCA.md; it shares nothing with formats/oca.c.

Checks everything that the specification demands. Zstandard comes from the `zstandard` module, or else from the `zstd`
program; without either, archives with compressed chunks raise NoZstd.

    python3 tests/interop/oca_decode.py FILE...    one JSON line a file: contents and digests, or what is wrong
"""
import hashlib
import json
import math
import struct
import subprocess
import sys

try:
    import zstandard
except ImportError:
    zstandard = None

MAGIC = bytes.fromhex("894f43410d0a1a0a")
DTYPES = [("f64", 8), ("f32", 4), ("f16", 2), ("bf16", 2), ("i8", 1), ("u8", 1), ("i32", 4), ("i64", 8)]
RAW, ZSTD, SHUFFLE_ZSTD = 0, 1, 2
MAX_CHUNK = 16777216
MASK = (1 << 64) - 1


class Invalid(Exception):
    """The file breaks a rule of the specification."""


class NoZstd(Exception):
    """Neither the zstandard module nor the zstd program is here."""


def need(condition, what):
    if not condition:
        raise Invalid(what)


def xxh64(data):
    """XXH64, seed 0, in the words of its specification: accumulators, convergence, tail, avalanche."""
    p1, p2, p3 = 11400714785074694791, 14029467366897019727, 1609587929392839161
    p4, p5 = 9650029242287828579, 2870177450012600261

    def rotl(x, r):
        return ((x << r) | (x >> (64 - r))) & MASK

    size = len(data)
    at = 0
    if size >= 32:
        a1, a2, a3, a4 = (p1 + p2) & MASK, p2, 0, -p1 & MASK
        stripes = size // 32
        for s1, s2, s3, s4 in struct.iter_unpack("<4Q", data[: stripes * 32]):
            a1 = (a1 + s1 * p2) & MASK
            a1 = ((a1 << 31 | a1 >> 33) & MASK) * p1 & MASK
            a2 = (a2 + s2 * p2) & MASK
            a2 = ((a2 << 31 | a2 >> 33) & MASK) * p1 & MASK
            a3 = (a3 + s3 * p2) & MASK
            a3 = ((a3 << 31 | a3 >> 33) & MASK) * p1 & MASK
            a4 = (a4 + s4 * p2) & MASK
            a4 = ((a4 << 31 | a4 >> 33) & MASK) * p1 & MASK
        at = stripes * 32
        acc = (rotl(a1, 1) + rotl(a2, 7) + rotl(a3, 12) + rotl(a4, 18)) & MASK
        for a in (a1, a2, a3, a4):
            acc ^= rotl(a * p2 & MASK, 31) * p1 & MASK
            acc = (acc * p1 + p4) & MASK
    else:
        acc = p5
    acc = (acc + size) & MASK
    while size - at >= 8:
        acc ^= rotl(struct.unpack_from("<Q", data, at)[0] * p2 & MASK, 31) * p1 & MASK
        acc = (rotl(acc, 27) * p1 + p4) & MASK
        at += 8
    if size - at >= 4:
        acc ^= struct.unpack_from("<I", data, at)[0] * p1 & MASK
        acc = (rotl(acc, 23) * p2 + p3) & MASK
        at += 4
    for byte in data[at:]:
        acc ^= byte * p5 & MASK
        acc = rotl(acc, 11) * p1 & MASK
    acc ^= acc >> 33
    acc = acc * p2 & MASK
    acc ^= acc >> 29
    acc = acc * p3 & MASK
    return acc ^ acc >> 32


def align64(x):
    return -(-x // 64) * 64


def frame_content(frame, size):
    """The decoded bytes of exactly one Zstandard frame that declares `size` (RFC 8878, section 3.1.1)."""
    need(len(frame) >= 5 and frame[:4] == b"\x28\xb5\x2f\xfd", "not a Zstandard frame")
    descriptor = frame[4]
    need(descriptor & 3 == 0, "a dictionary")
    need(descriptor >> 3 & 1 == 0, "the reserved bit")
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 if single else 6
    length = {0: single, 1: 2, 2: 4, 3: 8}[flag]
    need(length > 0, "no declared size")
    need(len(frame) >= at + length, "a cut frame header")
    declared = int.from_bytes(frame[at : at + length], "little") + (256 if flag == 1 else 0)
    need(declared == size, "a declared size other than the decoded size")
    at += length
    last = False
    while not last:
        need(len(frame) >= at + 3, "a cut block header")
        header = int.from_bytes(frame[at : at + 3], "little")
        last, kind, block = header & 1, header >> 1 & 3, header >> 3
        need(kind != 3, "a reserved block type")
        at += 3 + (1 if kind == 1 else block)
        need(len(frame) >= at, "a cut block")
    need(len(frame) == at + (4 if descriptor & 4 else 0), "more or less than one frame")
    if zstandard:
        try:
            plain = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
        except zstandard.ZstdError as error:
            raise Invalid("a frame that does not decompress: %s" % error) from error
    else:
        try:
            done = subprocess.run(["zstd", "-dcq"], input=frame, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise NoZstd("no zstandard module and no zstd program") from error
        need(done.returncode == 0, "a frame that does not decompress")
        plain = done.stdout
    need(len(plain) == size, "a frame of another size than it declares")
    return plain


class Tensor:
    """One tensor: name, dtype (text), shape, codec, chunks [(offset, stored, hash, decoded)], and its data."""

    def __init__(self, archive, name, dtype, shape, codec, chunk_size, size, chunks):
        self.archive, self.name, self.dtype, self.shape = archive, name, dtype, shape
        self.codec, self.chunk_size, self.size, self.chunks = codec, chunk_size, size, chunks
        self.width = dict(DTYPES)[dtype]

    def decode(self):
        parts = []
        for offset, stored, digest, decoded in self.chunks:
            raw = self.archive.data[offset : offset + stored]
            if stored < decoded:
                raw = frame_content(raw, decoded)
                if self.codec == SHUFFLE_ZSTD:
                    count = decoded // self.width
                    plain = bytearray(decoded)
                    for k in range(self.width):
                        plain[k :: self.width] = raw[k * count : (k + 1) * count]
                    raw = bytes(plain)
            need(xxh64(raw) == digest, "tensor %r: a chunk against its checksum" % self.name)
            padding = self.archive.data[offset + stored : align64(offset + stored)]
            need(not any(padding), "tensor %r: padding that is not zero" % self.name)
            parts.append(raw)
        return b"".join(parts)

    def decode_f32(self):
        """The numbers, rounded to binary32, as bytes; None where the dtype has no such reading."""
        raw, count = self.decode(), self.size // self.width
        if self.dtype == "f32":
            return raw
        if self.dtype == "f64":
            return b"".join(round_f32(x) for (x,) in struct.iter_unpack("<d", raw))
        if self.dtype == "f16":
            return struct.pack("<%df" % count, *struct.unpack("<%de" % count, raw))
        if self.dtype == "bf16":
            return b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2))
        scale = self.archive.tensors.get(self.name + ".scale") if self.dtype == "i8" else None
        if scale is None:
            return None
        scales = struct.unpack("<%df" % (scale.size // 4), scale.decode())
        row = self.shape[-1]
        numbers = struct.unpack("<%db" % count, raw)
        return b"".join(round_f32(x * scales[i // row]) for i, x in enumerate(numbers))


def round_f32(x):
    try:
        return struct.pack("<f", x)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, x))


class Archive:
    """A checked archive: `metadata` (a dict) and `tensors` (name to Tensor); both in file order."""

    def __init__(self, data):
        self.data = data
        need(data[:8] == MAGIC[: len(data)], "the magic")
        need(len(data) >= 64, "shorter than a header")
        major, self.minor, zero, index_at, index_size, payload, file_size, index_hash, header_hash = struct.unpack(
            "<HHIQQQQQQ", data[8:64]
        )
        need(major == 1, "major version %d" % major)
        need(header_hash == xxh64(data[:56]), "the header against its checksum")
        need(zero == 0, "header bytes 12 to 15")
        need(file_size == len(data) and file_size < 1 << 63, "the file size")
        need(index_at == 64, "the index offset")
        need(index_size >= 48 and 64 + index_size <= file_size, "the index size")
        need(payload == align64(64 + index_size) and payload <= file_size, "the payload offset")
        index = data[64 : 64 + index_size]
        need(index_hash == xxh64(index), "the index against its checksum")
        need(not any(data[64 + index_size : payload]), "the padding behind the index")
        m, t, k, text_size, extension, zero = struct.unpack_from("<6Q", index)
        need(index_size == 48 + 32 * m + 104 * t + 24 * k + text_size + extension, "the counts of the index")
        need(zero == 0, "index bytes 40 to 47")
        at_tensors = 48 + 32 * m
        at_chunks = at_tensors + 104 * t
        at_text = at_chunks + 24 * k
        self.text, self.cursor = index[at_text : at_text + text_size], 0
        self.metadata = {}
        keys = []
        for i in range(m):
            key_at, key_size, value_at, value_size = struct.unpack_from("<4Q", index, 48 + 32 * i)
            key = self.take_text(key_at, key_size, 1)
            value = self.take_text(value_at, value_size, 0)
            keys.append(key.encode())
            self.metadata[key] = value
        need(all(a < b for a, b in zip(keys, keys[1:])), "metadata sorted by key, each once")
        self.tensors = {}
        names = []
        end, next_chunk = payload, 0
        for i in range(t):
            record = struct.unpack_from("<QQIIIIQQQQQQQQQ", index, at_tensors + 104 * i)
            name = self.take_text(record[0], record[1], 1)
            dtype, codec, dims, zero = record[2:6]
            shape, (first, count, chunk_size, size) = record[6:10], record[10:14]
            names.append(name.encode())
            need(dtype < len(DTYPES), "tensor %r: the dtype" % name)
            need(codec <= SHUFFLE_ZSTD, "tensor %r: the codec" % name)
            need(1 <= dims <= 4, "tensor %r: the number of dimensions" % name)
            need(zero == 0, "tensor %r: record bytes 28 to 31" % name)
            need(all(shape[:dims]) and not any(shape[dims:]), "tensor %r: the shape" % name)
            product = math.prod(shape[:dims]) * DTYPES[dtype][1]
            need(product <= MASK and product == size, "tensor %r: the decoded size" % name)
            need(64 <= chunk_size <= MAX_CHUNK and chunk_size % 64 == 0, "tensor %r: the chunk size" % name)
            need(count == -(-size // chunk_size), "tensor %r: the number of chunks" % name)
            need(first == next_chunk and next_chunk + count <= k, "tensor %r: the first chunk" % name)
            chunks = []
            for c in range(count):
                offset, stored, digest = struct.unpack_from("<3Q", index, at_chunks + 24 * (first + c))
                decoded = min(chunk_size, size - c * chunk_size)
                need(1 <= stored <= decoded, "tensor %r: a stored size" % name)
                need(codec != RAW or stored == decoded, "tensor %r: a raw chunk's size" % name)
                need(offset == align64(end) and offset + stored <= file_size, "tensor %r: a chunk's place" % name)
                end = offset + stored
                chunks.append((offset, stored, digest, decoded))
            next_chunk += count
            self.tensors[name] = Tensor(self, name, DTYPES[dtype][0], list(shape[:dims]), codec, chunk_size, size, chunks)
        need(all(a < b for a, b in zip(names, names[1:])), "tensors sorted by name, each once")
        need(next_chunk == k, "chunks of no tensor")
        need(self.cursor == text_size, "text of no record")
        need(end == file_size, "bytes behind the last chunk")
        for name, tensor in self.tensors.items():
            scale = self.tensors.get(name + ".scale") if tensor.dtype == "i8" else None
            if scale:
                need(scale.dtype == "f32" and scale.shape == (tensor.shape[:-1] or [1]), "scales of %r" % name)

    def take_text(self, offset, size, least):
        """The next text of the section, which must be just where the record says."""
        need(offset == self.cursor and size >= least, "a text's offset or size")
        need(offset + size < len(self.text), "a text beyond its section")
        raw = self.text[offset : offset + size]
        need(self.text[offset + size] == 0 and 0 not in raw, "a text's NUL")
        self.cursor += size + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Invalid("text that is not UTF-8") from error


def describe(data):
    """What golden.json records of an archive: metadata, and of every tensor dtype, shape and digests."""
    archive = Archive(data)
    tensors = {}
    for name, tensor in archive.tensors.items():
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "sha256": hashlib.sha256(tensor.decode()).hexdigest()}
        numbers = tensor.decode_f32()
        if numbers is not None:
            entry["f32_sha256"] = hashlib.sha256(numbers).hexdigest()
        tensors[name] = entry
    return {"metadata": archive.metadata, "tensors": tensors}


def main(paths):
    worst = 0
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        try:
            print(json.dumps({"file": path, **describe(data)}, ensure_ascii=False))
        except Invalid as error:
            print(json.dumps({"file": path, "invalid": str(error)}))
            worst = 1
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
