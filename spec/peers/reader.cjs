// A reader of tarn's images and files, written from docs/FORMAT.md and nothing else: it shows that the page is enough. Prints the value of each
// file or image in the canonical text that spec/peers/format_spec.lua makes of the same value.
"use strict";
const fs = require("fs");

const ALIGN = 64n;
const roundUp = (n) => ((n + ALIGN - 1n) / ALIGN) * ALIGN;

class Corrupt extends Error {}
const must = (condition, what) => {
  if (!condition) throw new Corrupt(what);
};

// ---- MessagePack, with the objects numbered as they begin ----

class Skeleton {
  constructor(bytes, image) {
    this.bytes = bytes;
    this.at = 0;
    this.image = image;
    this.objects = image.objects;
  }

  take(n) {
    must(n <= this.bytes.length - this.at, "cut off");
    const piece = this.bytes.subarray(this.at, this.at + n);
    this.at += n;
    return piece;
  }

  uint(n) {
    const b = this.take(n);
    return n === 8 ? b.readBigUInt64BE() : b.readUIntBE(0, n);
  }

  int(n) {
    const b = this.take(n);
    return n === 8 ? b.readBigInt64BE() : b.readIntBE(0, n);
  }

  // {kind, ...}: nil, bool, number, int64, uint64, string, array (count), map (count), ext (type, bytes)
  token() {
    const code = this.take(1)[0];
    if (code < 0x80) return { kind: "number", v: code };
    if (code < 0x90) return { kind: "map", count: code & 15 };
    if (code < 0xa0) return { kind: "array", count: code & 15 };
    if (code < 0xc0) return { kind: "string", v: this.take(code & 31) };
    if (code >= 0xe0) return { kind: "number", v: code - 256 };
    const ext = (n) => {
      const type = this.int(1);
      return { kind: "ext", type, bytes: this.take(n) };
    };
    const wide = (v, kind) => {
      const limit = 1n << 53n;
      return v <= limit && v >= -limit ? { kind: "number", v: Number(v) } : { kind, v };
    };
    switch (code) {
      case 0xc0: return { kind: "nil" };
      case 0xc2: return { kind: "bool", v: false };
      case 0xc3: return { kind: "bool", v: true };
      case 0xc4: case 0xc5: case 0xc6: return { kind: "string", v: this.take(this.uint(1 << (code - 0xc4))) };
      case 0xc7: case 0xc8: case 0xc9: return ext(this.uint(1 << (code - 0xc7)));
      case 0xca: return { kind: "number", v: this.take(4).readFloatBE() };
      case 0xcb: return { kind: "number", v: this.take(8).readDoubleBE() };
      case 0xcc: case 0xcd: case 0xce: return { kind: "number", v: this.uint(1 << (code - 0xcc)) };
      case 0xcf: return wide(this.uint(8), "uint64");
      case 0xd0: case 0xd1: case 0xd2: return { kind: "number", v: this.int(1 << (code - 0xd0)) };
      case 0xd3: return wide(this.int(8), "int64");
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return ext(1 << (code - 0xd4));
      case 0xd9: case 0xda: case 0xdb: return { kind: "string", v: this.take(this.uint(1 << (code - 0xd9))) };
      case 0xdc: case 0xdd: return { kind: "array", count: this.uint(2 << (code - 0xdc)) };
      case 0xde: case 0xdf: return { kind: "map", count: this.uint(2 << (code - 0xde)) };
      default: throw new Corrupt("byte 0xc1");
    }
  }

  index(limit) {
    const t = this.token();
    must(t.kind === "number" && Number.isInteger(t.v) && t.v >= 0 && t.v < limit, "an index out of range");
    return t.v;
  }

  value() {
    const t = this.token();
    if (t.kind === "array" || t.kind === "map") return this.table(t, {});
    return t.kind === "ext" ? this.extension(t) : t;
  }

  // A table's entries; into: the object, which has its number.
  table(t, into) {
    Object.assign(into, { kind: "table", entries: [] });
    this.objects.push(into);
    must(t.count * (t.kind === "map" ? 2 : 1) <= this.bytes.length - this.at, "more promised than there is");
    for (let i = 1; i <= t.count; i++) {
      const key = t.kind === "map" ? this.value() : { kind: "number", v: i };
      must(key.kind !== "nil", "a nil key");
      into.entries.push([key, this.value()]);
    }
    return into;
  }

  // [module] or [module, key]
  name() {
    const t = this.token();
    must(t.kind === "array" && (t.count === 1 || t.count === 2), "a malformed name");
    const parts = [];
    for (let i = 0; i < t.count; i++) parts.push(this.token().v.toString());
    return parts.join(".");
  }

