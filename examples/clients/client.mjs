// A client of tarn in JavaScript, on @msgpack/msgpack. Written from docs/PROTOCOL.md.
//
//     node client.mjs ADDRESS SECRET_FILE       both as serve.lua prints them
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { decode, encode } from "@msgpack/msgpack";

/** What a process answered instead of a result. kind: see "Errors" in docs/PROTOCOL.md. */
class TarnError extends Error {
  constructor(error) {
    super(typeof error === "string" ? error : `${error.kind}: ${error.message}`);
    this.kind = error.kind ?? error.split(":")[0]; // only a refused secret is a string
  }
}

/** A connection to a process: (await Tarn.connect(address, secret)).request(method, ...params). One request is asked after the other. */
class Tarn {
  static async connect(address, secret) {
    const tarn = new Tarn();
    const [, host, port] = address.match(/^\[?(.*?)\]?:(\d+)$/);
    tarn.last = new Promise((resolve) => (tarn.socket = connect({ host, port, noDelay: true }, resolve)));
    tarn.socket.on("data", (bytes) => tarn.received(bytes));
    tarn.socket.on("error", (error) => tarn.done(error));
    tarn.socket.on("close", () => tarn.done(new Error("the process has closed the connection")));
    tarn.msgid = 0;
    await tarn.request("auth.secret", secret);
    return tarn;
  }

  request(method, ...params) {
    const ask = (resolve, reject) => {
      this.waiting = { resolve, reject };
      this.bytes = Buffer.allocUnsafe(65536); // a new one: results are views of it
      this.size = this.tried = 0;
      this.socket.write(encode([0, ++this.msgid, method, params]), (error) => error && reject(error));
    };
    const answer = this.last.then(() => new Promise(ask));
    this.last = answer.catch(() => {});
    return answer;
  }

  // Whether a response is whole is seen by decoding it: again when there is twice as much of it, or no more has come for a moment. (The
  // library's decodeMultiStream copies all it has with every piece that comes: minutes for 64 MiB.)
  received(bytes) {
    if (this.size + bytes.length > this.bytes.length) this.bytes = Buffer.concat([this.bytes], 2 * (this.size + bytes.length));
    this.size += bytes.copy(this.bytes, this.size);
    clearTimeout(this.timer);
    if (this.size >= 2 * this.tried) this.decode();
    else this.timer = setTimeout(() => this.decode(), 1);
  }

  decode() {
    this.tried = this.size;
    try {
      const [, , error, result] = decode(this.bytes.subarray(0, this.size));
      this.done(error && new TarnError(error), result);
    } catch (error) {
      if (!(error instanceof RangeError)) this.done(error); // else there is more to come
    }
  }

  done(error, result) {
    error ? this.waiting?.reject(error) : this.waiting.resolve(result);
  }
}

const [address, secretFile] = process.argv.slice(2);
const tarn = await Tarn.connect(address, readFileSync(secretFile, "ascii").trim());
const value = { name: "Ada", list: [1, -129, 2.5, null], bytes: new Uint8Array([255, 0]) };
let key = await tarn.request("pool.set", value);
console.log("stored", await tarn.request("pool.get", key));
console.log("a function of Lua's:", await tarn.request("call", "string.rep", ["ab", 3]));
console.log("code:", await tarn.request("eval", "local a, b = ... return a + b", [2, 3]));
console.log("primes up to 100000, counted by the workers:", await tarn.request("call", "demo.primes", [100000]));
await tarn.request("pool.delete", key);
await tarn.request("pool.get", key).catch((error) => console.log("deleted:", error.kind));
const large = Buffer.alloc(2 ** 26, Uint8Array.from({ length: 256 }, (_, i) => i));
key = await tarn.request("pool.set", large);
console.log("64 MiB came back unchanged:", large.equals(await tarn.request("pool.get", key)));
tarn.socket.end();
