-- Serializers between real processes: plugged in while the cluster runs, replaced while objects of the old version are about, refused when
-- they are wrong.
local cluster = require "spec.helper.cluster"
local process = require "spec.helper.process"

local fails, says = cluster.fails, cluster.says

-- A class with a constructor, as users write them.
local function class()
  local Class = setmetatable({}, { __call = function(self, x) return setmetatable({ x = x }, self) end })
  Class.__index = Class
  return Class
end

-- The text of a module that declares class `name` with its serializer, and returns its constructor. read: an expression in mmread.
local function module_text(name, version, read)
  return ([[
    local Class = package.loaded["NAME_class"] or {}
    package.loaded["NAME_class"] = Class
    Class.__index = Class
    tarn.serializer { name = "NAME", version = VERSION, type = Class,
      mmwrite = function(out, v) out:value(v.x) end,
      mmread = function(inp) return setmetatable({ x = READ, read_by = "VERSION" .. "READ", version = inp.version }, Class) end }
    return function(x) return setmetatable({ x = x }, Class) end
  ]]):gsub("NAME", name):gsub("VERSION", version):gsub("READ", read or "inp:value()")
end

-- A module on the path of this process only, or of the one that calls it.
local function put_module(directory, name, text)
  process.write_file(("%s/%s.lua"):format(directory, name), text)
end

local function load_module(directory, name)
  local path = package.path
  package.path = directory .. "/?.lua;" .. path
  package.loaded[name] = nil
  local ok, made = pcall(require, name)
  package.path = path
  if not ok then error(made, 0) end
  return made
end

