-- FileRefs and saved files: written, mapped back, read anywhere, and every way in which a file can be bad. Cases tagged #onehost are of a
-- file that workers have too: spec/peers/core_spec.lua, whose workers have another /tmp, leaves them out.
local cluster = require "spec.helper.cluster"
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local with, fails, says = cluster.with, cluster.fails, cluster.says
local read_file, write_file = process.read_file, process.write_file

local function numbers(n, first)
  local a = tarn.array("double", n)
  for i = 1, n do a[i] = (first or 0) + i end
  return a
end

local function entries(dir)
  local list = {}
  for name in lfs.dir(dir) do
    if name ~= "." and name ~= ".." then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function is_root() return posix.geteuid() == 0 end

-- What dead views held is put back at a task boundary.
local function settle()
  collectgarbage()
  collectgarbage()
  tarn.sleep(0.01)
end

describe("movetodisk to a path", function()
  it("releases the memory, and a later poolget maps the file back", function()
    local dir = process.tmpdir()
    local ref = tarn.poolset({ "name", numbers(1000000), { deep = { 1, 2 } } })
    settle()
    local before = tarn.poolstats()
    local file = tarn.movetodisk(ref, dir .. "/x")
    settle()
    assert.is_true(tarn.poolstats().resident_bytes <= before.resident_bytes - 8000000)
    assert.equal(dir .. "/x", file.path)
    assert.equal(ref.size, file.size)
    local back = tarn.poolget(ref)
    assert.equal("name", back[1])
    assert.equal(777777, back[2][777777])
    assert.equal(2, back[3].deep[2])
    assert.is_true(tarn.poolstats().resident_bytes <= before.resident_bytes - 8000000 + 1000)
    assert.equal(back, tarn.poolget(ref))
    assert.same({ "x" }, entries(dir))
  end)

  it("keeps views that were got before it readable", function()
    local dir = process.tmpdir()
    local a = numbers(500000)
    local ref = tarn.poolset(a)
    tarn.movetodisk(ref, dir .. "/x")
    assert.equal(500000, a[500000])
    assert.equal(a, tarn.poolget(ref))
  end)

  it("moves plain values too, large and small", function()
    local dir = process.tmpdir()
    local large = {}
    for i = 1, 50000 do large[i] = "item " .. i end
    for name, x in pairs { nothing = false, text = "text", list = { 1, 2, 3 }, large = large } do
      local ref = tarn.poolset(x)
      tarn.movetodisk(ref, dir .. "/" .. name)
      assert.same(x, tarn.poolget(ref))
      assert.same(x, tarn.load(dir .. "/" .. name))
    end
  end)

  it("can move again, into another file or the spill file", function()
    local dir = process.tmpdir()
    local ref = tarn.poolset(numbers(100000))
    tarn.movetodisk(ref, dir .. "/x")
    tarn.movetodisk(ref, dir .. "/y")
    os.remove(dir .. "/x")
    settle()
    assert.equal(5, tarn.poolget(ref)[5])
    local file = tarn.movetodisk(ref)
    assert.is_nil(file.path)
    assert.equal(6, file:get()[6])
  end)

  it("refuses a path that exists, whatever it is, and leaves it and the object as they were", function()
    local dir = process.tmpdir()
    write_file(dir .. "/mine", "precious")
    lfs.mkdir(dir .. "/folder")
    assert(lfs.link("nowhere", dir .. "/dangling", true))
    local ref = tarn.poolset({ 1, 2 })
    for _, name in ipairs { "mine", "folder", "dangling" } do
      for _, call in ipairs { tarn.movetodisk, tarn.copytodisk } do
        local e = fails("IOError", call, ref, dir .. "/" .. name)
        assert.equal(dir .. "/" .. name, e.path)
        says(e.message, "exist")
      end
    end
    assert.equal("precious", read_file(dir .. "/mine"))
    assert.same({ 1, 2 }, tarn.poolget(ref))
    assert.same({ "dangling", "folder", "mine" }, entries(dir))
  end)

  it("refuses what is no path, no directory, no DRef", function()
    local ref = tarn.poolset({ 1 })
    local dir = process.tmpdir()
    says(fails("IOError", tarn.movetodisk, ref, dir .. "/none/x"), dir .. "/none/x")
    write_file(dir .. "/file", "")
    fails("IOError", tarn.movetodisk, ref, dir .. "/file/x")
    fails("ArgumentError", tarn.movetodisk, ref, "")
    fails("ArgumentError", tarn.movetodisk, ref, dir .. "/")
    fails("ArgumentError", tarn.movetodisk, ref, "a\0b")
    fails("ArgumentError", tarn.movetodisk, ref, 5)
    fails("ArgumentError", tarn.movetodisk, "x", dir .. "/x")
    fails("ArgumentError", tarn.savetodisk, ref)
    fails("ArgumentError", tarn.deletefromdisk, ref)
    tarn.pooldelete(ref)
    fails("KeyError", tarn.movetodisk, ref, dir .. "/x")
    fails("KeyError", tarn.movetodisk, ref)
    fails("KeyError", tarn.copytodisk, ref)
    fails("KeyError", tarn.savetodisk, ref, dir .. "/x")
    assert.same({ "file" }, entries(dir))
  end)

  it("takes a relative path from the caller's directory", function()
    local dir = process.tmpdir()
    local result = process.run_script([[
      local id = tarn.addprocs(1)[1]
      local ref = tarn.poolset({ 5 }, id)
      local file = tarn.movetodisk(ref, "here")
      print(file.path, file:get()[1], ref:get()[1])
    ]], { cwd = dir })
    assert.equal(dir .. "/here\t5\t5\n", result.out)
  end)
end)