  extension(t) {
    const inner = new Skeleton(t.bytes, this.image);
    const result = inner.payload(t.type);
    must(inner.at === t.bytes.length, "bytes to spare in an extension");
    return result;
  }

  payload(type) {
    switch (type) {
      case 0x11: return this.objects[this.index(this.objects.length)];
      case 0x12: return { kind: "int64", v: this.take(8).readBigInt64LE() };
      case 0x13: return { kind: "uint64", v: this.take(8).readBigUInt64LE() };
      case 0x14: return { kind: "name", v: this.name() };
      case 0x19: return this.typed();
      case 0x1b: {
        const both = this.token();
        must(both.kind === "array" && both.count === 2, "a malformed table with a metatable");
        const metatable = this.name();
        const inner = this.token();
        must(inner.kind === "array" || inner.kind === "map", "a metatable for what is no table");
        return this.table(inner, { metatable });
      }
      default: throw new Corrupt("extension type " + type);
    }
  }

  block() {
    const t = this.token();
    must(t.kind === "ext" && t.type === 0x1a, "a block is expected");
    return this.image.blocks[new Skeleton(t.bytes, this.image).index(this.image.blocks.length)];
  }

  typed() {
    const object = {};
    this.objects.push(object);
    const serializer = this.image.serializers[this.index(this.image.serializers.length)];
    const read = TYPES[serializer];
    must(read, "no reader for " + serializer);
    return Object.assign(object, read(this));
  }
}

// ---- built-in types ----

const NUMBERS = {
  bool: [1, (b, at) => b[at] !== 0],
  int8_t: [1, (b, at) => b.readInt8(at)], uint8_t: [1, (b, at) => b.readUInt8(at)],
  int16_t: [2, (b, at) => b.readInt16LE(at)], uint16_t: [2, (b, at) => b.readUInt16LE(at)],
  int32_t: [4, (b, at) => b.readInt32LE(at)], uint32_t: [4, (b, at) => b.readUInt32LE(at)],
  int64_t: [8, (b, at) => b.readBigInt64LE(at)], uint64_t: [8, (b, at) => b.readBigUInt64LE(at)],
  float: [4, (b, at) => b.readFloatLE(at)], double: [8, (b, at) => b.readDoubleLE(at)],
};

const TYPES = {
  array(s) {
    const type = s.token().v.toString();
    const n = s.token().v;
    const offset = s.token().v;
    const shape = s.value();
    const block = s.block();
    const [size, read] = NUMBERS[type];
    must(offset + n * size <= block.length, "elements outside their block");
    const values = [];
    for (let i = 0; i < n; i++) values.push(read(block, offset + i * size));
    const dims = shape.kind === "bool" ? "" : shape.entries.map((e) => e[1].v).join("x");
    return { kind: "array", type, dims, values };
  },
  bits(s) {
    const n = s.token().v;
    const first = s.token().v;
    const block = s.block();
    const values = [];
    for (let i = first; i < first + n; i++) values.push(((block[i >> 3] >> (i & 7)) & 1) === 1);
    return { kind: "bits", values };
  },
  strings(s) {
    const n = s.token().v;
    const width = s.token().v;
    const from = s.token().v;
    const blobAt = s.token().v;
    const blobSize = s.token().v;
    const there = s.value();
    const offsets = s.block();
    const blob = s.block().subarray(blobAt, blobAt + blobSize);
    const offset = (i) => (width === 8 ? Number(offsets.readBigUInt64LE(from + 8 * i)) : offsets.readUInt32LE(from + 4 * i));
    const values = [];
    for (let i = 0; i < n; i++) {
      const is = there.kind === "nil" || there.values[i];
      values.push(is ? { kind: "string", v: blob.subarray(offset(i), offset(i + 1)) } : null);
    }
    return { kind: "strings", values };
  },
  nullable(s) {
    const inner = s.value();
    const there = s.value();
    return { kind: "nullable", values: inner.values.map((v, i) => (there.values[i] ? v : null)) };
  },
  pooled(s) {
    const codes = s.value();
    const distinct = s.value();
    const there = s.value();
    const at = (code, i) => (there.kind === "nil" || there.values[i] ? distinct.values[code] : null);
    return { kind: "pooled", values: codes.values.map(at) };
  },
  table(s) {
    const list = (t) => t.entries.map((e) => e[1].v.toString());
    const names = list(s.value());
    const key = list(s.value());
    return { kind: "columns", names, key, columns: names.map(() => s.value()) };
  },
};

