-- Modules as Debian and LuaRocks have them, written in Lua and in C, at work in jobs on other processes; and luv, which tarn brings along.
local with = require("spec.helper.cluster").with

describe("lpeg in jobs", function()
  it("matches and captures, by a grammar that is made there", function()
    with(2, function(ids)
      local function sum(text)
        local lpeg = require "lpeg"
        local space, number = lpeg.S " \n" ^ 0, lpeg.R "09" ^ 1 / tonumber
        local V = lpeg.V
        local function fold(first, ...)
          local value, rest = first, { ... }
          for i = 1, #rest, 2 do value = rest[i] == "+" and value + rest[i + 1] or value - rest[i + 1] end
          return value
        end
        local grammar = lpeg.P { "sum", sum = V "term" * (lpeg.C(lpeg.S "+-") * space * V "term") ^ 0 / fold,
          term = (number + "(" * space * V "sum" * ")" * space) * space }
        return lpeg.match(space * grammar * -1, text)
      end
      assert.equal(18, tarn.remotecall_fetch(ids[1], sum, "1 + (20 - 3)"))
      assert.same({ 3, -1, 6, n = 3 }, tarn.pmap(sum, { "1+2", "1-2", "1+2+3" }))
      assert.is_nil(tarn.remotecall_fetch(ids[2], sum, "1 +"))
    end)
  end)

  it("travels by name: the driver's module is the job's; a pattern does not travel, and the error says which", function()
    local lpeg = require "lpeg"
    with(1, function(ids)
      assert.equal("ab", tarn.remotecall_fetch(ids[1], function(text) return lpeg.match(lpeg.C(lpeg.R "az" ^ 1), text) end, "ab1"))
      local pattern = lpeg.P "a"
      local ok, e = pcall(tarn.remotecall_fetch, ids[1], function(text) return pattern:match(text) end, "a")
      assert.is_false(ok)
      assert.equal("NotSerializable", e.kind)
      assert.truthy(e.message:find("pattern", 1, true))
    end)
  end)
end)

describe("lua-cjson in jobs", function()
  it("reads and writes, its functions called as they are", function()
    local cjson = require "cjson"
    with(2, function(ids)
      assert.equal('[1,"two",{"x":3}]', tarn.remotecall_fetch(ids[1], cjson.encode, { 1, "two", { x = 3 } }))
      assert.same({ a = { 1, 2.5, "\195\188" } }, tarn.remotecall_fetch(ids[2], cjson.decode, '{"a":[1,2.5,"\\u00fc"]}'))
      local texts = {}
      for i = 1, 100 do texts[i] = ('{"n":%d,"square":%d}'):format(i, i * i) end
      for i, record in ipairs(tarn.pmap(cjson.decode, texts)) do assert.equal(i * i, record.square) end
      local ok, e = pcall(tarn.remotecall_fetch, ids[1], cjson.decode, "{")
      assert.is_false(ok)
      assert.truthy(e.message:find("Expected object key", 1, true))
    end)
  end)

  it("knows its null in a job", function()
    with(1, function(ids)
      assert.equal("[null]", tarn.remotecall_fetch(ids[1], function()
        local cjson = require "cjson"
        local list = cjson.decode "[null]"
        return list[1] == cjson.null and cjson.encode(list)
      end))
    end)
  end)
end)

