local ffi = require "ffi"
local core = require "tarn.core"
local array = require "tarn.array"
local serializer = require "tarn.serializer"
local fails = require "spec.helper.fails"

local function back(x) return core.decode(core.encode(x)) end

local Point = {}
Point.__index = Point
local function point(x, y) return setmetatable({ x = x, y = y }, Point) end

local function point_serializer(changes)
  local spec = {
    name = "spec_point", version = 1, type = Point,
    approx_size = function() return 16 end,
    mmwrite = function(out, p)
      out:value(p.x)
      out:value(p.y)
    end,
    mmread = function(inp) return point(inp:value(), inp:value()) end,
  }
  for k, v in pairs(changes or {}) do spec[k] = v end
  local made = serializer(spec) -- no tail call: errors name this file
  return made
end

describe("serializer", function()
  before_each(function() point_serializer() end)

  it("writes and reads values of its type, at any depth", function()
    local p = back { deep = { point(1, 2) } }.deep[1]
    assert.is_true(getmetatable(p) == Point)
    assert.are.same({ 1, 2 }, { p.x, p.y })
    assert.are.equal(16, (core.approx_size(point(1, 2))))
  end)

  it("keeps identity", function()
    local p = point(1, 2)
    local t = back { p, p, { p } }
    assert.is_true(t[1] == t[2] and t[1] == t[3][1])
  end)

  it("composes with values, nested typed ones, and blocks", function()
    point_serializer {
      mmwrite = function(out, p)
        out:write(p.x)
        out:block(ffi.new("double[3]", 1, 2, 3), 24)
        out:block("raw bytes")
        out:value(p.y)
      end,
      mmread = function(inp)
        local x = inp:read()
        local doubles, count = inp:block("double")
        local raw, size = inp:block()
        local p = point(x, inp:value())
        p.doubles, p.count, p.raw = doubles, count, ffi.string(raw, size)
        return p
      end,
    }
    local p = back(point(array("int8_t", { 7 }), point(1, nil)))
    assert.are.equal(7, p.x[1])
    assert.are.same({ 3, 2, "raw bytes" }, { p.count, p.doubles[1], p.raw })
    assert.is_true(getmetatable(p.y) == Point)
    -- The pointer's block lives as long as the value, and as the pointer.
    local doubles = p.doubles
    p = nil -- luacheck: ignore
    collectgarbage()
    for _ = 1, 100 do array("double", 3) end
    assert.are.equal(3, doubles[2])
  end)

  it("keeps a block for a value that copied only the address", function()
    local held = ffi.typeof("struct { const double *p; }")
    serializer {
      name = "spec_held", type = held,
      mmwrite = function(out, h) out:block(h.p, 80) end,
      mmread = function(inp)
        local p = inp:block("double")
        return held(p)
      end,
    }
    local source = ffi.new("double[10]", 1, 2, 3, 4)
    local h = back(held(source))
    for _ = 1, 20 do
      collectgarbage()
      array("double", 10)[1] = -1
    end
    assert.are.equal(4, h.p[3])
  end)

  it("for a ctype takes its values, and references to them", function()
    local pair = ffi.typeof("struct { int32_t a, b; }")
    serializer {
      name = "spec_pair", type = pair,
      mmwrite = function(out, p)
        out:value(p.a)
        out:value(p.b)
      end,
      mmread = function(inp) return pair(inp:value(), inp:value()) end,
    }
    assert.are.equal(2, back(pair(1, 2)).b)
    local list = ffi.new(ffi.typeof("$[2]", pair), { { 1, 2 }, { 3, 4 } })
    assert.are.equal(3, back { list[1] }[1].a)
  end)

  it("may match by a function, after the types", function()
    serializer {
      name = "spec_match",
      matches = function(x) return type(x) == "table" and rawget(x, "marked") == true end,
      mmwrite = function(out) out:value("marked") end,
      mmread = function(inp) return { inp:value() } end,
    }
    assert.are.same({ "marked" }, back(setmetatable({ marked = true }, {})))
    assert.is_true(getmetatable(back(setmetatable({ x = 1, marked = true }, Point))) == Point)
    serializer { name = "spec_match", matches = function() return false end, mmwrite = print, mmread = print }
    fails("NotSerializable", core.encode, setmetatable({ marked = true }, {}))
  end)

  it("is replaced by one of the same name, and hands it the version that wrote the bytes", function()
    local old = core.encode(point(1, 2))
    point_serializer {
      version = 2,
      mmread = function(inp)
        local p = point(inp:value(), inp:value())
        p.version = inp.version
        return p
      end,
    }
    assert.are.equal(1, core.decode(old).version)
    local new = core.encode(point(1, 2))
    assert.are.equal(2, core.decode(new).version)
    point_serializer()
    assert.is_truthy(fails("NotSerializable", core.decode, new).message:find("version 2", 1, true))
  end)

  it("that is unknown is named", function()
    serializer { name = "spec_gone", type = {}, mmwrite = print, mmread = print }
    local s = core.encode(point(1, 2)):gsub("spec_point", "spec_poinX")
    assert.is_truthy(fails("NotSerializable", core.decode, s).message:find("unknown serializer 'spec_poinX'", 1, true))
  end)

  it("that errors, writes nothing or returns nothing is named, and harms nobody", function()
    local function check(doing, changes, text)
      point_serializer(changes)
      local e = fails("NotSerializable", doing, { { point(1, 2) } })
      assert.is_truthy(e.message:find("'spec_point'", 1, true), e.message)
      assert.is_truthy(e.message:find(text, 1, true), e.message)
      assert.are.same({ { 1 }, { 1 } }, back { { 1 }, { 1 } })
    end
    check(core.encode, { mmwrite = function() error("boom") end }, "boom")
    check(core.encode, { mmwrite = function() error({}) end }, "mmwrite")
    check(core.encode, { mmwrite = function() end }, "wrote nothing")
    check(core.encode, { mmwrite = function(out) out:value(coroutine.create(print)) end }, "a coroutine cannot travel")
    local function swallow(out)
      pcall(out.value, out, coroutine.create(print))
      out:value(1)
    end
    check(core.encode, { mmwrite = swallow }, "a coroutine cannot travel")
    check(core.encode, { mmwrite = function() coroutine.yield() end }, "yield")
    check(back, { mmread = function() error("bang") end }, "bang")
    check(back, { mmread = function() end }, "returned nothing")
    check(back, { mmread = function() coroutine.yield() end }, "yield")
  end)

  it("that reads past its values, or a block where there is none, is refused", function()
    point_serializer { mmread = function(inp) return { inp:value(), inp:value(), inp:value() } end }
    fails("Corrupt", back, { point(1, 2), "behind" })
    point_serializer { mmread = function(inp) return { inp:block() } end }
    fails("Corrupt", back, { point(1, 2) })
    point_serializer { mmwrite = function(out) out:block("x") end, mmread = function(inp) return { inp:value() } end }
    fails("Corrupt", back, { point(1, 2) })
    point_serializer { mmread = function(inp) pcall(inp.block, inp) return 1 end }
    fails("Corrupt", back, { point(1, 2) })
  end)

  it("never sees a number of untrusted bytes that LuaJIT would take for something else", function()
    point_serializer {
      mmwrite = function(out) out:block(ffi.new("double[4]", 1, 2, 3, 4)) end,
      mmread = function(inp)
        local p, n = inp:block("double")
        local list = {}
        for i = 0, n - 1 do list[i + 1] = p[i] end
        return list
      end,
    }
    local image = core.encode(point())
    local two = "\0\0\0\0\0\0\0\64"
    local at = image:find(two, 1, true)
    local hostile = image:sub(1, at - 1) .. "\1\0\0\0\0\0\250\255" .. image:sub(at + 8)
    local list = core.decode(hostile, { code = false })
    assert.are.equal("number", type(list[2]))
    assert.is_true(list[2] ~= list[2])
    assert.are.same({ 1, 3, 4 }, { list[1], list[3], list[4] })
  end)

  it("may leave values unread", function()
    local shared = { 1 }
    point_serializer {
      mmwrite = function(out)
        out:value(1)
        out:value { shared }
        out:value { 2 }
      end,
      mmread = function(inp) return { inp:value() } end,
    }
    local t = back { point(1, 2), shared, { 3 } }
    assert.are.same({ { 1 }, { 1 }, { 3 } }, t)
  end)

  it("may ask whether there is more", function()
    point_serializer {
      mmwrite = function(out)
        for i = 1, 5 do out:value(i) end
      end,
      mmread = function(inp)
        local sum = 0
        while inp:more() do sum = sum + inp:value() end
        return { sum }
      end,
    }
    assert.are.equal(15, back(point())[1])
  end)

  it("may encode and decode other values meanwhile", function()
    point_serializer {
      mmwrite = function(out, p)
        out:value(core.encode { p.x, { point = 1 } })
        out:value(core.decode(core.encode(p.y)))
      end,
      mmread = function(inp) return { core.decode(inp:value())[1], inp:value() } end,
    }
    assert.are.same({ { 1, 2 }, { 3, 4 } }, back { point(1, 2), point(3, 4) })
  end)

  it("gets `out` and `inp` for the time of its call only", function()
    local out_kept, inp_kept
    point_serializer {
      mmwrite = function(out) out_kept = out out:value(1) end,
      mmread = function(inp) inp_kept = inp return { inp:value() } end,
    }
    back(point(1, 2))
    fails("ArgumentError", function() out_kept:value(1) end)
    fails("ArgumentError", function() return inp_kept:value() end)
  end)

  it("that makes a table for each call does not confuse their addresses", function()
    point_serializer {
      mmwrite = function(out, p)
        for i = 1, 50 do
          out:value { p.x, i }
          if i % 10 == 0 then collectgarbage() end
        end
      end,
      mmread = function(inp)
        local sum = 0
        for _ = 1, 50 do sum = sum + inp:value()[2] end
        return { sum }
      end,
    }
    local t = back { point(1), point(2), point(3) }
    assert.are.same({ { 1275 }, { 1275 }, { 1275 } }, t)
  end)

  it("nests as deep as tables do", function()
    local function chain(n)
      local p = point(0)
      for _ = 2, n do p = point(p) end
      return p
    end
    local p, depth = back(chain(1000)), 0
    while p ~= 0 do
      p, depth = p.x, depth + 1
    end
    assert.are.equal(1000, depth)
    local e = fails("NotSerializable", core.encode, chain(1001))
    assert.is_truthy(e.message:find("deeper than 1000", 1, true))
  end)

  it("cannot hold itself, and says so", function()
    local p = point(1, 2)
    p.x = p
    fails("Corrupt", back, p)
  end)

  it("needs a name, a type and its functions", function()
    for _, bad in ipairs { { name = 5 }, { name = "" }, { version = 1.5 }, { mmwrite = false }, { mmread = "x" }, { type = 5 },
      { approx_size = 3 }, { matches = 1 } } do
      local e = fails("ArgumentError", point_serializer, bad)
      assert.is_truthy(e.message:find("serializer_spec.lua", 1, true))
    end
    fails("ArgumentError", serializer, "x")
    fails("ArgumentError", serializer, { name = "spec_none", mmwrite = print, mmread = print })
  end)
end)
