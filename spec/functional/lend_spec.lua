-- Large values between processes of one machine: mapped, not copied; and never a byte that is not the owner's, whatever
-- becomes of either side.
local ffi = require "ffi"
local cluster = require "spec.helper.cluster"
pcall(ffi.cdef, "int kill(int pid, int sig);")

local SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18
local MiB = 2 ^ 20

-- Runs in a worker: an array of n numbers that depend on base, in its pool.
local function make(n, base)
  local a = tarn.array("double", n)
  for j = 1, n do a[j] = base + j end
  return tarn.poolset(a)
end

-- Of process pid: what the figures become once the notes have gone to and fro.
local function becomes(pid, name, value)
  return cluster.becomes(function()
    tarn.remotecall_fetch(pid, function() collectgarbage() end)
    return tarn.poolstats(pid)[name] == value
  end)
end

local function check(a, base)
  for j = 1, #a do
    if a[j] ~= base + j then error(("element %d of %d is %g, not %g"):format(j, #a, a[j], base + j)) end
  end
  return #a
end

describe("a large value of another process of this machine", function()
  it("is mapped, not copied, and told of in the figures of both", function()
    cluster.with(1, function(ids)
      local ref = tarn.remotecall_fetch(ids[1], make, 1000000, 7)
      local before = tarn.poolstats()
      local a = tarn.poolget(ref)
      check(a, 7)
      local after = tarn.poolstats()
      assert.equal(8000000, after.mapped_in_bytes - before.mapped_in_bytes)
      assert.equal(1, after.mapped_in_count - before.mapped_in_count)
      assert.is_true(after.tcp_in_bytes - before.tcp_in_bytes < 10000)
      assert.equal(8000000, after.borrowed_bytes)
      assert.equal(8000000, tarn.poolstats(ids[1]).lent_bytes)
      assert.has_error(function() a[1] = 0 end)
      a = nil -- luacheck: ignore
      collectgarbage()
      assert.is_true(becomes(ids[1], "lent_bytes", 0))
      assert.equal(0, tarn.poolstats().borrowed_bytes)
    end)
  end)

  it("is mapped as an argument and as a result, and nobody's objects are left", function()
    cluster.with(2, function(ids)
      local a = tarn.array("double", 500000)
      for j = 1, #a do a[j] = 3 + j end
      local n, mapped = tarn.remotecall_fetch(ids[1], function(x)
        for j = 1, #x do assert(x[j] == 3 + j) end
        return #x, tarn.poolstats().mapped_in_count
      end, a)
      assert.same({ 500000, 1 }, { n, mapped })
      local b = tarn.remotecall_fetch(ids[2], function()
        local x = tarn.array("double", 300000)
        for j = 1, #x do x[j] = 5 + j end
        return x
      end)
      check(b, 5)
      assert.equal(2400000, tarn.poolstats(ids[2]).lent_bytes)
      assert.equal(0, tarn.poolstats(ids[2]).objects)
      b = nil -- luacheck: ignore
      collectgarbage()
      assert.is_true(becomes(ids[2], "lent_bytes", 0))
      assert.is_true(becomes(ids[1], "borrowed_bytes", 0))
      assert.is_true(cluster.becomes(function() return tarn.poolstats().lent_bytes == 0 end))
    end)
  end)

  it("is copied where either side does not map", function()
    cluster.with(1, function(ids)
      local ref = tarn.remotecall_fetch(ids[1], make, 1000000, 7)
      local before = tarn.poolstats()
      check(tarn.poolget(ref), 7)
      assert.equal(before.mapped_in_count, tarn.poolstats().mapped_in_count)
      assert.is_true(cluster.becomes(function() return tarn.poolstats().tcp_in_bytes - before.tcp_in_bytes >= 8000000 end))
      assert.equal(0, tarn.poolstats(ids[1]).lent_bytes)
    end, { map = false })
  end)

  -- Runs in a worker: from here on RLIMIT_NOFILE (7) or RLIMIT_AS (9) is what is in use, and so much more.
  local function limit(which, more)
    local f = require "ffi"
    pcall(f.cdef, "struct lend_rlimit { uint64_t soft, hard; }; int setrlimit(int which, const struct lend_rlimit *l);")
    pcall(f.cdef, "int getrlimit(int which, struct lend_rlimit *l); int dup(int fd); int close(int fd);")
    local l = f.new("struct lend_rlimit")
    f.C.getrlimit(which, l)
    if which == 7 then
      l.soft = f.C.dup(0)
      f.C.close(tonumber(l.soft))
    else
      l.soft = tonumber(io.open("/proc/self/statm"):read("*n")) * 4096
    end
    l.soft = l.soft + more
    assert(f.C.setrlimit(which, l) == 0)
  end

  for what, how in pairs { ["the owner's files cannot be opened"] = { 7, 0 }, ["there are no addresses"] = { 9, 24 * MiB } } do
    it("is fetched by TCP where " .. what .. ": as a stored object, an argument and a result", function()
      cluster.with(2, function(ids)
        local owner, reader = ids[1], ids[2]
        local ref = tarn.remotecall_fetch(owner, make, 4000000, 7)
        local mapped, bytes = tarn.remotecall_fetch(reader, function(from, r, which, more, limiter, verify)
          tarn.poolset(tarn.array("double", 100000), from) -- opens the way for large copies
          limiter(which, more)
          local before = tarn.poolstats()
          for _ = 1, 3 do verify(tarn.poolget(r), 7) end
          verify(tarn.remotecall_fetch(from, function()
            local a = tarn.array("double", 4000000)
            for j = 1, #a do a[j] = 9 + j end
            return a
          end), 9)
          local after
          for _ = 1, 1000 do -- the figures of the wire are a turn behind
            after = tarn.poolstats()
            if after.tcp_in_bytes - before.tcp_in_bytes >= 4 * 32000000 then break end
            tarn.sleep(0.01)
          end
          return after.mapped_in_count - before.mapped_in_count, after.tcp_in_bytes - before.tcp_in_bytes
        end, owner, ref, how[1], how[2], limit, check)
        assert.equal(0, mapped)
        assert.is_true(bytes >= 4 * 32000000)
        local n = tarn.remotecall_fetch(owner, function(to, verify)
          local a = tarn.array("double", 4000000)
          for j = 1, #a do a[j] = 11 + j end
          return tarn.remotecall_fetch(to, verify, a, 11)
        end, reader, check)
        assert.equal(4000000, n)
        assert.is_true(becomes(owner, "lent_bytes", 0))
      end)
    end)
  end

  it("is copied when it is in a user's file, and right after it was moved there and when it is on disk too", function()
    cluster.with(2, function(ids)
      local owner, reader = ids[1], ids[2]
      local path = os.tmpname()
      os.remove(path)
      local ref = tarn.remotecall_fetch(owner, make, 1000000, 7)
      local held = tarn.poolget(ref)
      tarn.copytodisk(ref)
      check(tarn.remotecall_fetch(reader, tarn.poolget, ref), 7)
      local file = tarn.movetodisk(ref, path)
      for i = 1, 10 do tarn.remotecall_fetch(owner, make, 700000, i) end -- what it was is used again
      check(held, 7)
      check(tarn.poolget(file), 7)
      local before, after = tarn.remotecall_fetch(reader, function(f, verify)
        local first = tarn.poolstats().mapped_in_count
        verify(tarn.poolget(f), 7)
        return first, tarn.poolstats().mapped_in_count
      end, file, check)
      assert.equal(before, after)
      held = nil -- luacheck: ignore
      os.remove(path)
    end, { memory = "32MB" })
  end)

  it("stays readable when it is deleted, evicted, and when its owner is killed", function()
    cluster.with(1, function(ids)
      local refs, held = {}, {}
      for i = 1, 6 do
        refs[i] = tarn.remotecall_fetch(ids[1], make, 500000, i)
        held[i] = tarn.poolget(refs[i])
      end
      tarn.pooldelete(refs[1])
      for i = 7, 12 do refs[i] = tarn.remotecall_fetch(ids[1], make, 500000, i) end -- 24 MB more than the budget
      for i = 1, 6 do check(held[i], i) end
      local stats = tarn.poolstats(ids[1])
      assert.is_true(stats.spill_written_bytes >= 12000000)
      assert.is_true(cluster.becomes(function() return tarn.poolstats(ids[1]).resident_bytes <= 32 * MiB end))
      for i = 1, 6 do check(held[i], i) end
      ffi.C.kill(cluster.os_pid(ids[1]), SIGKILL)
      assert.is_true(cluster.becomes(function() return #tarn.workers() == 0 end))
      for i = 1, 6 do check(held[i], i) end
    end, { memory = "32MB" })
  end)

  -- Runs in a worker that holds little: rounds times, fn makes an array of 4 MiB in owner, which is got, read and deleted here. Busy: a
  -- task is ready all the time, so that the process never waits. The most that was lent after a round, in bytes.
  local function get_and_delete(owner, rounds, fn, busy)
    local over, most = false, 0
    local other = busy and tarn.async(function() while not over do tarn.sleep(0) end end)
    for i = 1, rounds do
      local ref = tarn.remotecall_fetch(owner, fn, 524288, i)
      local a = tarn.poolget(ref)
      assert(a[1] == i + 1 and a[#a] == i + #a)
      tarn.pooldelete(ref)
      most = math.max(most, tarn.poolstats(owner).lent_bytes)
    end
    over = true
    if other then other:fetch() end
    return most
  end

  for how, busy in pairs { ["waits"] = false, ["never waits"] = true } do
    it("is given back when nobody wants it any more, by a process that " .. how .. ": its owner needs no disk", function()
      cluster.with(2, function(ids)
        local owner, reader = ids[1], ids[2]
        local most = tarn.remotecall_fetch(reader, get_and_delete, owner, 40, make, busy)
        local stats, mapped = tarn.poolstats(owner), tarn.poolstats(reader).mapped_in_count
        assert.equal(40, mapped)
        local text = ("%.1f MiB were lent, and %.1f written"):format(most / MiB, stats.spill_written_bytes / MiB)
        assert.is_true(most <= 24 * MiB, text)
        assert.is_true(stats.spill_written_bytes <= 8 * MiB, text)
      end, { memory = 32 * MiB })
    end)
  end

  -- Runs in a worker: what it leaves behind raises when it is collected, but only where no Lua function would be hit by that.
  local function leave_bad_finalizers()
    _G.raised = _G.raised or 0
    for _ = 1, 20 do
      getmetatable(newproxy(true)).__gc = function()
        if debug.getinfo(3) then return end
        _G.raised = _G.raised + 1
        error "a bad finalizer"
      end
    end
  end

  it("is collected while the process waits, which survives finalizers that raise", function()
    cluster.with(2, function(ids)
      local owner, reader = ids[1], ids[2]
      assert.is_true(cluster.becomes(function()
        local ref = tarn.remotecall_fetch(owner, make, 524288, 0)
        return tarn.remotecall_fetch(reader, function(r, leave)
          leave()
          return tarn.poolget(r)[1] == 1 and _G.raised > 0
        end, ref, leave_bad_finalizers)
      end))
    end)
  end)

  it("makes its owner collect when room is needed, which survives finalizers that raise", function()
    cluster.with(1, function(ids)
      local refs = {}
      assert.is_true(cluster.becomes(function()
        refs[#refs + 1] = tarn.remotecall_fetch(ids[1], make, 524288, #refs)
        return tarn.remotecall_fetch(ids[1], function(leave)
          leave()
          return _G.raised > 0
        end, leave_bad_finalizers)
      end))
    end, { memory = 16 * MiB })
  end)

  it("costs a stopped borrower's owner only what that maps, and comes back with its end", function()
    cluster.with(2, function(ids)
      local owner, borrower = ids[1], ids[2]
      local refs = {}
      for i = 1, 3 do refs[i] = tarn.remotecall_fetch(owner, make, 500000, i) end
      tarn.remotecall_fetch(borrower, function(list)
        _G.held = {}
        for i, r in ipairs(list) do _G.held[i] = tarn.poolget(r) end
      end, refs)
      local pid = cluster.os_pid(borrower)
      ffi.C.kill(pid, SIGSTOP)
      for i = 10, 30 do tarn.remotecall_fetch(owner, make, 500000, i) end
      assert.is_true(tarn.poolstats(owner).lent_bytes == 12000000)
      assert.is_true(tarn.poolstats(owner).resident_bytes >= 12000000)
      ffi.C.kill(pid, SIGCONT)
      tarn.remotecall_fetch(borrower, function(fn) for i, a in ipairs(_G.held) do fn(a, i) end end, check)
      ffi.C.kill(pid, SIGSTOP)
      ffi.C.kill(pid, SIGKILL)
      assert.is_true(cluster.becomes(function() return tarn.poolstats(owner).lent_bytes == 0 end))
    end, { memory = "32MB", silence_s = 120 }) -- stopped is not lost here
  end)

  it("is not forgotten with a connection: who has lost that may still map it", function()
    cluster.with(2, function(ids)
      local owner, borrower = ids[1], ids[2]
      local refs = {}
      for i = 1, 3 do refs[i] = tarn.remotecall_fetch(owner, make, 500000, i) end
      tarn.remotecall_fetch(borrower, function(list)
        _G.held = {}
        for i, r in ipairs(list) do _G.held[i] = tarn.poolget(r) end
      end, refs)
      -- The borrower ends every connection but the first it has, the one to the driver.
      local ended = tarn.remotecall_fetch(borrower, function()
        local f = require "ffi"
        pcall(f.cdef, "int getpeername(int fd, void *address, unsigned *length); int shutdown(int fd, int how);")
        local n = 0
        for fd = 3, 100 do
          local address, length = f.new("uint8_t[128]"), f.new("unsigned[1]", 128)
          if f.C.getpeername(fd, address, length) == 0 and address[0] == 2 then
            n = n + 1
            if n > 1 then f.C.shutdown(fd, 2) end
          end
        end
        return n - 1
      end)
      assert.is_true(ended > 0)
      tarn.sleep(0.1)
      assert.equal(12000000, tarn.poolstats(owner).lent_bytes)
      for i = 10, 40 do tarn.remotecall_fetch(owner, make, 500000, i) end
      tarn.remotecall_fetch(borrower, function(fn)
        for i, a in ipairs(_G.held) do fn(a, i) end
        _G.held = nil
        collectgarbage()
      end, check)
      assert.is_true(becomes(borrower, "borrowed_bytes", 0))
      assert.is_true(becomes(owner, "lent_bytes", 0)) -- told on a new connection
    end, { memory = "32MB" })
  end)

  it("is right to the last byte while its owner evicts, deletes and uses memory again, under slow, stopped and killed borrowers", function()
    local seconds = tonumber(os.getenv("TARN_LEND_SECONDS")) or 6
    local seed = tonumber(os.getenv("TARN_SPEC_SEED")) or os.time()
    print("lending: seed " .. seed)
    math.randomseed(seed)
    cluster.with(1, function(ids)
      local owner = ids[1]
      -- The owner works on about three times its budget, without a pause.
      local work = tarn.remotecall(owner, function(duration, start)
        math.randomseed(start)
        _G.ring, _G.base = {}, 0
        local made, until_s = 0, os.time() + duration
        while os.time() < until_s or not _G.enough do
          _G.base = _G.base + 1e7
          local n = math.random(4) == 1 and math.random(8192, 20000) or math.random(100000, 700000)
          local a = tarn.array("double", n)
          for j = 1, n do a[j] = _G.base + j end
          local slot = math.random(40)
          if _G.ring[slot] then tarn.pooldelete(_G.ring[slot].ref) end
          _G.ring[slot] = { ref = tarn.poolset(a), base = _G.base }
          made = made + 1
          tarn.sleep(0)
        end
        return made
      end, seconds, seed)
      tarn.sleep(0.3)
      local function give()
        for _ = 1, 1000 do
          local slot = _G.ring[math.random(40)]
          if slot then return slot end
        end
      end
      -- A borrower: fetches, holds, checks again, drops.
      local function borrow(from, giver, verify, duration, pause)
        local held, checked, until_s = {}, 0, os.time() + duration
        while os.time() < until_s or checked == 0 or tarn.poolstats().mapped_in_count == 0 do
          local ok, slot = pcall(tarn.remotecall_fetch, from, giver)
          if ok and slot then
            local got, a = pcall(tarn.poolget, slot.ref)
            if got then held[#held + 1] = { a = a, base = slot.base } end -- else deleted meanwhile, or no room for now
          end
          if #held > 0 then
            local h = held[math.random(#held)]
            checked = checked + verify(h.a, h.base)
          end
          if #held > 10 then table.remove(held, math.random(#held)) end
          tarn.sleep(pause)
        end
        for _, h in ipairs(held) do checked = checked + verify(h.a, h.base) end
        return checked, tarn.poolstats().mapped_in_count
      end
      local others = tarn.addprocs(4, { memory = "32MB", silence_s = 120 }) -- stopped is not lost here
      local quick = tarn.remotecall(others[1], borrow, owner, give, check, seconds, 0)
      local slow = tarn.remotecall(others[2], borrow, owner, give, check, seconds, 0.3)
      local stopped = tarn.remotecall(others[3], borrow, owner, give, check, seconds, 0.01)
      local pid, victim = cluster.os_pid(others[3]), others[4]
      tarn.remotecall(victim, borrow, owner, give, check, 1000, 0.005)
      local until_s = os.time() + seconds
      while os.time() < until_s do
        tarn.sleep(0.2)
        ffi.C.kill(pid, SIGSTOP)
        tarn.sleep(math.random() < 0.2 and 1.5 or 0.2)
        ffi.C.kill(pid, SIGCONT)
        local dying = cluster.os_pid(victim)
        if math.random() < 0.3 then ffi.C.kill(dying, SIGSTOP) end
        tarn.sleep(0.1)
        ffi.C.kill(dying, SIGKILL)
        victim = tarn.addprocs(1, { memory = "32MB" })[1]
        tarn.remotecall(victim, borrow, owner, give, check, 1000, 0.005)
      end
      local total = 0
      for _, f in ipairs { quick, slow, stopped } do
        local checked, mapped = f:fetch()
        assert.is_true(checked > 0 and mapped > 0)
        total = total + checked
      end
      tarn.remotecall_fetch(owner, function() _G.enough = true end)
      local made = work:fetch()
      print(("lending: %d values made, %.1f GB checked"):format(made, total * 8 / 1e9))
      tarn.rmprocs(others[1], others[2], others[3], victim)
      assert.is_true(cluster.becomes(function() return tarn.poolstats(owner).lent_bytes == 0 end))
      assert.is_true(cluster.becomes(function() return tarn.poolstats(owner).resident_bytes <= 48e6 end))
    end, { memory = "48MB" })
  end)
end)
