-- Connections between workers that nobody uses: closed, and opened again on the next use; nothing is lost by that.
local client = require "tarn.client"
local cluster = require "spec.helper.cluster"
local footprint = require "spec.helper.footprint"
local posix = require "spec.helper.posix"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"

local fails, says, becomes = cluster.fails, cluster.says, cluster.becomes
local IDLE_S = 0.2
local OPTS = { idle_s = IDLE_S, silence_s = 5, memory = "32MB" }

require("luv").new_tcp():close() -- libuv keeps a descriptor back from the first stream on: that is no leak of a case

-- The connections that those processes have to each other, as they say to who watches: "2-3 2-3" (each end counts).
local function links(ids)
  local c = client.connect(tarn.address(), client.read_secret(tarn.secret_file()))
  local found, ours = {}, {}
  for _, id in ipairs(ids) do ours[id] = true end
  for _, id in ipairs(ids) do
    for _, one in ipairs(c:ask("observe.stats", id).connections) do
      if ours[one[1]] then found[#found + 1] = ("%d-%d"):format(id, one[1]) end
    end
  end
  c:close()
  return table.concat(found, " ")
end

local function closed(ids) return becomes(function() return links(ids) == "" end) end

-- That something does not happen has no event: it does not for several times as long as it would take.
local function stays_open(ids, what)
  local deadline = posix.now() + 4 * IDLE_S
  repeat
    assert.not_equal("", links(ids), what)
    tarn.sleep(0.02)
  until posix.now() > deadline
end

local function answer(x) return x * 2 end
local function ask(other, fn, x) return tarn.remotecall_fetch(other, fn, x) end
local function talk(x, y) assert.equal(42, tarn.remotecall_fetch(x, ask, y, answer, 21)) end

local function array(n)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = i end
  return a
end
-- The sum of an array that another process has.
local function sum(ref)
  local a, n = tarn.poolget(ref), 0
  for i = 1, #a do n = n + a[i] end
  return n
end

describe("a connection between two workers", function()
  it("is closed when it has been idle for idle_s, and what their mapping has kept open", function()
    cluster.with(3, function(ids)
      for _, x in ipairs(ids) do tarn.remotecall_fetch(x, answer, 1) end
      local pids, before = {}, {}
      for i, x in ipairs(ids) do
        pids[i] = tarn.os_pid(x)
        before[i] = footprint.descriptors(pids[i])
      end
      for _, x in ipairs(ids) do
        local ref = tarn.remotecall_fetch(x, function(make) return tarn.poolset(make(50000)) end, array)
        for _, y in ipairs(ids) do
          if x ~= y then
            talk(x, y)
            assert.equal(50000 * 50001 / 2, tarn.remotecall_fetch(y, sum, ref))
          end
        end
      end
      assert.not_equal("", links(ids))
      refs.collect()
      assert.is_true(closed(ids), links(ids))
      for i in ipairs(ids) do
        -- a file of its own pool may have been opened meanwhile, no more
        assert.is_true(becomes(function() return footprint.descriptors(pids[i]) <= before[i] + 1 end),
          ("process %d has %d descriptors, had %d"):format(ids[i], footprint.descriptors(pids[i]), before[i]))
      end
      for _, x in ipairs(ids) do
        assert.equal(4, #tarn.remotecall_fetch(x, tarn.procs))
        for _, y in ipairs(ids) do
          if x ~= y then talk(x, y) end
        end
      end
    end, OPTS)
  end)

  it("is not closed while a call waits for its answer, or a value is mapped", function()
    cluster.with(2, function(ids)
      local a, b = ids[1], ids[2]
      local ref = tarn.remotecall_fetch(a, function(make) return tarn.poolset(make(50000)) end, array)
      local cases = {
        function()
          local waits = tarn.remotecall(b, ask, a, function() while not _G.go do tarn.sleep(0.005) end return "gone on" end)
          return function()
            tarn.remotecall_fetch(a, function() _G.go = true end)
            assert.equal("gone on", waits:fetch())
          end
        end,
        function()
          tarn.remotecall_fetch(b, function(r) _G.mapped = tarn.poolget(r) end, ref)
          return function()
            assert.equal(50000, tarn.remotecall_fetch(b, function()
              local last = _G.mapped[#_G.mapped]
              _G.mapped = nil
              return last
            end))
            refs.collect { b }
          end
        end,
      }
      for i, begin in ipairs(cases) do
        local finish = begin()
        assert.is_true(becomes(function() return links(ids) ~= "" end))
        stays_open(ids, i)
        finish()
        assert.is_true(closed(ids), links(ids))
      end
    end, OPTS)
  end)

  it("is not closed while a large notification is under way", function()
    proxy.with(2, function(p, ids)
      local a, b = ids[1], ids[2]
      talk(a, b)
      p:stall_bulk(a, b)
      tarn.remotecall_fetch(a, function(to, make)
        tarn.remote_do(to, function(x) _G.came = #x end, make(50000))
      end, b, array)
      stays_open(ids)
      p:clear_all()
      assert.is_true(becomes(function() return tarn.remotecall_fetch(b, function() return _G.came end) == 50000 end))
      assert.is_true(closed(ids), links(ids))
    end, { idle_s = IDLE_S, silence_s = 20, memory = "32MB", map = false })
  end)

  it("that has been closed is opened by what needs it: calls, values, references, migration", function()
    refs.with(3, function(ids)
      local a, b, c = unpack(ids)
      local ref = tarn.remotecall_fetch(a, function(make) return tarn.poolset(make(50000)) end, array)
      local function keep(r) _G.kept = r end
      for _ = 1, 2 do
        tarn.remotecall_fetch(b, keep, ref)
        tarn.remotecall_fetch(b, ask, a, answer, 1)
        refs.collect()
        assert.is_true(closed(ids), links(ids))
        assert.equal(50000 * 50001 / 2, tarn.remotecall_fetch(b, function(f) return f(_G.kept) end, sum))
        refs.collect()
        assert.is_true(closed(ids), links(ids))
        -- Passed by one that does not own it.
        tarn.remotecall_fetch(b, function(to, fn) tarn.remotecall_fetch(to, fn, _G.kept) end, c, keep)
        assert.is_true(closed(ids), links(ids))
        tarn.remotecall_fetch(b, keep, nil)
        refs.collect()
        assert.is_true(closed(ids), links(ids))
        assert.equal(50000, tarn.remotecall_fetch(c, function() return #tarn.poolget(_G.kept) end))
      end
      refs.collect()
      assert.is_true(closed(ids), links(ids))
      tarn.remotecall_fetch(c, function(to) tarn.migrate(_G.kept, to) end, b)
      assert.is_true(closed(ids), links(ids))
      assert.equal(b, tarn.remotecall_fetch(c, function() return _G.kept.owner end))
      assert.equal(50000 * 50001 / 2, tarn.remotecall_fetch(c, function(f) return f(_G.kept) end, sum))
      ref = nil -- luacheck: ignore
      refs.collect()
      assert.is_true(closed(ids), links(ids))
      assert.equal(1, refs.objects(b))
      tarn.remotecall_fetch(c, keep, nil) -- the drop finds no connection
      assert.is_true(refs.becomes(b, 0))
    end, OPTS)
  end)

  it("that has been closed does not keep a lost process from being found", function()
    cluster.with(2, function(ids)
      local a, b = ids[1], ids[2]
      talk(a, b)
      assert.is_true(closed(ids), links(ids))
      posix.kill(tarn.os_pid(b), posix.SIGKILL)
      says(fails("WorkerLost", tarn.remotecall_fetch, a, ask, b, answer, 1), ("process %d"):format(b))
      assert.is_true(becomes(function() return #tarn.remotecall_fetch(a, tarn.procs) == 2 end))
    end, OPTS)
  end)

  it("has an idle_s that is a number of seconds", function()
    for _, wrong in ipairs { 0, -1, "5", 0 / 0, 1e9 } do
      says(fails("ArgumentError", tarn.addprocs, 1, { idle_s = wrong }), "idle_s", "seconds")
    end
  end)
end)

-- Calls, references that are passed and values that are got, with pauses about as long as what closes a connection; each is checked.
local function hammer(others, seconds, idle_s, seed, serve)
  local uv = require "luv"
  local tasks, ends = {}, uv.hrtime() / 1e9 + seconds
  local state = seed
  local function random()
    state = (state * 1103515245 + 12345) % 2147483648
    return state / 2147483648
  end
  local function one(other)
    local n = 0
    while uv.hrtime() / 1e9 < ends do
      n = n + 1
      local ref = tarn.poolset { n, other }
      local got = tarn.remotecall_fetch(other, serve, n, ref)
      assert(got[1] == n and tarn.poolget(got[2])[1] == -n, "another's answer")
      tarn.remote_do(other, function() _G.done = (_G.done or 0) + 1 end)
      tarn.sleep(idle_s * (0.8 + random()))
    end
    return n
  end
  for i, other in ipairs(others) do tasks[i] = tarn.async(one, other) end
  local n = 0
  for _, t in ipairs(tasks) do n = n + t:fetch() end
  return n
end

local function serve(n, ref)
  assert(tarn.poolget(ref)[1] == n, "another's object")
  return { n, tarn.poolset { -n } }
end

-- All to all, for so long; then nothing is left, and all connections are closed.
local function storm(ids, seconds, seed)
  local tasks, sent = {}, 0
  for i, id in ipairs(ids) do
    local others = {}
    for _, other in ipairs(ids) do
      if other ~= id then others[#others + 1] = other end
    end
    tasks[i] = tarn.remotecall(id, hammer, others, seconds, IDLE_S, seed * 100 + i, serve)
  end
  for _, t in ipairs(tasks) do sent = sent + t:fetch() end
  assert.is_true(becomes(function()
    local done = 0
    for _, id in ipairs(ids) do done = done + tarn.remotecall_fetch(id, function() return _G.done or 0 end) end
    return done == sent
  end), "a notification is lost")
  assert.is_true(refs.empty({ 1, unpack(ids) }, 20))
  assert.is_true(closed(ids), links(ids))
end

describe("two workers that begin to talk while their connection is being closed", function()
  for seed = 1, 2 do
    it("lose nothing, seed " .. seed, function()
      refs.with(4, function(ids) storm(ids, 3, seed) end, OPTS)
    end)

    it("nor where each word takes a while, seed " .. seed, function()
      refs.clear()
      proxy.with(4, function(p, ids)
        for _, x in ipairs(ids) do
          for _, y in ipairs(ids) do
            if x ~= y then p:delay(x, y, 20 + 10 * seed) end
          end
        end
        storm(ids, 4, seed)
        p:clear_all()
      end, { idle_s = IDLE_S, silence_s = 5, memory = "32MB", map = false })
    end)
  end
end)
