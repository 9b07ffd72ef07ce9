-- A foreign client: any MessagePack-RPC library can call a process. To need nothing more than the other specs do, the client here
-- builds its requests by hand, in the plain forms that the specification gives.
local lfs = require "lfs"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"

local function start_driver(source)
  local driver = process.start_script((source or "") .. [[

    print(tarn.address())
    print(tarn.secret_file())
    local ref = tarn.poolset({ 1, 2, { x = "y" } })
    print(ref:key())
    io.stdout:flush()
  ]] .. process.SERVE .. "()")
  local address, secret_file, key = driver:line(), driver:line(), driver:line()
  local file = assert(io.open(secret_file))
  local secret = file:read("*l")
  file:close()
  return driver, address, secret, key, secret_file
end

-- One request; the answer's error and result.
local function ask(fd, msgid, method, ...)
  posix.write(fd, tarn.encode({ 0, msgid, method, { ... } }))
  local bytes, deadline = "", posix.now() + 5 * process.patience
  while posix.poll({ fd }, deadline)[fd] do
    local more = posix.read(fd)
    assert(more and more ~= "", "the connection was closed")
    bytes = bytes .. more
    local ok, answer = pcall(tarn.decode, bytes)
    if ok then
      assert.equal(1, answer[1])
      assert.equal(msgid, answer[2])
      return answer[3], answer[4]
    end
  end
  error("no answer to " .. method)
end

