-- A large value that more than 8 processes read over TCP: it comes to them through each other, so that its owner does not send it to
-- each. Whatever happens to one of them on the way, everybody gets the value, or the error that is due.
local cluster = require "spec.helper.cluster"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local proxy = require "spec.helper.proxy"
local refs = require "spec.helper.refs"
local fails, becomes = cluster.fails, cluster.becomes

local WORKERS, DOUBLES = 10, 2 ^ 18 -- 2 MiB
local OPTS = { map = false, memory = "64MB", silence_s = 1, env = { TARN_LOG = "error" } }

local function make(x)
  local array = tarn.array("double", DOUBLES)
  for i = 1, DOUBLES do array[i] = x + i end
  return array
end

local function stored(x) return tarn.poolset(make(x)) end

local function is_right(array, x)
  for i = 1, DOUBLES do
    if array[i] ~= x + i then return false end
  end
  return #array == DOUBLES
end

local function check(ref, x, fn) return fn(tarn.poolget(ref), x) end

-- Futures of check on each of ids.
local function start(ids, ref, x)
  local jobs = {}
  for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, check, ref, x, is_right) end
  return jobs
end

local function all_right(jobs)
  for _, job in ipairs(jobs) do assert.is_true(job:fetch(20)) end
end

local function read_by(ids, ref, x) all_right(start(ids, ref, x)) end

-- How many times the value's bytes have left a process since the function before was called.
local function sent_by(id)
  local before = tarn.poolstats(id).tcp_out_bytes
  return function() return (tarn.poolstats(id).tcp_out_bytes - before) / (8 * DOUBLES) end
end

local function objects(id) return tarn.poolstats(id).objects end

-- No process has an object, a copy of one, or a reference.
local function nothing_left(ids) assert(refs.empty { 1, unpack(ids) }) end

local function with(fn)
  refs.clear()
  cluster.with_ids(tarn.addprocs(WORKERS, OPTS), fn)
end

