-- Saved files that are damaged in every way, and processes that are killed while they save.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local function entries(dir)
  local list = {}
  for name in lfs.dir(dir) do
    if name ~= "." and name ~= ".." then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

-- Values of several kinds, small; each with what tells whether two of them are the same.
local KINDS = [[
  local function doubles(n)
    local a = tarn.array("double", n)
    for i = 1, n do a[i] = i / 3 end
    return a
  end
  local function flat(a)
    local parts = {}
    for i = 1, #a do parts[i] = tostring(a[i]) end
    return #a .. ":" .. table.concat(parts, ",")
  end
  local KINDS = {
    { "a plain table", { 1, -129, "text", { deep = { true, false } }, 3.5, x = 9007199254740993LL },
      function(t) return type(t) == "table" and table.concat({ tostring(t[1]), tostring(t[2]), tostring(t[3]),
        tostring(type(t[4]) == "table" and type(t[4].deep) == "table" and t[4].deep[1]), tostring(t[5]), tostring(t.x) }, " ") end },
    { "a string", ("bytes\0\255"):rep(9), tostring },
    { "an array", doubles(40), flat },
    { "an array of structs", tarn.array("struct { int32_t a; float b; }", 7), function(a) return #a .. " " .. a[1].a .. " " .. a[7].b end },
    { "strings", tarn.strings { "one", "", "three", n = 4 }, flat },
    { "a table of all", { a = doubles(10), s = tarn.strings { "x", "yy" }, n = 5 },
      function(t) return flat(t.a) .. flat(t.s) .. t.n end },
  }
]]

describe("a small saved file", function()
  it("with any one byte changed, or cut anywhere, is an error or the same value, however it is read", function()
    local dir = process.tmpdir()
    local result = process.run_script(KINDS .. ([[
      local path = "%s/x"
      local function put(bytes)
        local f = io.open(path, "wb")
        f:write(bytes)
        f:close()
      end
      local tried, refused = 0, 0
      local function attempt(name, where, bytes, same, expected)
        put(bytes)
        local file = tarn.decode(ref_bytes)
        local ways = { tarn.load, function(p) return tarn.load(p, { verify = true }) end, function() return tarn.poolget(file) end }
        for _, read in ipairs(ways) do
          tried = tried + 1
          local ok, v = pcall(read, path)
          if ok then
            local good, text = pcall(same, v)
            assert(good and text == expected, name .. ": a wrong value: " .. where)
          else
            refused = refused + 1
            assert(tarn.iserror(v, "Corrupt") or tarn.iserror(v, "IOError"), where .. ": " .. tostring(v))
            assert(v.path == path, name .. ", " .. where .. ": no path: " .. tostring(v))
          end
        end
      end
      for _, kind in ipairs(KINDS) do
        local name, value, same = kind[1], kind[2], kind[3]
        local expected = same(value)
        tarn.save(path, value)
        ref_bytes = tarn.encode(tarn.savetodisk(tarn.poolset(value), path))
        local f = io.open(path, "rb")
        local good = f:read("*a")
        f:close()
        for at = 1, #good do
          local b = good:byte(at)
          for _, c in ipairs { (b + 1) %% 256, 255 - b, b == 0 and 128 or 0 } do
            attempt(name, "byte " .. at - 1 .. " of " .. #good, good:sub(1, at - 1) .. string.char(c) .. good:sub(at + 1), same, expected)
          end
        end
        for size = 0, #good - 1 do attempt(name, "cut to " .. size, good:sub(1, size), same, expected) end
        attempt(name, "one byte more", good .. "\0", same, expected)
        put(good)
        assert(same(tarn.load(path)) == expected)
      end
      print(tried > 10000, refused > tried * 0.8)
    ]]):format(dir), { timeout_s = 120 })
    assert.equal("true\ttrue\n", result.out, result.err)
    assert.equal(0, result.code)
  end)
end)

describe("a saved file that is mapped", function()
  local SAVE = [[
    local a = tarn.array("double", 200000)
    for i = 1, #a do a[i] = i end
    local path = "%s/x"
    local ref = tarn.poolset(a)
    local file = tarn.movetodisk(ref, path)
    a = nil
    collectgarbage()
    tarn.sleep(0)
  ]]

  it("may be removed or replaced: views stay, the DRef says IOError, the FileRef reads the new one #signals", function()
    local result = process.run_script((SAVE .. [[
      local e
      local function look()
        local view = tarn.poolget(ref)
        os.remove(path)
        assert(view[200000] == 200000 and view[1] == 1)
        e = select(2, pcall(tarn.poolget, file))
        assert(tarn.iserror(e, "IOError") and e.path == path, tostring(e))
        tarn.save(path, { "other" })
        assert(tarn.poolget(file)[1] == "other")
        assert(view[100000] == 100000)
      end
      tarn.fetch(tarn.async(look)) -- in a task of its own, whose stack is then used for something else
      tarn.fetch(tarn.async(function() return select("#", unpack({}, 1, 200)) end))
      collectgarbage()
      collectgarbage()
      tarn.sleep(0)
      e = select(2, pcall(tarn.poolget, ref))
      assert(tarn.iserror(e, "IOError") and e.path == path, tostring(e))
      tarn.pooldelete(ref)
      assert(tarn.load(path)[1] == "other")
      print("good")
    ]]):format(process.tmpdir()))
    assert.equal("good\n", result.out, result.err)
  end)

  it("and cut ends who reads beyond, with a message that names the file, and no other process", function()
    local dir = process.tmpdir()
    local result = process.run_script((SAVE .. [[
      local ids = tarn.addprocs(2)
      local ok, e = pcall(tarn.remotecall_fetch, ids[1], function(f, where)
        local view = tarn.poolget(f)
        os.execute("truncate -s 8192 " .. where)
        return view[200000]
      end, file, path)
      assert(not ok and tarn.iserror(e, "WorkerLost"), tostring(e))
      e = select(2, pcall(tarn.remotecall_fetch, ids[2], function(f) return tarn.poolget(f) end, file))
      assert(tarn.iserror(e) and e.path == path, tostring(e))
      print("good")
    ]]):format(dir))
    assert.equal("good\n", result.out, result.err)
    assert.is_truthy(result.err:find("IOError: " .. dir .. "/x", 1, true), result.err)
  end)
end)

describe("processes that are killed while they save", function()
  -- Several savers write one path at once; each value tells whether it is whole.
  local SAVER = KINDS .. [[
    local path, me = arg[1], tonumber(arg[2])
    local round = 0
    local function value()
      round = round + 1
      local a = tarn.array("double", 20000 + round %% 7 * 1000)
      local stamp = me * 1e6 + round
      for i = 1, #a do a[i] = stamp end
      return { stamp = stamp, n = #a, a = a }
    end
    print("started") io.stdout:flush()
    while true do
      if round %% 2 == 0 then
        tarn.save(path, value())
      else
        local ref = tarn.poolset(value())
        tarn.savetodisk(ref, path)
        tarn.pooldelete(ref)
      end
    end
  ]]

  it("leave the old file or a new one, whole, and at most a whole one beside; no memory, no spill file", function()
    local dir = process.tmpdir()
    local path = dir .. "/x"
    local script = process.write_file(dir .. "/saver.lua", (SAVER:gsub("%%%%", "%%")))
    local rounds, seen = 12, {}
    math.randomseed(os.time())
    for round = 1, rounds do
      local savers = {}
      for k = 1, 3 do savers[k] = process.start_tarn({ "-m", "16MB", script, path, tostring(round * 10 + k) }, { cwd = dir }) end
      for _, s in ipairs(savers) do assert.equal("started", s:line(30)) end
      posix.poll({}, posix.now() + math.random() * 0.1)
      while not lfs.attributes(path) do posix.poll({}, posix.now() + 0.005) end
      for _, s in ipairs(savers) do s:kill() end
      for _, s in ipairs(savers) do s:destroy() end
      local v = tarn.load(path, { verify = true })
      assert.equal(v.n, #v.a)
      for i = 1, #v.a do assert(v.a[i] == v.stamp, "a file of two halves") end
      seen[v.stamp] = true
      v = nil -- luacheck: ignore
      for _, name in ipairs(entries(dir)) do
        if name:match("^x%.") then -- killed between link and rename: whole as well
          local beside = tarn.load(dir .. "/" .. name, { verify = true })
          assert.equal(beside.n, #beside.a)
          os.remove(dir .. "/" .. name)
        else
          assert.is_truthy(name == "x" or name == "saver.lua" or name == ".tarn", name)
        end
      end
      collectgarbage()
    end
    assert.is_true(next(seen) ~= nil)
    assert.same({}, lfs.attributes(dir .. "/.tarn") and entries(dir .. "/.tarn") or {})
  end)
end)
