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
end)