describe("a large object that many read", function()
  it("leaves its owner a few times, whoever that is, and what readers keep of it is gone a little later", function()
    with(function(ids)
      local sent = sent_by(1)
      local ref = stored(1)
      read_by(ids, ref, 1)
      assert.is_true(sent() < 6.5, ("%.2f times"):format(sent()))
      local kept = 0
      for _, id in ipairs(ids) do kept = kept + objects(id) end
      assert.is_true(kept > 0, "nobody has kept any of it")

      local owner = ids[4]
      local other = tarn.remotecall_fetch(owner, function(n, x, fill)
        local array = tarn.array("double", n)
        fill(array, n, x)
        return tarn.poolset(array)
      end, DOUBLES, 7, function(array, n, x) for i = 1, n do array[i] = x + i end end)
      sent = sent_by(owner)
      local jobs = start(ids, other, 7)
      assert.is_true(is_right(tarn.poolget(other), 7))
      all_right(jobs)
      assert.is_true(sent() < 6.5, ("%.2f times"):format(sent()))
      ref, other, jobs = nil, nil, nil -- luacheck: ignore
      nothing_left(ids)
    end)
  end)

  it("is sent to each as ever where there are few, and by who is read by one alone", function()
    cluster.with_ids(tarn.addprocs(4, OPTS), function(ids)
      local sent = sent_by(1)
      read_by(ids, stored(2), 2)
      assert.is_true(sent() >= 4)
      nothing_left(ids)
    end)
    with(function(ids)
      for i, id in ipairs(ids) do read_by({ id }, stored(i), i) end
      for _, id in ipairs(ids) do assert.equal(0, objects(id)) end
      nothing_left(ids)
    end)
  end)

  it("is deleted for all at once, moves with its references, and has them in it", function()
    with(function(ids)
      local ref = stored(3)
      read_by(ids, ref, 3)
      tarn.migrate(ref, ids[2])
      read_by(ids, ref, 3)
      assert.equal(ids[2], ref.owner)
      tarn.pooldelete(ref)
      for _, job in ipairs(start(ids, ref, 3)) do fails("KeyError", job.fetch, job, 20) end

      local inner = tarn.poolset({ "in it" }, ids[5])
      local outer = tarn.poolset { array = make(4), inner = inner, text = ("x"):rep(2 ^ 20) }
      inner = nil -- luacheck: ignore
      for _, ok in pairs(tarn.everywhere(function(r, fn)
        local value = tarn.poolget(r)
        return fn(value.array, 4) and tarn.poolget(value.inner)[1] == "in it" and #value.text == 2 ^ 20
      end, outer, is_right)) do assert.is_true(ok) end
      ref, outer = nil, nil -- luacheck: ignore
      nothing_left(ids)
    end)
  end)

  it("is had from another where a reader has dropped its copy", function()
    with(function(ids)
      local ref = stored(5)
      for i = 1, 3 do read_by({ ids[i] }, ref, 5) end
      for i = 2, 3 do
        assert.equal(1, objects(ids[i]))
        tarn.remotecall_fetch(ids[i], function()
          _G.arrays = {}
          for k = 1, 10 do _G.arrays[k] = tarn.poolset(tarn.array("double", 2 ^ 20)) end -- 80 MiB within 64 MB
        end)
        assert.equal(10, objects(ids[i])) -- and no copy
        tarn.remotecall_fetch(ids[i], function() _G.arrays = nil end)
      end
      read_by(ids, ref, 5)
      ref = nil -- luacheck: ignore
      nothing_left(ids)
    end)
  end)

  it("comes to all others when a process that hands it on is killed in the middle, or sends nothing any more", function()
    for _, fault in ipairs { "killed", "stuck" } do
      proxy.with(WORKERS, function(p, ids)
        local small = tarn.poolset(tarn.array("double", 20000), ids[2]) -- all have a lane from there then
        for i = 3, WORKERS do assert.equal(20000, tarn.remotecall_fetch(ids[i], function(r) return #tarn.poolget(r) end, small)) end
        local ref = stored(6)
        read_by({ ids[1] }, ref, 6)
        read_by({ ids[2] }, ref, 6) -- the second is the first to keep it
        assert.equal(2, objects(ids[2]))
        p:stall_bulk(ids[2], 0)
        local jobs = start({ unpack(ids, 3) }, ref, 6)
        local waiting = {}
        assert.is_true(becomes(function()
          waiting = {}
          for i, job in ipairs(jobs) do if not job:ready() then waiting[#waiting + 1] = i end end
          return #waiting == 1
        end, 10), "nobody waits for it")
        if fault == "killed" then posix.kill(cluster.os_pid(ids[2]), posix.SIGKILL) end
        all_right(jobs)
        p:clear_all()
        ref, jobs, small = nil, nil, nil -- luacheck: ignore
        if fault == "killed" then table.remove(ids, 2) end
        nothing_left(ids)
      end, OPTS)
    end
  end)

  it("is lost to who waits for it when its owner is", function()
    proxy.with(WORKERS, function(p, ids)
      local owner = table.remove(ids, 1)
      local ref = tarn.poolset(make(8), owner)
      read_by({ ids[1] }, ref, 8)
      p:stall_bulk(owner, 0)
      local jobs = start(ids, ref, 8)
      assert.is_false(jobs[#jobs]:wait(0.3))
      posix.kill(cluster.os_pid(owner), posix.SIGKILL)
      local lost = 0
      for _, job in ipairs(jobs) do
        local ok, e = pcall(job.fetch, job, 20)
        assert(ok or tarn.iserror(e, "WorkerLost"), e)
        lost = lost + (ok and 0 or 1)
      end
      assert.is_true(lost > 0)
      jobs = nil -- luacheck: ignore
      ref = nil -- luacheck: ignore
      nothing_left(ids)
    end, OPTS)
  end)

  it("is not waited for by who has given up", function()
    proxy.with(WORKERS, function(p, ids)
      local ref = stored(9)
      read_by({ ids[1] }, ref, 9)
      read_by({ ids[2] }, ref, 9)
      p:stall_bulk(1, 0)
      p:stall_bulk(ids[2], 0)
      local function give_up(r)
        local ok, e = pcall(tarn.timeout, 0.2, tarn.poolget, r)
        return not ok and e.kind
      end
      local jobs = {}
      for i = 3, WORKERS do jobs[i] = tarn.remotecall(ids[i], give_up, ref) end
      for i = 3, WORKERS do assert.equal("Timeout", jobs[i]:fetch(10)) end
      p:clear_all()
      read_by(ids, ref, 9)
      ref = nil -- luacheck: ignore
      nothing_left(ids)
    end, OPTS)
  end)
end)

describe("everywhere with large arguments", function()
  it("sends them a few times: arrays, which stay writable here, strings, nil among them, and what the function brings along", function()
    with(function(ids)
      local array, text = make(1), ("y"):rep(3 * 2 ^ 20)
      local sent = sent_by(1)
      local results = tarn.everywhere(function(x, none, y, fn, last)
        return fn(x, 1) and none == nil and #y == 3 * 2 ^ 20 and last == nil and array[DOUBLES] == 1 + DOUBLES
      end, array, nil, text, is_right, nil)
      for _, id in ipairs { 1, unpack(ids) } do assert.is_true(results[id]) end
      assert.is_true(sent() < 6.5 * 3.5, ("%.2f times"):format(sent())) -- the array twice, and the text
      array[1] = 99
      assert.equal(99, array[1])

      sent = sent_by(1)
      results = tarn.everywhere(function(y) return #y end, text)
      for _, id in ipairs { 1, unpack(ids) } do assert.equal(#text, results[id]) end
      assert.is_true(sent() < 6.5 * 1.5, ("%.2f times"):format(sent()))
      nothing_left(ids)
    end)
  end)

  it("fails as ever, naming where, and runs once on each of the others", function()
    with(function(ids)
      local e = fails("RemoteError", tarn.everywhere, function(_, bad)
        _G.runs = (_G.runs or 0) + 1
        if tarn.myid() == bad then error "not here" end
      end, make(2), ids[3])
      cluster.says(e, ("failed on process %d: "):format(ids[3]), "not here")
      for _, id in ipairs(ids) do
        assert.equal(1, tarn.remotecall_fetch(id, function() return _G.runs end))
      end
      _G.runs = nil
      e = fails("NotSerializable", tarn.everywhere, print, make(2), coroutine.create(print))
      cluster.says(e, "a coroutine cannot travel: argument 2 of the function")
      nothing_left(ids)
    end)
  end)

  it("maps them on the same machine", function()
    cluster.with_ids(tarn.addprocs(WORKERS), function(ids)
      local results = tarn.everywhere(function(x, fn) return fn(x, 3) and tarn.poolstats().mapped_in_count end, make(3), is_right)
      for _, id in ipairs(ids) do assert.equal(1, results[id]) end
      nothing_left(ids)
    end)
  end)
end)

describe("a large module that all require", function()
  -- A module of more than 1 MiB in a folder that only this process's package.path has. Returns its name.
  local function module_of(text)
    local dir = process.tmpdir()
    package.path = dir .. "/?.lua;" .. package.path
    process.write_file(dir .. "/large.lua", ("return { text = %q, filling = [[%s]] }"):format(text, ("x"):rep(2 ^ 21)))
    return dir .. "/large.lua"
  end

  local function load_it()
    package.loaded.large = nil
    local large = require "large"
    return large.text, #large.filling
  end

  local path
  before_each(function() path = package.path end)
  after_each(function()
    package.path, package.loaded.large = path, nil
    require("tarn.modules").forget_all()
  end)

  -- All of ids at once.
  local function required_by(ids, text)
    local jobs = {}
    for i, id in ipairs(ids) do jobs[i] = tarn.remotecall(id, load_it) end
    for _, job in ipairs(jobs) do assert.same({ text, 2 ^ 21 }, { job:fetch(20) }) end
  end

  -- Store values here until not even a small one has room.
  local function fill()
    local refs_of_all = {}
    for _, size in ipairs { 2 ^ 20, 2 ^ 16, 2 ^ 12 } do
      repeat
        local ok, ref = pcall(tarn.poolset, ("x"):rep(size))
        if ok then refs_of_all[#refs_of_all + 1] = ref end
      until not ok
    end
    return refs_of_all
  end

  it("leaves the driver a few times, anew where its file has changed, also after cleanup, and goes flat where the pool is full", function()
    with(function(ids)
      local sent = sent_by(1)
      local file = module_of "first"
      required_by(ids, "first")
      assert.is_true(sent() < 6.5, ("%.2f times"):format(sent()))
      process.write_file(file, (process.read_file(file):gsub("first", "second", 1)))
      sent = sent_by(1)
      required_by(ids, "second")
      assert.is_true(sent() > 0.9 and sent() < 6.5, ("%.2f times"):format(sent()))
      tarn.cleanup()
      required_by(ids, "second")
      tarn.cleanup()
      local memory, disk = tarn.max_memsize(), tarn.max_disksize()
      local function restore()
        tarn.max_disksize(disk)
        tarn.max_memsize(memory)
      end
      finally(restore)
      tarn.max_memsize(2 ^ 23)
      tarn.max_disksize(1)
      local full = fill()
      sent = sent_by(1)
      required_by(ids, "second")
      tarn.pooldelete_all(full)
      restore()
      assert.is_true(sent() >= WORKERS, ("%.2f times"):format(sent()))
      nothing_left(ids)
    end)
  end)

  it("comes to the others when a worker that hands it on is killed, and is lost with nobody", function()
    proxy.with(WORKERS, function(p, ids)
      module_of "text"
      required_by({ ids[1] }, "text")
      required_by({ ids[2] }, "text") -- the first to keep it
      assert.equal(1, objects(ids[2]))
      p:stall(ids[2], 0)
      local jobs = {}
      for i = 3, WORKERS do jobs[#jobs + 1] = tarn.remotecall(ids[i], load_it) end
      assert.is_true(becomes(function()
        local waiting = 0
        for _, job in ipairs(jobs) do waiting = waiting + (job:ready() and 0 or 1) end
        return waiting == 1
      end, 10), "nobody waits for it")
      posix.kill(cluster.os_pid(ids[2]), posix.SIGKILL)
      for _, job in ipairs(jobs) do assert.equal("text", (job:fetch(20))) end
      p:clear_all()
      table.remove(ids, 2)
      require("tarn.modules").forget_all()
      jobs = nil -- luacheck: ignore
      nothing_left(ids)
    end, OPTS)
  end)
end)
