// Read an export of kvattn's golden cases with nothing but Node.js: check its sums, and compute dense attention again.
//
//   node check_export.mjs DIR        DIR holds goldens.json, SHA256SUMS and, where arrays are apart, goldens.safetensors

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2];
const complaints = [];
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

for (const line of readFileSync(join(folder, "SHA256SUMS"), "utf8").trim().split("\n")) {
  const [sum, name] = line.split("  ");
  if (sha256(readFileSync(join(folder, name))) !== sum) complaints.push(`${name} is not what SHA256SUMS promises`);
}

const index = JSON.parse(readFileSync(join(folder, "goldens.json"), "utf8"));
const binary = join(folder, "goldens.safetensors");
const tensors = existsSync(binary) ? safetensors(readFileSync(binary)) : null;

function safetensors(bytes) {
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + size));
  const data = bytes.subarray(8 + size);
  return (name) => data.subarray(...header[name].data_offsets);
}

const widths = { float64: 8, int64: 8, bool: 1, float32: 4, bfloat16: 2, float16: 2 };
const special = { nan: NaN, inf: Infinity, "-inf": -Infinity };

// The little-endian bytes of an array, wherever its elements stand.
function bytesOf(array) {
  if ("tensor" in array) return tensors(array.tensor);
  const width = widths[array.dtype] ?? 1;
  const elements = array.values ?? array.bits;
  const bytes = Buffer.alloc(elements.length * width);
  elements.forEach((x, i) => {
    if (array.dtype === "float64") bytes.writeDoubleLE(typeof x === "string" ? special[x] : x, 8 * i);
    else if (array.dtype === "int64") bytes.writeBigInt64LE(BigInt(x), 8 * i);
    else bytes.writeUIntLE(Number(x), width * i, width);
  });
  return bytes;
}

// What a reader needs: numbers by their places.
function read(array) {
  const bytes = bytesOf(array);
  const at = (i) => {
    if (array.dtype === "float64") return bytes.readDoubleLE(8 * i);
    if (array.dtype === "int64") return Number(bytes.readBigInt64LE(8 * i));
    if (array.dtype === "bfloat16") {
      const wide = Buffer.alloc(4);
      wide.writeUInt16LE(bytes.readUInt16LE(2 * i), 2);
      return wide.readFloatLE(0);
    }
    return bytes[i];
  };
  const [B, H, T, D] = array.shape.length === 4 ? array.shape : [1, 1, 1, array.shape[0]];
  return { shape: [B, H, T, D], get: (b, h, t, d) => at(((b * H + h) * T + t) * D + d), flat: at };
}

function digest(arrays) {
  const total = createHash("sha256");
  for (const name of Object.keys(arrays).sort()) {
    total.update(`${name}\0${arrays[name].dtype}\0${arrays[name].shape.join(",")}\0`);
    total.update(bytesOf(arrays[name]));
  }
  return total.digest("hex");
}

// The operation "attention" in double, for the parameters named here.
const known = new Set(["scale", "softcap", "causal", "window", "prefix"]);
const formats = new Set(["float64", "int64", "bool", "bfloat16"]);

function attention(test) {
  const [q, k, v] = ["q", "k", "v"].map((name) => read(test.inputs[name]));
  const [bias, mask, sinks, qp, kp] = ["bias", "mask", "sinks", "q_positions", "k_positions"].map((name) =>
    name in test.inputs ? read(test.inputs[name]) : null);
  const { scale, softcap, causal, window: size, prefix } = test.parameters;
  const [B, H, T, D] = q.shape;
  const [, Hkv, S] = k.shape;
  const Dv = v.shape[3];
  const spread = (x, b, h, t, s) => x.get(...[b, h, t, s].map((n, axis) => (x.shape[axis] > 1 ? n : 0)));
  const out = [], lse = [];
  for (let b = 0; b < B; b++) for (let h = 0; h < H; h++) for (let t = 0; t < T; t++) {
    const g = Math.floor(h / (H / Hkv));
    const scores = [];
    for (let s = 0; s < S; s++) {
      const i = qp ? qp.flat(b * T + t) : S - T + t, j = kp ? kp.flat(b * S + s) : s;
      const near = (size === undefined || (i - j >= 0 && i - j < size)) && (!causal || j <= i);
      if (!(near || (prefix !== undefined && j < prefix))) continue;
      if (mask && !spread(mask, b, h, t, s)) continue;
      let x = 0;
      for (let d = 0; d < D; d++) x += q.get(b, h, t, d) * k.get(b, g, s, d);
      x *= scale ?? 1 / Math.sqrt(D);
      if (softcap !== undefined) x = softcap * Math.tanh(x / softcap);
      if (bias) x += spread(bias, b, h, t, s);
      if (x !== -Infinity) scores.push([x, s]);
    }
    const sink = sinks ? sinks.flat(h) : -Infinity;
    const top = Math.max(sink, ...scores.map(([x]) => x));
    const weights = scores.map(([x, s]) => [Math.exp(x - top), s]);
    const total = weights.reduce((sum, [w]) => sum + w, sink === -Infinity ? 0 : Math.exp(sink - top));
    for (let d = 0; d < Dv; d++) out.push(weights.reduce((sum, [w, s]) => sum + w * v.get(b, g, s, d), 0) / (total || 1));
    lse.push(total ? top + Math.log(total) : -Infinity);
  }
  return { out, lse };
}

let recomputed = 0;
for (const test of index.cases) {
  for (const part of ["inputs", "expected"]) {
    if (digest(test[part]) !== test[`${part}Sha256`]) complaints.push(`${test.name}: ${part} has another digest`);
  }
  const dense = test.operation === "attention" && test.result !== "invalid" && !("slopes" in test.inputs) &&
    !("documents" in test.inputs) && !("lengths" in test.inputs) && !("starts" in test.inputs) &&
    test.inputs.v.shape[2] > 0 && Object.keys(test.parameters).every((name) => known.has(name)) &&
    Object.values(test.inputs).every((array) => formats.has(array.dtype));
  if (!dense) continue;
  recomputed += 1;
  for (const [name, found] of Object.entries(attention(test))) {
    const expected = read(test.expected[name]);
    found.forEach((x, n) => {
      const gap = x === expected.flat(n) ? 0 : Math.abs(x - expected.flat(n));
      if (!(gap <= test.expected[name].bound)) complaints.push(`${test.name}: ${name} is ${x}, not ${expected.flat(n)}`);
    });
  }
}

for (const complaint of complaints.slice(0, 20)) console.log(complaint);
console.log(`${index.cases.length} cases read, ${recomputed} computed again in double within their bounds`);
process.exit(complaints.length ? 1 : 0);