describe("a foreign client", function()
  it("proves itself by the secret, then stores, reads, deletes, calls and evaluates", function()
    local driver, address, secret, key = start_driver()
    local fd = posix.connect(address)
    assert.same({ nil, true }, { ask(fd, 1, "auth.secret", secret) })
    assert.same({ nil, true }, { ask(fd, 2, "ping") })
    assert.same({ nil, { 1, 2, { x = "y" } } }, { ask(fd, 3, "pool.get", key) })
    local err, mine = ask(fd, 4, "pool.set", { name = "a", list = { 1, -129, 2.5, "s" } })
    assert.is_nil(err)
    assert.equal("string", type(mine))
    assert.same({ nil, { name = "a", list = { 1, -129, 2.5, "s" } } }, { ask(fd, 5, "pool.get", mine) })
    assert.same({ nil, true }, { ask(fd, 6, "pool.delete", mine) })
    err = ask(fd, 7, "pool.get", mine)
    assert.equal("KeyError", err.kind)
    local _, stats = ask(fd, 8, "pool.stats")
    assert.equal(1, stats.objects)
    assert.same({ nil, "ababab" }, { ask(fd, 9, "call", "string.rep", { "ab", 3 }) })
    assert.same({ nil, 5 }, { ask(fd, 10, "eval", "local a, b = ... return a + b", { 2, 3 }) })
    err = ask(fd, 11, "eval", "error('boo')")
    assert.equal("RemoteError", err.kind)
    assert.truthy(err.message:find("boo", 1, true))
    err = ask(fd, 12, "no.such.method")
    assert.truthy(err.message:find("no.such.method", 1, true))
    err = ask(fd, 13, "stop")
    assert.truthy(err, "a foreign client must not stop a process")
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)

  it("gets plain values: errors and results have nothing in them that only tarn knows", function()
    local driver, address, secret = start_driver()
    local fd = posix.connect(address)
    ask(fd, 1, "auth.secret", secret)
    local err = ask(fd, 2, "eval", "error({ code = 5 })")
    assert.is_false(tarn.iserror(err))
    assert.equal("RemoteError", err.kind)
    assert.same({ code = 5 }, err.cause)
    err = ask(fd, 3, "eval", "error(setmetatable({}, require('tarn.errors').metatable))")
    assert.is_false(tarn.iserror(err))
    err = ask(fd, 4, "call", "tarn.poolget", { 5 })
    assert.is_false(tarn.iserror(err))
    assert.equal("ArgumentError", err.kind)
    local _, result = ask(fd, 5, "eval", "local t = { 5LL, 2LL^60 } return { t, t, { [t] = { t } } }")
    assert.equal("number", type(result[1][1]))
    assert.equal(2LL ^ 60, result[1][2])
    assert.is_false(rawequal(result[1], result[2]))
    err = ask(fd, 6, "eval", "local t = {} t.t = t return t")
    assert.equal("NotSerializable", err.kind)
    -- References are keys, wherever they stand, and are the client's to use.
    _, result = ask(fd, 7, "eval", "return { a = tarn.poolset 'a', b = { tarn.poolset 'b' } }")
    ask(fd, 8, "eval", "collectgarbage() collectgarbage()")
    assert.same({ nil, "a" }, { ask(fd, 9, "pool.get", result.a) })
    assert.same({ nil, "b" }, { ask(fd, 10, "pool.get", result.b[1]) })
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)

  it("gets errors as texts when it asks for them so", function()
    local driver, address, secret = start_driver()
    local fd = posix.connect(address)
    ask(fd, 1, "auth.secret", secret)
    assert.same({ nil, true }, { ask(fd, 2, "client.errors", "text") })
    assert.equal("KeyError: ", ask(fd, 3, "pool.get", "1:99"):sub(1, 10))
    assert.equal("RemoteError: eval:1: boo", ask(fd, 4, "eval", "error('boo')"))
    assert.equal("ProtocolError: no method 'x'", ask(fd, 5, "x"))
    assert.truthy(ask(fd, 6, "client.errors", 7):find("client.errors", 1, true))
    ask(fd, 7, "client.errors", "map")
    assert.equal("KeyError", ask(fd, 8, "pool.get", "1:99").kind)
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)

  it("reaches objects of other processes, and those that must be made anew", function()
    local driver, address, secret = start_driver [[
      tarn.addprocs(2)
      made = 0
      local function again()
        tarn.remotecall_fetch(1, function() made = made + 1 end)
        return { "again" }
      end
      refs = {
        far = tarn.poolset({ "far" }, 2),
        moved = tarn.poolset { "moved" },
        dropped = tarn.poolset({ "first" }, nil, { remake = again, destroyonevict = true, size = "4KB" }),
        lost = tarn.poolset({ "first" }, 3, { remake = again }),
      }
      tarn.migrate(refs.moved, 2)
    ]]
    local fd = posix.connect(address)
    ask(fd, 1, "auth.secret", secret)
    local _, keys = ask(fd, 2, "eval", "return refs")
    assert.same({ nil, { "far" } }, { ask(fd, 3, "pool.get", keys.far) })
    assert.same({ nil, { "moved" } }, { ask(fd, 4, "pool.get", keys.moved) })
    ask(fd, 5, "eval", [[
      local memory, before = tarn.max_memsize(), tarn.poolstats().objects
      tarn.max_memsize(1000)
      while tarn.poolstats().objects == before do tarn.sleep(0.005) end
      tarn.max_memsize(memory)
    ]])
    ask(fd, 6, "eval", "tarn.rmprocs(3)")
    assert.same({ nil, { "again" } }, { ask(fd, 7, "pool.get", keys.dropped) })
    assert.same({ nil, { "again" } }, { ask(fd, 8, "pool.get", keys.lost) })
    assert.same({ nil, 2 }, { ask(fd, 9, "eval", "return made") })
    for _, key in pairs(keys) do
      assert.same({ nil, true }, { ask(fd, 10, "pool.delete", key) })
      assert.equal("KeyError", ask(fd, 11, "pool.get", key).kind)
    end
    posix.close(fd)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)

  it("holds what it has set, and what it has been given, until its connection closes", function()
    local driver, address, secret = start_driver()
    local fd, other = posix.connect(address), posix.connect(address)
    for _, c in ipairs { fd, other } do ask(c, 1, "auth.secret", secret) end
    local function objects()
      ask(other, 2, "eval", "collectgarbage() collectgarbage()")
      local _, stats = ask(other, 3, "pool.stats")
      return stats.objects
    end
    local _, set = ask(fd, 2, "pool.set", { 1 })
    local _, given = ask(fd, 3, "eval", "return tarn.poolset({ 2 })")
    assert.equal("string", type(given))
    assert.equal(3, objects()) -- and the driver's own
    assert.same({ nil, { 1 } }, { ask(other, 4, "pool.get", set) })
    assert.same({ nil, { 2 } }, { ask(other, 5, "pool.get", given) })
    for i = 1, 50 do
      local _, key = ask(fd, 10 + i, "pool.set", i)
      ask(fd, 100 + i, "pool.delete", key)
    end
    assert.equal(3, objects())
    posix.close(fd)
    local deadline = posix.now() + 5 * process.patience
    while objects() > 1 and posix.now() < deadline do end
    assert.equal(1, objects())
    posix.close(other)
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
  end)

  it("with a wrong secret gets an error and is closed; the secret file is private and goes away at the end", function()
    local driver, address, _, _, secret_file = start_driver()
    local fd = posix.connect(address)
    local err = ask(fd, 1, "auth.secret", ("0"):rep(64))
    assert.truthy(err)
    assert.is_true(posix.poll({ fd }, posix.now() + 5 * process.patience)[fd] and posix.read(fd) == "" or false)
    posix.close(fd)
    assert.equal("rw-------", lfs.attributes(secret_file, "permissions"))
    driver:close_stdin()
    assert.equal(0, driver:wait(10).code)
    assert.is_nil(io.open(secret_file))
  end)
end)