describe("copytodisk", function()
  it("to a path writes a file and keeps the object in memory", function()
    local dir = process.tmpdir()
    local a = numbers(100000)
    local ref = tarn.poolset(a)
    settle()
    local before = tarn.poolstats().resident_bytes
    local file = tarn.copytodisk(ref, dir .. "/x")
    settle()
    assert.equal(before, tarn.poolstats().resident_bytes)
    assert.equal(a, tarn.poolget(ref))
    assert.equal(7, file:get()[7])
  end)

  it("without a path writes to the spill file; the FileRef holds the object; the next eviction writes nothing", function()
    local ref = tarn.poolset(numbers(200000))
    settle()
    local before = tarn.poolstats()
    local file = tarn.copytodisk(ref)
    local after = tarn.poolstats()
    assert.is_nil(file.path)
    assert.is_true(after.spilled_bytes >= before.spilled_bytes + 1600000)
    assert.is_true(after.resident_bytes >= before.resident_bytes)
    assert.equal(9, tarn.poolget(ref)[9])
    assert.equal(file, tarn.copytodisk(ref))
    settle()
    tarn.movetodisk(ref)
    settle()
    assert.is_true(tarn.poolstats().resident_bytes <= before.resident_bytes - 1600000)
    assert.equal(after.spill_written_bytes, tarn.poolstats().spill_written_bytes)
    ref = nil -- luacheck: ignore
    settle()
    assert.equal(9, file:get()[9])
  end)
end)

