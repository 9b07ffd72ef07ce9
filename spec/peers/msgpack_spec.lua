-- Plain values are ordinary MessagePack: another implementation reads what tarn writes, and tarn reads what it writes.
local node = require "spec.helper.node"
local process = require "spec.helper.process"

describe("MessagePack beside @msgpack/msgpack", function()
  it("is read there when written here", function()
    local path = process.tmpdir() .. "/value"
    process.write_file(path, tarn.encode({ name = "tarn", list = { 1, -129, 2.5, true }, deep = { { {} } } }))
    local out = node.run([[
      const { decode } = require("@msgpack/msgpack");
      process.stdout.write(JSON.stringify(decode(require("fs").readFileSync(process.argv[2]))));
    ]], { args = { path } })
    assert.truthy(out:find('"name":"tarn"', 1, true), out)
    assert.truthy(out:find('"list":[1,-129,2.5,true]', 1, true), out)
  end)

  it("is read here when written there", function()
    local out = node.run([[
      const { encode } = require("@msgpack/msgpack");
      process.stdout.write(encode({ n: [-129, -4294967297, 1e300, null], s: "\u00e9" }));
    ]])
    assert.same({ n = { -129, -4294967297, 1e300 }, s = "é" }, tarn.decode(out))
  end)

  -- Values of what MessagePack itself has; theirs are made of ours by decoding and encoding there.
  it("has the same values there, thousands of them, both ways", function()
    local seed, values = require("spec.helper.values").seed(), require "spec.helper.values"
    math.randomseed(seed)
    local make = values.generator(math.random, { plain = true, keys = "text", depth = 5 })
    local images, expected, directory = {}, {}, process.tmpdir()
    for i = 1, 5000 do
      local x = make()
      local image = tarn.encode(x)
      images[i] = ("%08x"):format(#image) .. image
      expected[i] = x
    end
    process.write_file(directory .. "/ours", table.concat(images))
    node.run([[
      const { decode, encode } = require("@msgpack/msgpack");
      const fs = require("fs");
      const all = fs.readFileSync(process.argv[2] + "/ours");
      const parts = [];
      for (let at = 0; at < all.length; ) {
        const size = parseInt(all.subarray(at, at + 8).toString(), 16);
        const value = decode(all.subarray(at + 8, at + 8 + size), { useBigInt64: true });
        const bytes = Buffer.from(encode(value, { useBigInt64: true }));
        parts.push(Buffer.from(bytes.length.toString(16).padStart(8, "0")), bytes);
        at += 8 + size;
      }
      fs.writeFileSync(process.argv[2] + "/theirs", Buffer.concat(parts));
    ]], { args = { directory } })
    local theirs, at, count = process.read_file(directory .. "/theirs"), 1, 0
    while at <= #theirs do
      local size = tonumber(theirs:sub(at, at + 7), 16)
      count = count + 1
      local back = tarn.decode(theirs:sub(at + 8, at + 7 + size))
      assert.is_true(values.same(expected[count], back), ("TARN_SEED=%d, value %d"):format(seed, count))
      at = at + 8 + size
    end
    assert.equal(5000, count)
  end)
end)
