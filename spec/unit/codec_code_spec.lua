local ffi = require "ffi"
local core = require "tarn.core"
local errors = require "tarn.errors"
local fails = require "spec.helper.fails"

local function back(x) return core.decode(core.encode(x)) end

describe("codec: functions", function()
  it("travel with their upvalues by value", function()
    local n, t = 5, { 7 }
    local f = back(function(x) return x + n + t[1] end)
    n, t[1] = 0, 0
    assert.are.equal(13, f(1))
  end)

  it("share variables with each other as they did", function()
    local n = 0
    local function add() n = n + 1 end
    local function get() return n end
    local pair = back { add = add, get = get }
    pair.add()
    pair.add()
    assert.are.equal(2, pair.get())
    assert.are.equal(0, n)
  end)

  it("without upvalues are loaded once: what was compiled of them is there when they come again", function()
    local source = "return function(x) return x + %d end"
    local f = loadstring(source:format(1))()
    local first = back(f)
    assert.is_true(first ~= f and first == back(f) and first(1) == 2)
    assert.is_true(first ~= back(loadstring(source:format(2))()))
    local n = 1
    local function counts()
      n = n + 1
      return n
    end
    local a, b = back(counts), back(counts)
    assert.is_true(a ~= b and a() == 2 and a() == 3 and b() == 2)
    for i = 1, 600 do assert.are.equal(10 + i, back(loadstring(source:format(i))())(10)) end -- more than are kept
    assert.are.equal(2, back(f)(1))
  end)

  it("whose environment the receiver has changed are its own: they come anew", function()
    local f = loadstring "return function() return spec_word end" ()
    local mine = setfenv(back(f), { spec_word = "mine" })
    local other = back(f)
    assert.is_true(other ~= mine)
    assert.are.equal("mine", mine())
    assert.is_nil(other())
    assert.is_true(getfenv(other) == getfenv(back(f)))
  end)

  it("may refer to themselves, directly and by way of tables", function()
    local function factorial(n) return n < 2 and 1 or n * factorial(n - 1) end
    assert.are.equal(120, back(factorial)(5))
    local object = {}
    function object.me() return object end
    local copy = back(object)
    assert.is_true(copy.me() == copy and copy ~= object)
    local f, g
    function f(n) return n == 0 and "done" or g(n - 1) end
    function g(n) return f(n) end
    assert.are.equal("done", back(f)(3))
  end)

  it("take varargs, and keep their line for tracebacks", function()
    assert.are.equal(3, select("#", back(function(...) return ... end)(1, nil, nil)))
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(back(function() error("here") end))
    assert.is_false(ok)
    assert.is_truthy(message:find("codec_code_spec.lua:" .. line, 1, true), message)
  end)

  it("find the globals where they arrive", function()
    assert.are.equal(_G.tostring, back(function() return tostring end)())
  end)

  it("with an environment of their own are refused", function()
    local e = fails("NotSerializable", core.encode, setfenv(function() return x end, { x = 1 })) -- luacheck: ignore
    assert.is_truthy(e.message:find("setfenv", 1, true))
  end)

  it("are refused by a decoder that must not run code", function()
    local s = core.encode { function() end }
    assert.is_truthy(fails("Corrupt", core.decode, s, { code = false }).message:find("code = true", 1, true))
  end)
end)

describe("codec: what travels by name", function()
  it("is a module's table, a function found in one, and a C function of the globals", function()
    for _, x in ipairs { string, math, _G, string.format, print, core, core.encode, errors.new, ffi } do
      assert.is_true(rawequal(x, back(x)))
    end
    assert.is_true(rawequal(string, back { deep = { string } }.deep[1]))
  end)

  it("is a C type that is a module, or found in one", function()
    local whole, part = ffi.typeof "struct { int a; }", ffi.typeof "struct { int b; }"
    package.loaded["spec.codec_ctype"], package.loaded["spec.codec_ctypes"] = whole, { part = part }
    assert.is_true(rawequal(whole, back(whole)))
    assert.is_true(rawequal(part, back { part }[1]))
    local f = back(function() return whole(3).a + part(4).b end)
    assert.are.equal(7, f())
    package.loaded["spec.codec_ctype"], package.loaded["spec.codec_ctypes"] = nil, nil
    local e = fails("NotSerializable", core.encode, { ffi.typeof "struct { int c; }" })
    assert.is_truthy(e.message:find("put it into a module", 1, true))
  end)

  it("includes modules loaded since the last time", function()
    local module = { f = function() return 1 end }
    package.loaded["spec.codec_late"] = module
    assert.is_true(rawequal(module, back(module)))
    assert.is_true(rawequal(module.f, back { module.f }[1]))
    package.loaded["spec.codec_late"] = nil
  end)

  it("includes a module during whose loading something was encoded", function()
    package.preload["spec.codec_encodes"] = function()
      core.encode { {} }
      return {}
    end
    local module = require "spec.codec_encodes"
    assert.is_true(rawequal(module, back(module)))
    package.loaded["spec.codec_encodes"], package.preload["spec.codec_encodes"] = nil, nil
  end)

  it("excludes the script's own global functions: they travel by value", function()
    rawset(_G, "spec_codec_global", function() return 42 end)
    local f = back(_G.spec_codec_global)
    assert.is_false(rawequal(f, _G.spec_codec_global))
    assert.are.equal(42, f())
    rawset(_G, "spec_codec_global", nil)
  end)

  it("is an error naming the module where the module is missing", function()
    local module = {}
    package.loaded["spec.codec_gone"] = module
    local s = core.encode { module }
    package.loaded["spec.codec_gone"] = nil
    local e = fails("NotSerializable", core.decode, s)
    assert.is_truthy(e.message:find("module 'spec.codec_gone' is missing on this process", 1, true), e.message)
    assert.is_truthy(fails("NotSerializable", core.decode, s, { code = false }).message:find("not loaded here", 1, true))
  end)

  it("is the metatable that is a module, or stands in one", function()
    local Point = { Pair = {} }
    Point.__index = Point
    package.loaded["spec.codec_point"] = Point
    local list = back { setmetatable({ x = 1 }, Point), setmetatable({ 1, 2 }, Point.Pair) }
    assert.is_true(getmetatable(list[1]) == Point and getmetatable(list[2]) == Point.Pair)
    assert.are.equal(1, list[1].x)
    local loop = setmetatable({}, Point)
    loop.me = loop
    local copy = back(loop)
    assert.is_true(copy.me == copy)
    package.loaded["spec.codec_point"] = nil
  end)
end)
