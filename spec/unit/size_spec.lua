-- approx_size beside what the allocators say, over generated values, in a process of its own: what other specs have left to the collector
-- would be counted too.
local core = require "tarn.core"
local process = require "spec.helper.process"

-- Prints a line for each generated value: its number, what approx_size says, what was allocated.
local SCRIPT = [[
  local core = require "tarn.core"
  local seed = tonumber(arg[1])
  core.approx_size {} -- looks at the modules, once
  for _ = 1, 8 do collectgarbage() end -- each halves a Lua stack that has grown
  collectgarbage("stop")
  local serial = 0

  local function text()
    serial = serial + 1
    return ("%d."):format(serial) .. ("x"):rep(math.random(0, math.random() < 0.1 and 200 or 12))
  end

  local makers
  local function value(depth) return makers[math.random(depth > 0 and #makers or 4)](depth) end
  local function fields(depth, n)
    local t = {}
    for i = 1, n do t[("field %d"):format(i)] = value(depth - 1) end
    return t
  end
  makers = {
    text,
    function() return math.random() end,
    function() return math.random(2) == 1 end,
    function() return math.random(100) * 1LL end,
    function(depth)
      local t = {}
      for i = 1, math.random(0, 12) do t[i] = value(depth - 1) end
      return t
    end,
    function(depth) return fields(depth, math.random(6)) end,
    function() return { [math.random()] = text(), [text()] = true, [false] = 1 } end,
    function(depth)
      local a, b = value(depth - 1), text()
      return function() return a, b end
    end,
    function(depth)
      local shared = value(depth - 1)
      return { shared, shared, function() return shared end, function() shared = 1 end }
    end,
  }

  -- The table of all strings grows in powers of two and seldom shrinks: what it grew by is the same before and after the value goes, and
  -- each string's slot in it is added instead. These keep it from shrinking.
  local anchored = {}
  for i = 1, 40000 do anchored[i] = "anchored " .. i end

  local function measure(number)
    math.randomseed(seed + number)
    local first, t, kind = serial, {}, makers[number % #makers + 1]
    for i = 1, 2000 do t[i] = (number > 2 * #makers and value or kind)(3) end
    collectgarbage()
    collectgarbage()
    local said, with = core.approx_size(t), collectgarbage("count")
    t = nil
    collectgarbage()
    print(number, said, (with - collectgarbage("count")) * 1024 + 8 * (serial - first))
  end
  for number = 1, 40 do measure(number) end
]]

describe("approx_size", function()
  it("of generated plain values is what the allocator says, within a tenth", function()
    local seed = tonumber(os.getenv("TARN_SEED")) or os.time()
    local path = os.tmpname()
    process.write_file(path, SCRIPT)
    local result = process.run_tarn { path, tostring(seed) }
    os.remove(path)
    assert.equal(0, result.code, result.err)
    local count = 0
    for number, said, real in result.out:gmatch("(%d+)\t(%d+)\t([%d.]+)") do
      count = count + 1
      local ratio = tonumber(said) / tonumber(real)
      local text = ("TARN_SEED=%d, value %s: %s bytes are said, %s are used"):format(seed, number, said, real)
      assert.is_true(ratio > 0.9 and ratio < 1.1, text)
    end
    assert.equal(40, count)
  end)

  it("of columns is what the pool holds for them, within a tenth", function()
    local result = process.run_script [[
      local function settled() -- bytes that the pool holds, once what is dead has been given back
        local now, seen = -1
        repeat
          seen = now
          collectgarbage()
          collectgarbage()
          tarn.sleep(0.01)
          now = tarn.poolstats().live_bytes + tarn.poolstats().resident_bytes
        until now == seen
        return now
      end
      local function measure(name, make)
        make()
        local before, c = settled(), make()
        print(name, tarn.approx_size(c), settled() - before)
      end
      local list, texts = {}, { n = 300000 }
      for i = 1, 300000 do
        list[i] = i
        if i % 9 ~= 0 then texts[i] = "text " .. i end
      end
      measure("array", function() return tarn.array("double", 300000) end)
      measure("struct", function() return tarn.array("struct { double d; int8_t k; }", 300000) end)
      measure("bits", function() return tarn.bits(3000000) end)
      measure("nullable", function() return tarn.nullable("float", 300000) end)
      measure("strings", function() return tarn.strings(texts) end)
      measure("pooled", function() return tarn.pooled(tarn.array("int32_t", list)) end)
    ]]
    assert.equal(0, result.code, result.err)
    local count = 0
    for name, said, held in result.out:gmatch("(%a+)\t(%d+)\t(%d+)") do
      count = count + 1
      local ratio = tonumber(said) / tonumber(held)
      assert.is_true(ratio > 0.9 and ratio < 1.1, ("%s: %s bytes are said, %s are held"):format(name, said, held))
    end
    assert.equal(6, count)
  end)
end)

describe("approximate sizes", function()
  -- In a process of its own: what other specs have left to the collector would be counted too.
  it("of plain values are what the allocator says, within a tenth", function()
    local result = process.run_script [[
      local core, serial = require "tarn.core", 0
      collectgarbage()
      collectgarbage("stop")
      local function ratio(make)
        make()
        collectgarbage()
        collectgarbage()
        local before = collectgarbage("count")
        local x = make()
        collectgarbage()
        collectgarbage()
        print(core.approx_size(x) / ((collectgarbage("count") - before) * 1024))
      end
      local function list_of(n, element)
        return function()
          local t = {}
          serial = serial + 1
          for i = 1, n do t[i] = element(i) end
          return t
        end
      end
      ratio(list_of(70000, function(i) return i end))
      ratio(list_of(20000, function(i) return "text number " .. serial .. "." .. i end))
      ratio(list_of(20000, function(i) return { id = i, name = "n" .. serial .. "." .. i, x = i, ok = true, tag = "t" } end))
      ratio(list_of(20000, function(i) return { i, i } end))
      ratio(function()
        local t = {}
        serial = serial + 1
        for i = 1, 30000 do t["k" .. serial .. "." .. i] = i end
        return t
      end)
    ]]
    assert.equal(0, result.code, result.err)
    local count = 0
    for ratio in result.out:gmatch("%S+") do
      count = count + 1
      assert.is_true(tonumber(ratio) > 0.9 and tonumber(ratio) < 1.1, ("case %d: %s times what is used"):format(count, ratio))
    end
    assert.equal(5, count)
  end)

  it("count the keys of records once, wherever the strings lie", function()
    local by_place, keys = {}, nil -- two that whoever looks strings up by the last bits of their addresses cannot tell apart
    for i = 1, 100000 do
      local key = "key " .. i
      local place = math.floor(tonumber(("%p"):format(key)) / 16) % 4096
      keys = by_place[place] and { by_place[place], key }
      if keys then break end
      by_place[place] = key
    end
    local records, others = {}, {}
    for i = 1, 1000 do records[i], others[i] = { [keys[1]] = 1, [keys[2]] = 2 }, { one = 1, two = 2 } end
    assert.is_true(core.approx_size(records) < 1.01 * core.approx_size(others))
  end)

  it("count what is shared once, and survive cycles", function()
    local t = {}
    for i = 1, 1000 do t[i] = i end
    local one = core.approx_size { t }
    assert.is_true(core.approx_size { t, t, t } < one + 100)
    t.me = t
    core.approx_size(t)
    assert.are.equal(0, (core.approx_size(string)))
  end)
end)
