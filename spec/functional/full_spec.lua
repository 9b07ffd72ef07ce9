-- Disks that are really full: a small tmpfs in a mount namespace of its own, RLIMIT_FSIZE; and what the errors carry.
local process = require "spec.helper.process"

-- What scripts share. fill(pid): stores arrays of 400 KB until that fails -> refs, the error. check(refs): all of them are right.
local PRELUDE = [[
  local function numbers(i)
    local a = tarn.array("double", 50000)
    for j = 1, #a do a[j] = i * j end
    return a
  end
  local function fill(pid, most)
    local refs = {}
    for i = 1, most or 200 do
      local ok, r = pcall(function() return tarn.poolset(numbers(i), pid) end)
      if not ok then return refs, r end
      refs[i] = r
      collectgarbage()
      tarn.sleep(0)
    end
    return refs
  end
  local function check(refs)
    for i, ref in ipairs(refs) do
      local a = tarn.poolget(ref)
      assert(a[1] == i and a[50000] == i * 50000, "object " .. i)
      a = nil
      collectgarbage()
      tarn.sleep(0)
    end
  end
  local function told(e, kind, path)
    assert(tarn.iserror(e, kind), tostring(e))
    assert(type(e.needed) == "number" and e.needed >= 400000, "needed: " .. tostring(e.needed) .. " " .. tostring(e))
    assert(type(e.available) == "number" and e.available < e.needed, "available: " .. tostring(e.available) .. " " .. tostring(e))
    if path then assert(("/" .. tostring(e.path) .. "/"):find("/" .. path .. "/", 1, true), "path: " .. tostring(e.path)) end
  end
  local function room_is_back(pid)
    assert(tarn.poolget(tarn.poolset(numbers(3), pid))[7] == 21)
  end
]]

