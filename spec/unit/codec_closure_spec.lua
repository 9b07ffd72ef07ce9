-- Functions with upvalues that come again: each is a closure of its own, over a prototype that stays.
local core = require "tarn.core"
local jit_opt = require "jit.opt"

local function back(x) return core.decode(core.encode(x)) end

local function hot(fn)
  jit_opt.start("hotloop=1", "hotexit=1")
  local ok, e = pcall(fn)
  jit_opt.start("hotloop=56", "hotexit=10")
  if not ok then error(e, 0) end
end

local function adder(k)
  return function(x) return x + k end
end

local function sum(f, n)
  local s = 0
  for i = 1, n do s = s + f(i) end
  return s
end

describe("codec: functions with upvalues that come again", function()
  it("have the values that they came with, also where they have been compiled", function()
    hot(function()
      local copies = {}
      for k = 1, 20 do
        copies[k] = back(adder(k))
        assert.are.equal(5050 + 100 * k, sum(copies[k], 100))
      end
      for k = 1, 20 do assert.are.equal(5050 + 100 * k, sum(copies[k], 100)) end
    end)
  end)

  it("have one prototype, to which compiled code belongs", function()
    local function from(k)
      return function() return { "constant", "of", "the", "prototype" }, k end
    end
    local function constant(f) return require("jit.util").funck(f, -1) end
    local first = back(from(1))
    assert.are.equal("the", constant(first)[3])
    assert.is_true(rawequal(constant(first), constant(back(from(2)))))
    assert.is_false(rawequal(constant(first), constant(from(1))))
  end)

  it("keep to themselves what they assign", function()
    local function counter(n)
      return function()
        n = n + 1
        return n
      end
    end
    hot(function()
      local counters = {}
      for i = 1, 10 do
        counters[i] = back(counter(100 * i))
        for k = 1, 100 do assert.are.equal(100 * i + k, counters[i]()) end
      end
      for i = 1, 10 do assert.are.equal(100 * i + 101, counters[i]()) end
    end)
  end)

  it("share variables as those that were sent do, also where the same code has been compiled for others", function()
    local function pair(shared)
      local n, m = 0, 0
      local function get() return n end
      if not shared then debug.upvaluejoin(get, 1, function() return m end, 1) end
      return back { add = function() n = n + 1 end, get = get }
    end
    local function run(p)
      local s = 0
      for _ = 1, 100 do
        p.add()
        s = s + p.get()
      end
      return s
    end
    hot(function()
      for _ = 1, 5 do
        for _ = 1, 5 do assert.are.equal(0, run(pair(false))) end
        for _ = 1, 5 do assert.are.equal(5050, run(pair(true))) end
      end
    end)
  end)

  it("may refer to themselves and to each other", function()
    local function factorial(n) return n < 2 and 1 or n * factorial(n - 1) end
    local even, odd
    function even(n) return n == 0 or odd(n - 1) end
    function odd(n) return n ~= 0 and even(n - 1) end
    for _ = 1, 5 do
      assert.are.equal(120, back(factorial)(5))
      local copy = back { even, odd }
      assert.is_true(copy[1](10) and copy[2](11) and not copy[1](11))
    end
  end)

  it("make closures of their own, over their own variables", function()
    local function maker(n)
      local total = 0
      return function(x)
        return function(y)
          total = total + n
          return total + x + y
        end
      end
    end
    for n = 1, 5 do
      local make = back(maker(n))
      local a, b = make(10), make(20)
      assert.are.equal(n + 11, a(1))
      assert.are.equal(2 * n + 21, b(1))
      assert.are.equal(3 * n + 11, a(1))
      local again = back(a)
      assert.are.equal(4 * n + 11, again(1))
      assert.are.equal(4 * n + 11, a(1))
    end
  end)

  it("may have 60 of them, and take varargs", function()
    local source = { "local first = ... " }
    for i = 1, 60 do source[#source + 1] = ("local v%d = first + %d "):format(i, i) end
    source[#source + 1] = "return function(...) local n = select('#', ...) return n"
    for i = 1, 60 do source[#source + 1] = (" + v%d"):format(i) end
    source[#source + 1] = " end"
    local make = loadstring(table.concat(source))
    for first = 1, 5 do
      assert.are.equal(60 * first + 1830 + 3, back(make(first))(nil, nil, nil))
      assert.are.equal(3, select("#", back(function(...)
        if make then return ... end
      end)(1, nil, nil)))
    end
  end)

  it("keep their lines and their variables' names", function()
    local k = "k"
    local line = debug.getinfo(1, "l").currentline + 1
    local function fails() error("here " .. k) end
    for _ = 1, 3 do
      local copy = back(fails)
      local ok, message = pcall(copy)
      assert.is_false(ok)
      assert.is_truthy(message:find("codec_closure_spec.lua:" .. line .. ": here k", 1, true), message)
      assert.are.same(debug.getinfo(fails, "Su"), debug.getinfo(copy, "Su"))
      assert.are.same({ "k", "k" }, { debug.getupvalue(copy, 1) })
    end
  end)

  it("have the globals for their environment, whatever became of another one's", function()
    local k = 1
    local function f() return spec_word, k end -- luacheck: ignore
    local mine = setfenv(back(f), { spec_word = "mine" })
    local other = back(f)
    assert.are.equal("mine", (mine()))
    assert.is_nil((other()))
    assert.is_true(getfenv(other) == getfenv(back(function() end)))
  end)

  it("work when they are more than are kept, and when they are too long for it", function()
    local source = "local k = ... return function(x) return x + k + %d end"
    for i = 1, 600 do assert.are.equal(11 + i, back(loadstring(source:format(i))(1))(10)) end
    local long = { "local k = ... return function(x) local t = {} " }
    for i = 1, 5000 do long[#long + 1] = ("t[x + %d] = k "):format(i) end
    long[#long + 1] = "return t end"
    local make = loadstring(table.concat(long))
    assert.is_true(#string.dump(make) > 65536)
    assert.are.equal(7, back(make(7))(0)[5000])
    assert.are.equal(8, back(make(8))(0)[5000])
  end)

  it("arrive while an interrupt is being raised in the user's code", function()
    local k, n = 1, 0
    local function f() return k, n end
    local bytes = core.encode(f)
    for _ = 1, 2 do -- new, and kept
      local ok, copy
      debug.sethook(function()
        if debug.getinfo(2, "S").source:find("codec_closure_spec", 1, true) then error("interrupted", 0) end
      end, "c")
      ok, copy = pcall(core.decode, bytes)
      debug.sethook()
      assert.is_true(ok, copy)
      assert.are.same({ 1, 0 }, { copy() })
      debug.setupvalue(copy, 1, 2)
      assert.are.same({ 2, 0 }, { copy() })
      back(f)
    end
  end)

  it("are garbage after the call, with all they brought along, though their code stays compiled", function()
    local kept = setmetatable({}, { __mode = "k" })
    local function reads(t)
      return function(x) return x + t.k end
    end
    local function assigns(t)
      return function(x)
        t.k = t.k + 1
        t = t.next or t
        return x
      end
    end
    hot(function()
      for _, make in ipairs { reads, assigns } do
        for i = 1, 30 do
          local f = back(make { k = i })
          kept[select(2, debug.getupvalue(f, 1))] = true
          sum(f, 100)
        end
      end
    end)
    collectgarbage()
    collectgarbage()
    assert.is_nil((next(kept)))
  end)
end)