describe("savetodisk", function()
  it("writes or replaces, and the pool does not notice", function()
    local dir = process.tmpdir()
    local ref, other = tarn.poolset({ x = 1 }), tarn.poolset(numbers(100000))
    local before = tarn.poolstats()
    local file = tarn.savetodisk(ref, dir .. "/x")
    assert.equal(file, tarn.savetodisk(other, dir .. "/x"))
    local after = tarn.poolstats()
    for _, name in ipairs { "objects", "live_bytes", "resident_bytes", "spilled_bytes", "disk_bytes", "gets", "sets", "evictions" } do
      assert.equal(before[name], after[name], name)
    end
    assert.equal(100000, tarn.load(dir .. "/x")[100000])
    assert.same({ "x" }, entries(dir))
  end)

  it("over the file that the object is in works, and keeps the mode of what it replaces", function()
    local dir = process.tmpdir()
    local ref = tarn.poolset(numbers(100000))
    tarn.movetodisk(ref, dir .. "/x")
    os.execute("chmod 640 " .. dir .. "/x")
    tarn.savetodisk(ref, dir .. "/x")
    settle()
    assert.equal(3, tarn.poolget(ref)[3])
    assert.equal("rw-r-----", lfs.attributes(dir .. "/x", "permissions"))
  end)

  it("refuses what would mean nothing in a file", function()
    local dir = process.tmpdir()
    local inner = tarn.poolset(1)
    local ref = tarn.poolset({ inner })
    says(fails("NotSerializable", tarn.savetodisk, ref, dir .. "/x"), "DRef")
    says(fails("NotSerializable", tarn.movetodisk, ref, dir .. "/x"), "DRef")
    says(fails("NotSerializable", tarn.save, dir .. "/x", { tarn.async(function() end) }), "Future")
    assert.same({}, entries(dir))
    assert.equal(inner, tarn.poolget(ref)[1])
  end)

  it("killed at any moment leaves the old file or the new one, whole, and nothing else", function()
    local dir = process.tmpdir()
    for round = 1, 6 do
      local driver = process.start_script(([[
        local ref = tarn.poolset(tarn.array("double", 1000000))
        tarn.savetodisk(ref, "%s/x")
        print("saved") io.stdout:flush()
        while true do tarn.savetodisk(ref, "%s/x") end
      ]]):format(dir, dir))
      driver:line()
      posix.poll({}, posix.now() + 0.007 * round)
      driver:kill()
      driver:destroy()
      assert.equal(1000000, #tarn.load(dir .. "/x", { verify = true }))
      -- Between the two names of a new file there is a moment; what it may leave is a whole file beside.
      assert.is_true(#entries(dir) <= 1 + round)
    end
  end)
end)

describe("a FileRef", function()
  it("has host, path and size; compares, prints and serves as a key by what it names", function()
    local dir = process.tmpdir()
    local ref = tarn.poolset({ 1 })
    local a, b = tarn.savetodisk(ref, dir .. "/x"), tarn.savetodisk(ref, dir .. "/./x")
    assert.equal(a, b)
    assert.equal(a:key(), b:key())
    assert.equal(tostring(a), tostring(b))
    says(tostring(a), "FileRef", dir .. "/x")
    assert.is_false(a == tarn.savetodisk(ref, dir .. "/y"))
    assert.is_false(a == ref)
    assert.is_string(a.host)
    assert.is_false(pcall(function() a.path = "z" end))
    assert.equal(a, tarn.decode(tarn.encode({ a }))[1])
    assert.equal(a, tarn.load((function()
      tarn.save(dir .. "/ref", a)
      return dir .. "/ref"
    end)()))
  end)

  it("travels, and is read where it arrives by mapping the file #onehost", function()
    local dir = process.tmpdir()
    with(1, function(ids)
      local file = tarn.movetodisk(tarn.poolset(numbers(1000000)), dir .. "/x")
      local sum, stats, same = tarn.remotecall_fetch(ids[1], function(f)
        local a = tarn.fetch(f)
        local s = 0
        for i = 1, #a do s = s + a[i] end
        return s, tarn.poolstats(), f
      end, file)
      assert.equal(1000000 * 1000001 / 2, sum)
      assert.equal(file, same)
      assert.equal(1, stats.objects)
      assert.is_true(stats.tcp_in_bytes < 100000)
      assert.is_true(stats.resident_bytes < 100000)
    end)
  end)

  it("without a path travels too, and holds the object", function()
    with(2, function(ids)
      local file = tarn.movetodisk(tarn.poolset(numbers(100000), ids[1]))
      assert.is_nil(file.path)
      assert.equal(44, tarn.remotecall_fetch(ids[2], function(f) return f:get()[44] end, file))
      assert.equal(45, tarn.poolget(file)[45])
      tarn.pooldelete(file)
      fails("KeyError", tarn.poolget, file)
    end)
  end)

  it("is read once: later reads give the same object, which counts as one of the pool", function()
    local dir = process.tmpdir()
    local ref = tarn.poolset({ 1, { 2 } })
    local file = tarn.savetodisk(ref, dir .. "/x")
    settle()
    local before = tarn.poolstats().objects
    local value = file:get()
    assert.equal(value, tarn.poolget(file))
    assert.equal(before + 1, tarn.poolstats().objects)
    value = nil -- luacheck: ignore
    settle()
    assert.same({ 1, { 2 } }, file:get())
    assert.equal(before + 1, tarn.poolstats().objects)
    tarn.pooldelete(file)
    assert.equal(before, tarn.poolstats().objects)
    assert.same({ 1, { 2 } }, file:get())
    file:delete()
    assert.same({ 1, { 2 } }, tarn.poolget(ref))
    assert.same({ "x" }, entries(dir))
  end)

  it("whose file was rewritten is read anew, never served stale", function()
    local dir = process.tmpdir()
    local path = dir .. "/x"
    local file = tarn.savetodisk(tarn.poolset({ version = 1 }), path)
    for version = 1, 20 do -- the same size, within one tick of the file system's clock
      tarn.savetodisk(tarn.poolset({ version = version }), path)
      assert.equal(version, file:get().version)
    end
    -- In place, the same inode, size and even time: the checksums tell.
    tarn.savetodisk(tarn.poolset({ version = 30 }), dir .. "/other")
    os.execute(("cp -p %s %s/stamp && cat %s/other > %s && touch -r %s/stamp %s"):format(path, dir, dir, path, dir, path))
    assert.equal(30, file:get().version)
    with(1, function(ids)
      local get = function(f) return f:get().version end
      assert.equal(30, tarn.remotecall_fetch(ids[1], get, file))
      tarn.savetodisk(tarn.poolset({ version = 31 }), path)
      assert.equal(31, tarn.remotecall_fetch(ids[1], get, file))
      assert.equal(31, get(file))
    end)
  end)

  it("of an object that was evicted since is read again from its file, and never spilled", function()
    local dir = process.tmpdir()
    local result = process.run_script(([[
      local refs = {}
      for i = 1, 8 do
        local a = tarn.array("double", 100000)
        for j = 1, #a do a[j] = i * j end
        refs[i] = tarn.savetodisk(tarn.poolset({ a, ("x"):rep(40000) }), "%s/" .. i)
        a = nil
      end
      tarn.cleanup()
      collectgarbage() collectgarbage() tarn.sleep(0.01)
      local before = tarn.poolstats().spill_written_bytes
      for round = 1, 5 do
        for i = 1, 8 do
          local v = refs[i]:get()
          assert(v[1][1000] == i * 1000 and #v[2] == 40000)
          local filler = tarn.poolset(("y"):rep(500000))
          tarn.pooldelete(filler)
        end
        collectgarbage()
      end
      print(tarn.poolstats().resident_bytes <= 2e6, tarn.poolstats().spill_written_bytes - before)
    ]]):format(dir), { args = { "-m", "2MB" } })
    assert.equal("true\t0\n", result.out, result.err)
  end)

  it("accepts functions only for who says so", function()
    local dir = process.tmpdir()
    local file = tarn.savetodisk(tarn.poolset({ f = function() return 7 end }), dir .. "/x")
    assert.equal(dir .. "/x", fails("Corrupt", tarn.poolget, file).path)
    assert.equal(7, tarn.poolget(file, { code = true }).f())
    fails("Corrupt", tarn.poolget, file)
    assert.equal(7, file:get({ code = true }).f())
    assert.equal(7, tarn.fetch(file, { code = true }).f())
    fails("ArgumentError", tarn.poolget, file, { cod = true })
  end)

  it("of another host is an error where no process is there", function()
    local mp = "\199" -- ext 8
    local payload = "\147" .. "\169elsewhere" .. "\166/tmp/x" .. "\5"
    local file = tarn.decode(mp .. string.char(#payload) .. string.char(0x17) .. payload)
    assert.equal("elsewhere", file.host)
    local e = fails("IOError", tarn.poolget, file)
    says(e, "elsewhere", "/tmp/x")
    with(1, function() says(fails("IOError", tarn.poolget, file), "elsewhere") end)
  end)

  it("of another host is read by a worker there #onehost", function()
    if not is_root() or os.execute("unshare --uts true 2>/dev/null") ~= 0 then return pending("needs unshare --uts") end
    local dir = process.tmpdir()
    local script = '#!/bin/sh\nexec unshare --uts sh -c \'hostname faraway && exec "$0" "$@"\' %s "$@"\n'
    write_file(dir .. "/tarn", script:format(process.tarn_path))
    os.execute("chmod +x " .. dir .. "/tarn")
    with(1, function(ids)
      local ref = tarn.poolset(numbers(100000), ids[1])
      local file = tarn.movetodisk(ref, dir .. "/x")
      assert.equal("faraway", file.host)
      assert.equal(99999, tarn.poolget(file)[99999])
      assert.equal(1, #tarn.who_has_read(file))
      assert.equal(ids[1], tarn.who_has_read(file)[1].owner)
    end, { tarn = dir .. "/tarn" })
  end)

  it("that is malformed is Corrupt", function()
    local function decode(payload) return tarn.decode("\199" .. string.char(#payload) .. string.char(0x17) .. payload) end
    local bad = { "\146\161h\162/x", "\147\161h\160\5", "\147\161h\192\5", "\147\161h\163/\0x\5", "\148\161h\192\5\1",
      "\148\161h\162/x\5", "\147\161h\162/x\255", "\147\5\162/x\5", "\149\161h\162/x\5\192" }
    for _, payload in ipairs(bad) do fails("Corrupt", decode, payload) end
    assert.equal("/x", decode("\148\161h\162/x\5\192").path) -- of a later version
  end)
end)

describe("who_has_read", function()
  it("tells the DRefs into which a file was read, on which processes, while they last #onehost", function()
    local dir = process.tmpdir()
    local file = tarn.savetodisk(tarn.poolset({ 4 }), dir .. "/x")
    assert.same({}, tarn.who_has_read(file))
    with(2, function(ids)
      assert.equal(4, tarn.remotecall_fetch(ids[1], function(f) return f:get()[1] end, file))
      assert.equal(4, file:get()[1])
      local owners = {}
      for _, ref in ipairs(tarn.who_has_read(dir .. "/x")) do
        owners[#owners + 1] = ref.owner
        assert.equal(4, tarn.poolget(ref)[1])
      end
      table.sort(owners)
      assert.same({ 1, ids[1] }, owners)
      assert.equal(2, #tarn.remotecall_fetch(ids[2], tarn.who_has_read, file))
      tarn.rmprocs(ids[1])
      assert.is_true(cluster.becomes(function() return #tarn.who_has_read(file) == 1 end))
      file:delete()
      assert.same({}, tarn.who_has_read(file))
    end)
  end)
end)

describe("a bad file", function()
  local dir, path, file, ref, good

  before_each(function()
    dir = process.tmpdir()
    path = dir .. "/x"
    ref = tarn.poolset({ numbers(300), numbers(20000), "text", numbers(200000) })
    file = tarn.copytodisk(ref, path)
    good = read_file(path)
  end)

  after_each(function()
    file:delete()
    tarn.pooldelete(ref)
  end)

  it("removed: an IOError with the path; what is mapped stays readable", function()
    local value = file:get()
    os.remove(path)
    assert.equal(path, fails("IOError", tarn.poolget, file).path)
    assert.equal(200000, value[4][200000])
    write_file(path, good)
    assert.equal(20000, file:get()[2][20000])
  end)

  it("removed or replaced after movetodisk: an IOError from the DRef as well, here and elsewhere, and the process goes on", function()
    local moved = tarn.poolset(numbers(100000))
    tarn.movetodisk(moved, dir .. "/moved")
    settle()
    os.remove(dir .. "/moved")
    assert.equal(dir .. "/moved", fails("IOError", tarn.poolget, moved).path)
    with(1, function(ids)
      says(fails("IOError", tarn.remotecall_fetch, ids[1], function(r) return tarn.poolget(r) end, moved), dir .. "/moved")
    end)
    tarn.save(dir .. "/moved", numbers(100000, 5))
    says(fails("IOError", tarn.poolget, moved), "changed or replaced")
    tarn.pooldelete(moved)
    assert.equal(6, tarn.load(dir .. "/moved")[1])
  end)

  it("changed in any small byte is Corrupt; in a large block with {verify = true}", function()
    local function check(at, opts)
      write_file(path, good:sub(1, at - 1) .. string.char((good:byte(at) + 1) % 256) .. good:sub(at + 1))
      return fails("Corrupt", tarn.poolget, file, opts)
    end
    for at = 1, 3200, 13 do
      if at <= 64 or good:byte(at) ~= 0 then check(at) end -- what pads is no part of the value
    end
    check(100000)
    assert.equal(path, check(#good, { verify = true }).path)
    local e = fails("Corrupt", tarn.load, path, { verify = true })
    assert.equal(path, e.path)
    write_file(path, good)
    assert.equal(200000, file:get({ verify = true })[4][200000])
  end)

  it("truncated anywhere is an error", function()
    for _, size in ipairs { 0, 1, 7, 63, 64, 65, 100, 200, 3000, 100000, 200000, #good - 1 } do
      write_file(path, good:sub(1, size))
      assert.equal(path, fails("Corrupt", tarn.poolget, file).path)
      fails("Corrupt", tarn.load, path)
    end
    write_file(path, good .. "x")
    fails("Corrupt", tarn.poolget, file)
  end)

  it("that is no file or cannot be read is an IOError", function()
    os.remove(path)
    lfs.mkdir(path)
    assert.equal(path, fails("IOError", tarn.poolget, file).path)
    lfs.rmdir(path)
    os.execute("mkfifo " .. path)
    says(fails("IOError", tarn.poolget, file), "regular")
    os.remove(path)
    assert(lfs.link("x", path, true)) -- a link to itself
    fails("IOError", tarn.poolget, file)
    os.remove(path)
    write_file(path, good)
    if is_root() then -- root reads everything, a nobody does not
      os.execute("chmod 600 " .. path .. " && chmod 755 " .. dir)
      local out = process.run({ "/usr/bin/setpriv", "--reuid=65534", "--clear-groups", process.tarn_path, "-e",
        ("local ok, e = pcall(tarn.load, '%s') print(ok, e.kind, e.path)"):format(path) }, { cwd = "/" })
      if out.code == 0 then assert.equal("false\tIOError\t" .. path .. "\n", out.out) end
    end
  end)

  it("truncated while it is mapped ends the process that reads it, with a message that names the file", function()
    local driver = process.run_script(([[
      local value = tarn.load("%s")
      local f = io.open("%s", "r+")
      f:close()
      os.execute("truncate -s 5000 %s")
      print(value[4][200000])
    ]]):format(path, path, path))
    assert.is_true(driver.code ~= 0)
    assert.equal("", driver.out)
    says(driver.err, path, "IOError")
  end)

  it("truncated while a worker has it mapped: the worker is lost, and says why", function()
    local result = process.run_script(([[
      local id = tarn.addprocs(1)[1]
      local ok, e = pcall(tarn.remotecall_fetch, id, function(path)
        local value = tarn.load(path)
        os.execute("truncate -s 5000 " .. path)
        return value[4][200000]
      end, "%s")
      print(ok, e.kind)
    ]]):format(path))
    assert.equal("false\tWorkerLost\n", result.out)
    says(result.err, path)
  end)

  it("written in place while it is mapped is never written through from here, and views cannot be written", function()
    local value = file:get()
    fails("ArgumentError", function() value[4][1] = 5 end)
    assert.is_false(pcall(function() value[4]:ptr()[0] = 5 end))
    local copy = value[4]:copy()
    copy[1] = 5
    assert.equal(good, read_file(path))
  end)
end)

describe("a disk that", function()
  local function mounted(options, fn)
    local dir = process.tmpdir()
    if not is_root() or os.execute(("mount -t tmpfs -o %s none %s 2>/dev/null"):format(options, dir)) ~= 0 then
      return pending("needs to mount a tmpfs")
    end
    local ok, e = pcall(fn, dir)
    collectgarbage()
    os.execute("umount -l " .. dir)
    if not ok then error(e, 0) end
  end

  it("is full is DiskFull with the path and the figures; nothing is left of the file, all else is still there", function()
    mounted("size=1m", function(dir)
      local ref = tarn.poolset(numbers(200000))
      for _, call in ipairs { tarn.movetodisk, tarn.copytodisk, tarn.savetodisk } do
        local e = fails("DiskFull", call, ref, dir .. "/x")
        assert.equal(dir .. "/x", e.path)
        assert.is_true(e.needed > 0)
      end
      assert.same({}, entries(dir))
      assert.equal(200000, tarn.poolget(ref)[200000])
      local small = tarn.poolset({ 1 })
      local file = tarn.savetodisk(small, dir .. "/x")
      fails("DiskFull", tarn.savetodisk, ref, dir .. "/x")
      assert.same({ 1 }, file:get())
      file:delete()
    end)
  end)

  it("is read-only is an IOError with the path, and files on it can be read", function()
    mounted("size=4m", function(dir)
      local ref = tarn.poolset(numbers(10000))
      local file = tarn.savetodisk(ref, dir .. "/x")
      os.execute("mount -o remount,ro " .. dir)
      for _, call in ipairs { tarn.movetodisk, tarn.copytodisk } do
        assert.equal(dir .. "/y", fails("IOError", call, ref, dir .. "/y").path)
      end
      assert.equal(dir .. "/x", fails("IOError", tarn.savetodisk, ref, dir .. "/x").path)
      assert.equal(dir .. "/x", fails("IOError", tarn.deletefromdisk, ref, dir .. "/x").path)
      assert.equal(9999, file:get()[9999])
      file:delete()
    end)
  end)

  it("allows only small files (RLIMIT_FSIZE) is DiskFull, not the end of the process", function()
    local dir = process.tmpdir()
    local script = write_file(dir .. "/driver.lua", [[
      local ref = tarn.poolset(("x"):rep(30000000))
      local ok, e = pcall(tarn.savetodisk, ref, "x")
      print(ok, e.kind, e.path, #tarn.poolget(ref))
    ]])
    local result = process.run({ "/bin/sh", "-c", "ulimit -f 40000; exec \"$0\" \"$1\"", process.tarn_path, script }, { cwd = dir })
    assert.equal(("false\tDiskFull\t%s/x\t30000000\n"):format(dir), result.out, result.err)
    assert.same({ "driver.lua" }, entries(dir))
  end)
end)
