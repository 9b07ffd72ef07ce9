-- What connections do to who uses them: each kind of fault, by a proxy between all processes of a cluster. Every call ends in time, with the
-- right value or with an error that says what was; nothing is left.
local cluster = require "spec.helper.cluster"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"
local _, _ = cluster.fails, cluster.says

local lost = {}
tarn.on("lost", function(id, reason) lost[id] = reason end)

-- On process a: calls to b and back, arrays that travel (mapped or in blocks), references passed on.
local function work(other, count)
  local sum = 0
  for i = 1, count do
    sum = sum + tarn.remotecall_fetch(other, function(x) return x + 1 end, i)
    local ref = tarn.remotecall_fetch(other, function(x)
      local array = tarn.array("double", 20000)
      array[20000] = x
      return tarn.poolset(array)
    end, i)
    local array = tarn.poolget(ref)
    assert(#array == 20000 and array[20000] == i)
    assert(tarn.remotecall_fetch(other, function(r) return tarn.poolget(r)[20000] end, tarn.poolset(array:copy())) == i)
  end
  return sum
end

-- Ends in time, with the right value or WorkerLost: whether with the value.
local function try(a, b, count)
  local ok, x = pcall(tarn.timeout, 20, tarn.remotecall_fetch, a, work, b, count)
  if ok then
    assert.equal(count * (count + 3) / 2, x)
  elseif not tarn.iserror(x, "WorkerLost") then
    error(x, 0)
  end
  return ok
end

local function check(a, b, count) assert.is_true(try(a, b, count)) end

local function nothing_left(ids) assert(refs.empty { 1, unpack(ids) }) end

-- A fault of connections between two workers, at different bytes: what runs ends, what comes after works.
local function sweep(p, ids, fault)
  local a, b = unpack(ids)
  local failed = 0
  for _, after in ipairs { 0, 1, 30, 250, 2000, 60000, 200000 } do
    for _, flow in ipairs { { a, b }, { b, a } } do
      check(a, b, 1)
      p[fault](p, flow[1], flow[2], after)
      if not try(a, b, 3) then failed = failed + 1 end
      check(a, b, 1)
    end
  end
  assert.is_true(failed > 0, "no fault has been felt")
  assert.is_nil(lost[a] or lost[b])
  nothing_left(ids)
end

for _, map in ipairs { true, false } do
  local opts = { map = map, silence_s = 1 }
  describe(map and "with mapping" or "without mapping", function()
    it("connections go through the proxy", function()
      proxy.with(2, function(p, ids)
        check(ids[1], ids[2], 5)
        assert.equal(1, p:links(ids[1], 1, "control"))
        assert.equal(1, p:links(ids[2], 1, "control"))
        assert.equal(1, p:links(ids[1], ids[2], "control"))
        assert.equal(map and 0 or 1, p:links(ids[1], ids[2], "bulk"))
        nothing_left(ids)
      end, opts)
    end)

    it("pieces that come late, everywhere, change nothing", function()
      proxy.with(2, function(p, ids)
        p:delay(0, 0, 10)
        check(ids[1], ids[2], 3)
        nothing_left(ids)
      end, opts)
    end)

    it("pieces of one byte, everywhere, change nothing", function()
      proxy.with(2, function(p, ids)
        p:split(0, 0)
        check(ids[1], ids[2], 3)
        nothing_left(ids)
      end, opts)
    end)

    it("a connection between two workers that is cut, at any byte, fails what was under way and nothing else", function()
      proxy.with(2, function(p, ids) sweep(p, ids, "cut") end, opts)
    end)

    it("a connection between two workers that is half closed, at any byte, fails what was under way and nothing else", function()
      proxy.with(2, function(p, ids) sweep(p, ids, "half") end, opts)
    end)
  end)
end