describe("a serializer", function()
  it("of a script's own is plugged into running workers, and its class with it", function()
    cluster.with(2, function(ids)
      local P = class()
      function P:doubled() return P(self.x * 2) end
      tarn.serializer { name = "spec.script", version = 1, type = P, approx_size = function() return 16 end,
        mmwrite = function(out, p) out:value(p.x) end,
        mmread = function(inp) return P(inp:value()) end }
      local q = tarn.remotecall_fetch(ids[1], function(p) return p:doubled() end, P(4))
      assert.equal(8, q.x)
      assert.is_true(getmetatable(q) == P)
      -- From one worker to another, by way of a stored object and by a call between them.
      local ref = tarn.remotecall_fetch(ids[1], function() return tarn.poolset(P(7)) end)
      assert.equal(7, tarn.remotecall_fetch(ids[2], function(r) return tarn.poolget(r).x end, ref))
      local third = tarn.remotecall_fetch(ids[1], function(id, p)
        return tarn.remotecall_fetch(id, function(a) return a:doubled() end, p)
      end, ids[2], P(5))
      assert.equal(10, third.x)
    end)
  end)

  it("is shown in examples/serializer.lua", function()
    local run = process.run_tarn({ process.root .. "/examples/serializer.lua" })
    assert.equal(0, run.code, run.err)
    assert.equal([[
the square of process 2 has an area of 9, says process 3
a new one is red
the old one is grey
]], run.out)
  end)

  it("in a module is loaded from the process that has it, by its text, also while that computes", function()
    local directory = process.tmpdir()
    put_module(directory, "spec_shape", module_text("spec_shape", 1))
    cluster.with(2, function(ids)
      local path = directory .. "/spec_shape.lua"
      local ref = tarn.remotecall_fetch(ids[1], function(load, from)
        return tarn.poolset(load(from, "spec_shape")(3))
      end, load_module, directory)
      os.remove(path) -- there is nothing to be found on any path
      tarn.remote_do(ids[1], function()
        local stop = os.clock() + 1
        while os.clock() < stop do end
      end)
      assert.equal(3, tarn.remotecall_fetch(ids[2], function(r) return r:get().x end, ref))
      local here = ref:get()
      assert.equal(3, here.x)
      assert.equal("@" .. path, debug.getinfo(package.loaded["spec_shape"], "S").source)
    end)
  end)

  it("is got from each other by two processes that wait for one another", function()
    cluster.with(2, function(ids)
      local mine = class()
      tarn.serializer { name = "spec.mine", version = 1, type = mine,
        mmwrite = function(out, p) out:value(p.x) end, mmread = function(inp) return mine(inp:value()) end }
      local futures = {}
      for i = 1, 20 do
        futures[i] = tarn.remotecall(ids[i % 2 + 1], function(arg, n)
          local Theirs = setmetatable({}, {})
          local name = "spec.theirs" .. tarn.myid() .. "." .. n
          tarn.serializer { name = name, version = 1, type = Theirs,
            mmwrite = function(out, p) out:value(p.x) end,
            mmread = function(inp) return setmetatable({ x = inp:value() }, Theirs) end }
          return setmetatable({ x = arg.x + n }, Theirs)
        end, mine(100), i)
      end
      for i = 1, 20 do assert.equal(100 + i, futures[i]:fetch(20).x) end
    end)
  end)

  it("that is replaced is used by others from the next bytes on, and what was written before is read by it", function()
    local directory = process.tmpdir()
    put_module(directory, "spec_upgrade", module_text("spec_upgrade", 1))
    local make = load_module(directory, "spec_upgrade")
    cluster.with(2, function(ids)
      local here, there = tarn.poolset(make(1)), tarn.poolset(make(2), ids[1])
      local file = directory .. "/old.tarn"
      tarn.save(file, make(3))
      local function look(p) return p.read_by, p.version, p.x end
      local function look_at(r) return look(r:get()) end
      assert.same({ "1inp:value()", 1, 5 }, { tarn.remotecall_fetch(ids[1], look, make(5)) })

      -- The same version with other content, as while it is being written.
      put_module(directory, "spec_upgrade", module_text("spec_upgrade", 1, "inp:value() * 10"))
      make = load_module(directory, "spec_upgrade")
      assert.same({ "1inp:value() * 10", 1, 50 }, { tarn.remotecall_fetch(ids[1], look, make(5)) })
      assert.same({ "1inp:value() * 10", 1, 20 }, { tarn.remotecall_fetch(ids[1], look_at, there) })
      -- Process 3 has never seen the new one; what it has written by the old one does not bring that back.
      local from_old = tarn.remotecall_fetch(ids[2], function(load, text)
        local name = os.tmpname()
        local out = io.open(name, "w")
        out:write(text)
        out:close()
        os.execute(("mkdir %s.d && mv %s %s.d/spec_upgrade.lua"):format(name, name, name))
        local made = load(name .. ".d", "spec_upgrade")(7)
        os.execute(("rm -r %s.d"):format(name))
        return made
      end, load_module, module_text("spec_upgrade", 1))
      assert.equal("1inp:value() * 10", (look(from_old)))

      -- A version 2, while objects of version 1 are in pools, on disk, and in a file.
      tarn.movetodisk(here)
      put_module(directory, "spec_upgrade", module_text("spec_upgrade", 2))
      make = load_module(directory, "spec_upgrade")
      assert.same({ "2inp:value()", 2, 5 }, { tarn.remotecall_fetch(ids[1], look, make(5)) })
      assert.same({ "2inp:value()", 1, 1 }, { tarn.remotecall_fetch(ids[1], look_at, here) })
      assert.same({ "2inp:value()", 1, 2 }, { look_at(there) })
      assert.same({ "2inp:value()", 1, 3 }, { look(tarn.load(file)) })
      -- Process 3 has version 1 still: what version 2 wrote makes it load that.
      assert.same({ "2inp:value()", 2, 9 }, { tarn.remotecall_fetch(ids[2], look, make(9)) })
    end)
  end)

  it("for a new class leaves the objects of the old class what they were", function()
    local Old, New = class(), class()
    local function register(Class, version)
      tarn.serializer { name = "spec.class", version = version, type = Class,
        mmwrite = function(out, p) out:value(p.x) end,
        mmread = function(inp) return setmetatable({ x = inp:value(), version = inp.version }, Class) end }
    end
    register(Old, 1)
    local object = Old(1)
    local ref = tarn.poolset { object }
    register(New, 2)
    tarn.movetodisk(ref)
    object = nil -- luacheck: ignore
    ref = tarn.decode(tarn.encode(tarn.poolget(ref)))
    assert.same({ 1, 1 }, { ref[1].x, ref[1].version })
    assert.is_true(getmetatable(ref[1]) == New)
  end)

  it("that only another process has is loaded for a saved file too", function()
    local directory = process.tmpdir()
    put_module(directory, "spec_saved", module_text("spec_saved", 1))
    cluster.with(1, function(ids)
      local path = directory .. "/saved.tarn"
      tarn.remotecall_fetch(ids[1], function(load, from, to) tarn.save(to, { load(from, "spec_saved")(11) }) end,
        load_module, directory, path)
      assert.equal(11, tarn.load(path)[1].x)
    end)
  end)

  it("of a later version, in the file of another driver, is named with both versions; of an earlier one it is read", function()
    local directory = process.tmpdir()
    local function driver(version, code)
      put_module(directory, "spec_two", module_text("spec_two", version))
      local run = process.run_script("local make = require 'spec_two' " .. code, { cwd = directory })
      return run
    end
    assert.equal(0, driver(1, "tarn.save('one.tarn', make(1))").code)
    assert.equal(0, driver(2, "tarn.save('two.tarn', make(2))").code)
    assert.equal("1\t2\n", driver(2, "print(tarn.load('one.tarn').x, tarn.load('two.tarn').x)").out)
    local run = driver(1, "tarn.load('two.tarn')")
    assert.equal(1, run.code)
    says(run.err, "two.tarn", "serializer 'spec_two'", "written by version 2, here is version 1")
    os.remove(directory .. "/spec_two.lua")
    run = process.run_script("tarn.load('two.tarn')", { cwd = directory })
    says(run.err, "unknown serializer 'spec_two' (version 2)", "require the module that declares it")
  end)

  it("that cannot travel says why where it is missing", function()
    cluster.with(1, function(ids)
      local P, handle = class(), io.stdout
      tarn.serializer { name = "spec.stuck", version = 1, type = P,
        mmwrite = function(out, p) out:value(p.x) end,
        mmread = function(inp) return handle and P(inp:value()) end }
      local e = fails("NotSerializable", tarn.remotecall_fetch, ids[1], function() end, P(1))
      says(e, "unknown serializer 'spec.stuck'", "process 1 has it, but", "upvalue 'handle'")
      -- And nothing has been left behind: both go on.
      assert.equal(5, tarn.remotecall_fetch(ids[1], function() return 5 end))
    end)
  end)

  it("whose module fails to load is named, and the old one stays", function()
    local directory = process.tmpdir()
    put_module(directory, "spec_broken", module_text("spec_broken", 1))
    local make = load_module(directory, "spec_broken")
    cluster.with(1, function(ids)
      local old = tarn.encode(make(1))
      tarn.remotecall_fetch(ids[1], function() end, make(1))
      local text = module_text("spec_broken", 2)
      put_module(directory, "spec_broken", "if tarn.myid() ~= 1 then error 'not here' end " .. text)
      local newer = load_module(directory, "spec_broken")
      local e = fails("NotSerializable", tarn.remotecall_fetch, ids[1], function() end, newer(1))
      says(e, "spec_broken", "not here", "here is version 1")
      assert.equal("1inp:value()", tarn.remotecall_fetch(ids[1], function(s) return tarn.decode(s).read_by end, old))
    end)
  end)

  it("that fails in any way leaves the pools as they were", function()
    local P = class()
    local function register(changes)
      local spec = { name = "spec.wrong", version = 1, type = P, mmwrite = function(out, p) out:value(p.x) end,
        mmread = function(inp) return P(inp:value()) end }
      for k, v in pairs(changes) do spec[k] = k ~= 1 and v or nil end
      tarn.serializer(spec)
    end
    local function nan() return 0 / 0 end
    local cases = {
      { "boom", approx_size = function() error "boom" end },
      { "approx_size gave -1", approx_size = function() return -1 end },
      { "approx_size gave nan", approx_size = nan },
      { "approx_size gave table", approx_size = function() return {} end },
      { "tarn.sleep", approx_size = function() tarn.sleep(1) end },
      { "bang", mmwrite = function() error "bang" end },
      { "wrote nothing", mmwrite = function() end },
      { "tarn.sleep", mmwrite = function() tarn.sleep(1) end },
      { "10 bytes of something that has 3", mmwrite = function(out) out:block("abc", 10) end },
      { "a size in bytes", mmwrite = function(out) out:block("abc", -1) end },
      { "a size in bytes", mmwrite = function(out) out:block(require("ffi").cast("int *", 0)) end },
    }
    local before = tarn.poolstats()
    for _, case in ipairs(cases) do
      register(case)
      says(fails("NotSerializable", tarn.poolset, { P(1) }), "'spec.wrong'", case[1])
    end
    collectgarbage()
    local after = tarn.poolstats()
    for _, figure in ipairs { "objects", "live_bytes", "inflight_bytes" } do assert.equal(before[figure], after[figure], figure) end
    cases = {
      { "past the last value", mmread = function(inp) return { inp:value(), inp:value() } end },
      { "a block was to be read where there is none", mmread = function(inp) return { (inp:block()) } end },
      { "returned nothing", mmread = function() end },
      { "tarn.sleep", mmread = function() tarn.sleep(1) end },
      { "not of whole elements", mmwrite = function(out) out:block("123456789") end,
        mmread = function(inp) return { inp:block("double") } end },
    }
    for _, case in ipairs(cases) do
      register(case)
      local _, e = pcall(tarn.decode, tarn.encode { P(1) })
      says(e, "'spec.wrong'", case[1])
    end
  end)
end)
