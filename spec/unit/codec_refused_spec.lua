local ffi = require "ffi"
local core = require "tarn.core"
local errors = require "tarn.errors"
local array = require "tarn.array"
local bytes = require "spec.helper.bytes"
local fails = require "spec.helper.fails"

local function back(x) return core.decode(core.encode(x)) end

local function corrupt(text) return fails("Corrupt", core.decode, bytes.unhex(text)) end

describe("codec: what cannot travel", function()
  local function refused(x, message, path)
    local e = fails("NotSerializable", core.encode, x)
    assert.is_truthy(e.message:find(message, 1, true), e.message)
    assert.are.equal(path, e.path)
  end

  it("is named with the path to it", function()
    local thread = coroutine.create(print)
    refused(thread, "a coroutine cannot travel", nil)
    refused({ x = { 1, 2, { thread } } }, "a coroutine", "element 1 of element 3 of field 'x'")
    refused({ [thread] = 1 }, "a coroutine", "a key")
    refused({ [1.5] = thread }, "a coroutine", "field [1.5]")
    refused({ list = { setmetatable({}, {}) } }, "unregistered metatable", "element 1 of field 'list'")
    refused({ io.stdout }, "a userdata cannot travel", "element 1")
    refused({ ffi.new("struct { int x; }") }, "a cdata of type 'struct", "element 1")
    refused({ ffi.cast("void *", 0) }, "a cdata of type 'void *'", "element 1")
    refused(("x"):gmatch("x"), "a C function that is in no module", nil)
  end)

  it("in a function's variable is named with the function's line", function()
    local db = io.stdout
    local line = debug.getinfo(1, "l").currentline + 1
    local function job() return db end
    local e = fails("NotSerializable", core.encode, job)
    assert.is_truthy(e.path:match("^upvalue 'db' of function at .*codec_refused_spec.lua:" .. line .. "$"), e.path)
    e = fails("NotSerializable", core.encode, { callback = job })
    assert.is_truthy(e.path:match("^upvalue 'db' of function at .*codec_refused_spec.lua:" .. line .. " in field 'callback'$"), e.path)
  end)

  it("leaves the encoder as good as before", function()
    for _ = 1, 100 do
      pcall(core.encode, { { {} }, array("double", 10), function() end, coroutine.create(print) })
      assert.are.same({ { 1 }, { 1 } }, back { { 1 }, { 1 } })
    end
  end)

  it("deep inside has a path of bounded length", function()
    local t = { coroutine.create(print) }
    for i = 1, 900 do t = { ["field" .. i] = t } end
    assert.is_true(#fails("NotSerializable", core.encode, t).path < 600)
  end)
end)

describe("codec: hostile bytes", function()
  it("are refused with what is wrong", function()
    for _, text in ipairs { "", "c1", "91", "9101ff", "a5616263", "81", "81c001", "81cb7ff800000000000001", "cd00", "dd7fffffffc0",
      "df7fffffffc0c0", "c7ff10", "d41100", "d51100", "d41a00", "d41900", "c70114", "c7021490c0", "d41500", "d41600", "d43000", "0101" } do
      corrupt(text)
    end
  end)

  it("that claim much get little memory", function()
    -- Arrays of claims within claims: each alone would fit the input.
    local claim = "\xdd\x00\x0f\x00\x00"
    local s = claim:rep(900) .. ("\x00"):rep(1000000)
    collectgarbage()
    collectgarbage("stop")
    local before = collectgarbage("count")
    fails("Corrupt", core.decode, s)
    assert.is_true(collectgarbage("count") - before < 30000)
    collectgarbage("restart")
    fails("Corrupt", core.decode, "\xdd\xff\xff\xff\xff")
    fails("Corrupt", core.decode, "\xdf\xff\xff\xff\xff\x01\x01")
    fails("Corrupt", core.decode, "\xc9\xff\xff\xff\xff\x10")
  end)

  -- Changed bytes, cut ends, inflated counts, and parts of two put together.
  local damages = {
    function(s)
      local at = math.random(#s)
      return s:sub(1, at - 1) .. string.char(math.random(0, 255)) .. s:sub(at + 1)
    end,
    function(s) return s:sub(1, math.random(#s)) end,
    function(s)
      local at = math.random(#s)
      return s:sub(1, at - 1) .. ("\255"):rep(math.random(8)) .. s:sub(at + math.random(0, 8))
    end,
    function(s)
      local at = math.random(#s)
      return s:sub(1, at) .. ("\0"):rep(math.random(64)) .. s:sub(at + math.random(0, 64))
    end,
    function(s, other) return s:sub(1, math.random(#s)) .. other:sub(math.random(#other)) end,
    function(s, other)
      local at, size = math.random(#s), math.random(64)
      local from = math.random(#other)
      return s:sub(1, at) .. other:sub(from, from + size - 1) .. s:sub(at + 1 + size)
    end,
    function(s, other) return other:sub(1, 32) .. s:sub(33) end, -- the fixed header of one, the rest of another
  }

  it("made of good ones by damage and by crossing them over never do more than fail", function()
    local values = require "spec.helper.values"
    package.loaded[values.CLASS] = values.Class
    local seed, good = values.seed(), {}
    math.randomseed(seed)
    local make = values.generator(math.random, { functions = true })
    for i = 1, 200 do good[i] = core.encode { make(), make() } end
    local refused = 0
    for round = 1, 12000 do
      local s = good[math.random(#good)]
      for _ = 1, math.random(3) do s = damages[math.random(#damages)](s, good[math.random(#good)]) end
      local where = ("TARN_SEED=%d, round %d: "):format(seed, round)
      local ok, x = pcall(core.decode, s, { code = false })
      if ok then
        local written, again = pcall(core.encode, x)
        if written then
          assert.is_true(pcall(core.decode, again, { code = false }), where .. "what was read and written again is not read")
        else
          assert.is_true(errors.iserror(again), where .. tostring(again))
        end
        pcall(tostring, type(x) == "table" and x[1] or x)
      else
        assert.is_true(errors.iserror(x), where .. tostring(x))
        refused = refused + 1
      end
      if round % 1000 == 0 then collectgarbage() end
    end
    assert.is_true(refused > 3000, refused .. " refused")
    package.loaded[values.CLASS] = nil
  end)

  it("cannot name a metatable for a table that is something else already", function()
    local Class = {}
    package.loaded["spec.codec_class"] = Class
    local name = core.name_bytes("spec.codec_class")
    local string_name = "\xd7\x14" .. core.name_bytes("string") -- NAME [string]: 8 bytes
    assert.are.equal(8, #core.name_bytes("string"))
    local payload = "\x92" .. name .. string_name
    fails("Corrupt", core.decode, "\xc7" .. string.char(#payload) .. "\x1b" .. payload)
    assert.is_nil(getmetatable(string))
    package.loaded["spec.codec_class"] = nil
  end)
end)
