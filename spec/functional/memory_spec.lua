-- The budget as it looks from outside: what a worker really has in memory while it works on several times its max_memsize.
-- RssAnon + the memory file's own blocks <= budget + Lua heap + 32 MB. TARN_MEMORY_FIGURES=1 prints the peaks.
local cluster = require "spec.helper.cluster"
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local MB = 1e6
local BUDGET, SLACK = 48 * MB, 32 * MB

local function os_pid_of(pid)
  return tarn.remotecall_fetch(pid, function()
    return tonumber(io.open("/proc/self/stat"):read("*a"):match("^%d+"))
  end)
end

-- The descriptor of the pool's memory in /proc.
local function memory_file(os_pid)
  local dir = ("/proc/%d/fd/"):format(os_pid)
  for name in lfs.dir(dir) do
    if (posix.readlink(dir .. name) or ""):match("^/memfd:tarn") then return dir .. name end
  end
  error("no memory file among the descriptors of process " .. os_pid)
end

local function anonymous(os_pid)
  return tonumber(process.read_file(("/proc/%d/status"):format(os_pid)):match("RssAnon:%s*(%d+) kB")) * 1024
end

-- Sample worker id until the future is ready: the most that was over its Lua heap, and what that consisted of.
local function watch(id, future)
  local os_pid = os_pid_of(id)
  local file = memory_file(os_pid)
  local most = { over = 0 }
  repeat
    local ready = future:ready()
    -- What the collector has freed between two looks is in neither of them: a heap counts as what it was before, or after.
    local lua = tarn.poolstats(id).lua_bytes
    local anon, blocks = anonymous(os_pid), lfs.attributes(file, "blocks") * 512
    lua = math.max(lua, tarn.poolstats(id).lua_bytes)
    local over = anon + blocks - lua
    if over > most.over then most = { over = over, anon = anon, blocks = blocks, lua = lua } end
    if not ready then tarn.sleep(0.002) end
  until ready
  return most
end

local function within(what, most)
  local text = ("%-42s budget %.0f MB, beyond Lua's heap %.1f MB (RssAnon %.1f, memory file %.1f, Lua %.1f)"):format(what, BUDGET / MB,
    most.over / MB, most.anon / MB, most.blocks / MB, most.lua / MB)
  if os.getenv("TARN_MEMORY_FIGURES") then print("\n" .. text) end
  assert.is_true(most.over <= BUDGET + SLACK, text)
end

local function run(what, work, ...)
  local args = { ... }
  cluster.with(1, function(ids)
    local future = tarn.remotecall(ids[1], work, unpack(args))
    local most = watch(ids[1], future)
    future:fetch()
    within(what, most)
  end, { memory = BUDGET })
end