-- Runs it in a directory with a tmpfs of that size at ./disk, which nobody else sees. Nil where that is not permitted.
local function on_small_disk(megabytes, source, args)
  local dir = process.tmpdir()
  assert(os.execute("mkdir " .. dir .. "/disk") == 0)
  process.write_file(dir .. "/driver.lua", PRELUDE .. source)
  local mount = ("mount -t tmpfs -o size=%dm none disk"):format(megabytes)
  if process.run({ "/usr/bin/unshare", "-Urm", "/bin/sh", "-c", mount }, { cwd = dir }).code ~= 0 then return nil end
  local command = { "/usr/bin/unshare", "-Urm", "/bin/sh", "-c", mount .. ' && exec "$0" "$@"', process.tarn_path }
  for _, arg in ipairs(args) do command[#command + 1] = arg end
  command[#command + 1] = "driver.lua"
  return process.run(command, { cwd = dir, timeout_s = 60 })
end

local function passes(result)
  if not result then return pending("needs to mount a tmpfs in a mount namespace of its own (unshare -Urm)") end
  assert.equal("good\n", result.out, result.err)
  assert.equal(0, result.code, result.err)
end

describe("a spill directory on a disk that is full", function()
  it("is DiskFull with the figures and the path; all is still there, and it goes on when room comes back", function()
    passes(on_small_disk(6, [[
      local ballast = io.open("disk/ballast", "wb")
      ballast:write(("x"):rep(3e6))
      ballast:close()
      local refs, e = fill()
      told(e, "DiskFull", "disk")
      assert(#refs >= 8 and #refs < 20, #refs)
      check(refs)
      for i = 1, 3 do -- and says so each time
        local more, again = fill(nil, 20)
        told(again, "DiskFull", "disk")
        for _, r in ipairs(more) do tarn.pooldelete(r) end
        check(refs)
      end
      told(select(2, pcall(tarn.array, "double", 1e6)), "DiskFull", "disk") -- above the budget: built there
      told(select(2, pcall(tarn.save, "disk/saved", ("x"):rep(5e6))), "DiskFull", "disk/saved")
      os.remove("disk/ballast")
      room_is_back()
      assert(#fill(nil, 5) == 5)
      check(refs)
      print("good")
    ]], { "-m", "2MB", "-d", "disk" }))
  end)

  it("of a worker is told to who stores there, with its process, and to who reads", function()
    passes(on_small_disk(4, [[
      local id = tarn.addprocs(1, { spill_dir = "disk", memory = "2MB" })[1]
      local ballast = io.open("disk/ballast", "wb")
      ballast:write(("x"):rep(2e6))
      ballast:close()
      local refs, e = fill(id)
      told(e, "DiskFull", "disk")
      assert(e.pid == id or e.pid == 1, tostring(e.pid))
      check(refs)
      -- A reader with a full disk and budget of its own: what it cannot hold is an error, and the owner's object stays.
      local reader = tarn.addprocs(1, { spill_dir = "disk", memory = "2MB", map = false })[1]
      local ok, r = pcall(tarn.remotecall_fetch, reader, function(list)
        local held = {}
        for i, ref in ipairs(list) do held[i] = tarn.poolget(ref) end
        return #held
      end, refs)
      if not ok then assert(tarn.iserror(r, "DiskFull") or tarn.iserror(r, "PoolFull"), tostring(r)) end
      if not ok then assert(r.needed and r.available, tostring(r)) end
      os.remove("disk/ballast")
      room_is_back(id)
      check(refs)
      print("good")
    ]], { "-m", "64MB" }))
  end)

  it("does not even take the spill file's name: DiskFull, and later it does", function()
    passes(on_small_disk(1, [[
      local ballast = io.open("disk/ballast", "wb")
      ballast:setvbuf("no")
      while ballast:write(("x"):rep(4096)) do end
      ballast:close()
      local refs, e = fill()
      assert(tarn.iserror(e, "DiskFull"), tostring(e))
      assert(e.needed > 0 and e.available == 0 and e.path:find("/disk/deeper", 1, true), tostring(e))
      check(refs)
      print("good")
    ]], { "-m", "2MB", "-d", "disk/deeper" }))
  end)
end)

describe("RLIMIT_FSIZE", function()
  it("is a disk that is full", function()
    local dir = process.tmpdir()
    process.write_file(dir .. "/driver.lua", PRELUDE .. [[
      local refs, e = fill()
      told(e, "DiskFull")
      assert(e.path:find(".tarn", 1, true), tostring(e.path))
      check(refs)
      for i = 1, #refs - 2 do tarn.pooldelete(table.remove(refs)) end
      room_is_back()
      check(refs)
      told(select(2, pcall(tarn.save, "x", ("x"):rep(3e7))), "DiskFull", "x")
      print("good")
    ]])
    local command = { "/bin/sh", "-c", 'ulimit -f 40000; exec "$0" "$@"', process.tarn_path, "-m", "4MB", "driver.lua" }
    passes(process.run(command, { cwd = dir, timeout_s = 60 }))
  end)
end)

describe("max_disksize and max_memsize", function()
  it("tell what was needed and what there is, here and from elsewhere", function()
    local result = process.run_script(PRELUDE .. [[
      local id = tarn.addprocs(1, { memory = "2MB" })[1]
      for _, pid in ipairs { 1, id } do
        tarn.max_disksize("2MB", pid)
        tarn.max_memsize("2MB", pid)
        local refs, e = fill(pid)
        told(e, "DiskFull")
        check(refs)
        assert(tarn.max_disksize("100MB", pid) == 100e6)
        room_is_back(pid)
        assert(tarn.max_disksize(math.huge, pid) == math.huge and tarn.max_disksize(nil, pid) == math.huge)
        for _, r in ipairs(refs) do tarn.pooldelete(r) end
      end
      local held = {}
      local ok, e = pcall(function() for i = 1, 20 do held[i] = tarn.array("double", 50000) end end)
      assert(not ok)
      told(e, "PoolFull")
      local far = select(2, pcall(tarn.remotecall_fetch, id, function()
        local all = {}
        for i = 1, 20 do all[i] = tarn.array("double", 50000) end
      end))
      told(far, "PoolFull")
      assert(far.pid == id)
      print("good")
    ]], { timeout_s = 60 })
    passes(result)
  end)
end)