// ---- images and files ----

function readHead(s) {
  const head = s.value();
  must(head.kind === "table" && head.entries.length === 3, "a malformed head");
  return head.entries[0][1].entries.map((e) => e[1].entries[0][1].v.toString());
}

function readImage(bytes) {
  const image = { serializers: [], blocks: [], objects: [] };
  let skeleton = bytes;
  const headed = new Skeleton(bytes, image);
  if (bytes[0] === 0xc1) {
    must(bytes.subarray(0, 4).toString("latin1") === "\xc1TRN" && bytes[4] === 1 && bytes[5] === 0, "the image's first bytes");
    const headSize = bytes.readUInt32LE(8);
    const count = bytes.readUInt32LE(12);
    const from = 32 + 8 * count + headSize;
    const front = from + Number(bytes.readBigUInt64LE(16));
    skeleton = bytes.subarray(from, front);
    let at = BigInt(front);
    for (let i = 0; i < count; i++) {
      const size = bytes.readBigUInt64LE(32 + 8 * i);
      at = roundUp(at);
      image.blocks.push(bytes.subarray(Number(at), Number(at + size)));
      at += size;
    }
    must(at === BigInt(bytes.length), "the image's end");
    if (headSize) {
      image.serializers = readHead(new Skeleton(bytes.subarray(32 + 8 * count, from), { ...image, objects: [] }));
    }
  } else {
    const first = headed.token();
    if (first.kind === "ext" && first.type === 0x10) {
      const inner = new Skeleton(first.bytes, { ...image, objects: [] });
      image.serializers = readHead(inner);
      skeleton = first.bytes.subarray(inner.at);
    }
  }
  const s = new Skeleton(skeleton, image);
  const value = s.value();
  must(s.at === skeleton.length, "bytes behind the value");
  return value;
}

function readFile(bytes) {
  must(bytes.subarray(0, 8).toString("latin1") === "\x89TARN\r\n\x1a" && bytes.readUInt32LE(8) === 1, "the file's first bytes");
  must(Number(bytes.readBigUInt64LE(24)) === bytes.length, "the file's size");
  const count = bytes.readUInt32LE(12);
  return readImage(bytes.subarray(Number(roundUp(BigInt(64 + 8 * count)))));
}

// ---- canonical text ----

function numberText(v) {
  if (typeof v === "bigint") return "i" + v;
  if (Number.isNaN(v)) return "nan";
  const b = Buffer.alloc(8);
  b.writeDoubleBE(v);
  return "d" + b.toString("hex");
}

function elementText(v) {
  if (v === null) return "nil";
  if (typeof v === "boolean") return String(v);
  return typeof v === "object" ? "s" + v.v.toString("hex") : numberText(v);
}

const elementsText = (x) => `(${x.values.map(elementText).join(",")})`;

function text(x, seen) {
  switch (x.kind) {
    case "nil": return "nil";
    case "bool": return String(x.v);
    case "number": return numberText(x.v);
    case "int64": return "i" + x.v;
    case "uint64": return "u" + x.v;
    case "string": return "s" + x.v.toString("hex");
    case "name": return "N" + x.v;
  }
  if (seen.has(x)) return "#" + seen.get(x);
  seen.set(x, seen.size);
  if (x.kind === "array") return `A${x.type}[${x.dims}]${elementsText(x)}`;
  if (x.kind === "columns") {
    const columns = x.columns.map((c, i) => Buffer.from(x.names[i]).toString("hex") + elementsText(c));
    return `C[${x.key.map((k) => Buffer.from(k).toString("hex")).join(",")}](${columns.join(",")})`;
  }
  if (x.values) return x.kind + elementsText(x);
  const entries = x.entries.filter((e) => e[1].kind !== "nil").map((e) => [text(e[0], seen), e[1]]);
  entries.sort((a, b) => (a[0] < b[0] ? -1 : 1));
  return `T${x.metatable || ""}(${entries.map((e) => e[0] + "=" + text(e[1], seen)).join(",")})`;
}

// Arguments: "images FILE": u32 little-endian length and image, again and again; "files FILE...".
const lines = [];
if (process.argv[2] === "images") {
  const all = fs.readFileSync(process.argv[3]);
  for (let at = 0; at < all.length; ) {
    const size = all.readUInt32LE(at);
    lines.push(text(readImage(all.subarray(at + 4, at + 4 + size)), new Map()));
    at += 4 + size;
  }
} else {
  for (const path of process.argv.slice(3)) lines.push(text(readFile(fs.readFileSync(path)), new Map()));
}
process.stdout.write(lines.join("\n") + "\n");