describe("penlight in jobs", function()
  it("brings its classes along: a List stays a List on the way there and back", function()
    local List, pretty = require "pl.List", require "pl.pretty"
    with(1, function(ids)
      local doubled = tarn.remotecall_fetch(ids[1], function(list) return list:map(function(x) return 2 * x end) end, List { 1, 2, 3 })
      assert.equal(List, getmetatable(doubled))
      assert.equal("{2,4,6}", tostring(doubled))
      assert.same({ 1, { x = "y" } }, tarn.remotecall_fetch(ids[1], pretty.read, "{ 1, { x = 'y' } }"))
      assert.equal("{1,{x=\"y\"}}", tarn.remotecall_fetch(ids[1], pretty.write, { 1, { x = "y" } }, ""))
    end)
  end)

  it("works on what comes from the pool", function()
    with(2, function(ids)
      local ref = tarn.poolset({ "b", "a", "c" }, ids[1])
      assert.same({ "a", "b", "c" }, tarn.remotecall_fetch(ids[2], function(r)
        local sorted = {}
        for _, v in require("pl.tablex").sortv(tarn.poolget(r)) do sorted[#sorted + 1] = v end
        return sorted
      end, ref))
    end)
  end)
end)

describe("lua-sql-sqlite3 in jobs", function()
  -- A connection does not travel: each worker opens its own, and keeps it from job to job.
  local function query(path, text)
    _G.connection = _G.connection or require("luasql.sqlite3").sqlite3():connect(path)
    local cursor = assert(_G.connection:execute(text))
    if type(cursor) ~= "userdata" then return cursor end
    local rows, row = {}, cursor:fetch({}, "a")
    while row do
      rows[#rows + 1] = { id = tonumber(row.id), name = row.name }
      row = cursor:fetch({}, "a")
    end
    cursor:close()
    return rows
  end

  it("a database that one worker writes is read by others", function()
    local path = require("spec.helper.process").tmpdir() .. "/x.db"
    with(3, function(ids)
      tarn.remotecall_fetch(ids[1], query, path, "create table people (id integer primary key, name text)")
      for id, name in ipairs { "Ada", "Grace", "Alan" } do
        assert.equal(1, tarn.remotecall_fetch(ids[1], query, path, ("insert into people values (%d, '%s')"):format(id, name)))
      end
      for i = 2, 3 do
        assert.same({ { id = 1, name = "Ada" }, { id = 3, name = "Alan" } },
          tarn.remotecall_fetch(ids[i], query, path, "select * from people where name like 'A%' order by id"))
      end
      local ok, e = pcall(tarn.remotecall_fetch, ids[2], query, path, "select nonsense")
      assert.is_false(ok)
      assert.truthy(e.message:find("no such column", 1, true))
    end)
  end)
end)

describe("luv in jobs", function()
  it("has its timers fire while the job waits, and the worker goes on answering", function()
    with(1, function(ids)
      local job = tarn.remotecall(ids[1], function()
        local uv, done, ticks = require "luv", tarn.event(), 0
        local timer = uv.new_timer()
        timer:start(0, 1, function()
          ticks = ticks + 1
          if _G.enough and ticks >= 10 and not timer:is_closing() then
            timer:close()
            done:notify()
          end
        end)
        done:wait()
        return ticks
      end)
      for i = 1, 20 do assert.equal(i, tarn.remotecall_fetch(ids[1], function(x) return x end, i)) end
      assert.is_false(job:ready())
      tarn.remotecall_fetch(ids[1], function() _G.enough = true end)
      assert.is_true(job:fetch(10) >= 10)
    end)
  end)

  it("serves TCP from a job that has returned, on the loop that the worker runs by", function()
    with(2, function(ids)
      local port = tarn.remotecall_fetch(ids[1], function()
        local uv = require "luv"
        _G.server = uv.new_tcp()
        _G.server:bind("127.0.0.1", 0)
        _G.server:listen(8, function()
          local client = uv.new_tcp()
          _G.server:accept(client)
          client:read_start(function(_, bytes)
            if bytes then client:write(bytes) else client:close() end
          end)
        end)
        return _G.server:getsockname().port
      end)
      local function echo(text)
        local uv, done, got = require "luv", tarn.event(), {}
        local socket = uv.new_tcp()
        socket:connect("127.0.0.1", port, function(err)
          assert(not err, err)
          socket:read_start(function(_, bytes)
            got[#got + 1] = bytes
            if #table.concat(got) == #text then done:notify() end
          end)
          socket:write(text)
        end)
        done:wait(10)
        socket:close()
        return table.concat(got) == text
      end
      -- From another worker, a large one; and from the serving process itself, which so waits in a job and serves at once.
      local jobs = { tarn.remotecall(ids[2], echo, ("echo "):rep(2e5)), tarn.remotecall(ids[1], echo, "here") }
      for i = 1, 20 do assert.equal(i, tarn.remotecall_fetch(ids[1], function(x) return x end, i)) end
      for _, job in ipairs(jobs) do assert.is_true(job:fetch(10)) end
      tarn.remotecall_fetch(ids[1], function() _G.server:close() end)
    end)
  end)
end)