describe("memory, measured from outside, #footprint", function()
  it("is bounded by the budget: arrays of 4 MB", function()
    run("arrays of 4 MB", function()
      local refs = {}
      for i = 1, 50 do
        local a = tarn.array("double", 500000)
        for j = 1, #a, 512 do a[j] = i end
        refs[i] = tarn.poolset(a)
      end
      for i = 1, 50 do assert(tarn.poolget(refs[i])[513] == i) end
    end)
  end)

  it("is bounded by the budget: blocks of 64 KiB", function()
    run("blocks of 64 KiB", function()
      local refs = {}
      for i = 1, 2500 do
        local a = tarn.array("double", 8192)
        for j = 1, #a, 512 do a[j] = i end
        refs[i] = tarn.poolset(a)
      end
      for i = 1, 2500, 7 do assert(tarn.poolget(refs[i])[513] == i) end
    end)
  end)

  -- Live values are the Lua heap's; what leaves it is ours.
  for bytes, count in pairs { [200] = 150000, [2048] = 50000 } do
    it(("is bounded by the budget: plain tables of %d bytes"):format(bytes), function()
      run(("plain tables of %d bytes"):format(bytes), function(size, n)
        local refs = {}
        for i = 1, n do
          refs[i] = tarn.poolset({ i, ("x"):rep(size - 60) .. i })
          if i % 1000 == 0 then tarn.sleep(0) end
        end
        for i = 1, n, 97 do assert(tarn.poolget(refs[i])[1] == i) end
      end, bytes, count)
    end)
  end

  it("is bounded by the budget: columns of strings", function()
    run("columns of strings", function()
      local refs = {}
      for i = 1, 40 do
        local list = {}
        for j = 1, 60000 do list[j] = "element number " .. i .. "." .. j end
        refs[i] = tarn.poolset(tarn.strings(list))
        list = nil -- luacheck: ignore
      end
      for i = 1, 40 do assert(tarn.poolget(refs[i])[777] == "element number " .. i .. ".777") end
    end)
  end)

  it("is bounded by the budget: copies received over TCP, and held", function()
    cluster.with(2, function(ids)
      local refs = tarn.remotecall_fetch(ids[1], function()
        local list = {}
        for i = 1, 40 do
          local a = tarn.array("double", 500000)
          for j = 1, #a, 512 do a[j] = i end
          list[i] = tarn.poolset(a)
        end
        return list
      end)
      local future = tarn.remotecall(ids[2], function(list)
        local held = {}
        for i, ref in ipairs(list) do held[i] = tarn.poolget(ref) end
        for i, a in ipairs(held) do assert(a[513] == i) end
      end, refs)
      local most = watch(ids[2], future)
      future:fetch()
      within("copies received over TCP", most)
    end, { memory = BUDGET, map = false })
  end)

  it("is bounded by the budget: a plain table near the budget that is encoded to leave", function()
    cluster.with(2, function(ids)
      local ref = tarn.remotecall_fetch(ids[1], function()
        local t = {}
        for i = 1, 400000 do t[i] = "a text of forty bytes or so, number " .. i end
        return tarn.poolset(t)
      end)
      local future = tarn.remotecall(ids[2], function(r) return #tarn.poolget(r) end, ref)
      local most = watch(ids[1], future)
      assert.equal(400000, future:fetch())
      within("a plain table near the budget, encoded", most)
    end, { memory = BUDGET })
  end)

  it("goes down, when max_memsize is lowered, also of what was in use until later", function()
    cluster.with(1, function(ids)
      local id = ids[1]
      tarn.remotecall_fetch(id, function()
        _G.held = {}
        for i = 1, 10 do
          _G.held[i] = tarn.array("double", 500000)
          for j = 1, 500000, 512 do _G.held[i][j] = i end
        end
      end)
      local file = memory_file(os_pid_of(id))
      tarn.max_memsize("8MB", id)
      assert.is_true(lfs.attributes(file, "blocks") * 512 >= 36 * MB)
      tarn.remotecall_fetch(id, function()
        _G.held = nil
        collectgarbage()
        collectgarbage()
      end)
      assert.is_true(cluster.becomes(function() return lfs.attributes(file, "blocks") * 512 <= 8 * MB end))
    end, { memory = BUDGET })
  end)

  it("goes down at once when max_memsize is lowered", function()
    cluster.with(1, function(ids)
      local id = ids[1]
      local refs = tarn.remotecall_fetch(id, function()
        local list = {}
        for i = 1, 10 do
          local a = tarn.array("double", 500000)
          for j = 1, #a do a[j] = i end
          list[i] = tarn.poolset(a)
        end
        return list
      end)
      local os_pid = os_pid_of(id)
      local file = memory_file(os_pid)
      tarn.remotecall_fetch(id, function() collectgarbage() collectgarbage() end)
      assert.is_true(lfs.attributes(file, "blocks") * 512 >= 36 * MB)
      assert.equal(8 * MB, tarn.max_memsize("8MB", id))
      assert.is_true(cluster.becomes(function() return lfs.attributes(file, "blocks") * 512 <= 8 * MB end))
      for i, ref in ipairs(refs) do assert.equal(i, tarn.poolget(ref)[500000]) end
    end, { memory = BUDGET })
  end)
end)
