local core = require "tarn.core"
local errors = require "tarn.errors"

describe("errors", function()
  it("have a kind, a message and what else is given", function()
    local e = errors.new("KeyError", "no such object", { pid = 3, path = "x" })
    assert.are.same({ "KeyError", "no such object", 3, "x" }, { e.kind, e.message, e.pid, e.path })
  end)

  it("are told from other tables, by kind if asked", function()
    local e = errors.new("Timeout", "late")
    assert.is_true(errors.iserror(e))
    assert.is_true(errors.iserror(e, "Timeout"))
    assert.is_false(errors.iserror(e, "KeyError"))
    assert.is_false(errors.iserror({ kind = "Timeout", message = "late" }))
    assert.is_false(errors.iserror("Timeout"))
    assert.is_false(errors.iserror(nil))
  end)

  it("print kind and message first, then process, traceback and cause", function()
    local e = errors.new("RemoteError", "job.lua:3: boom", {
      pid = 2, traceback = "stack traceback:\n\tjob.lua:3: in function 'f'", cause = errors.new("KeyError", "gone"),
    })
    local text = tostring(e)
    assert.are.equal("RemoteError: job.lua:3: boom (on process 2)", text:match("^[^\n]*"))
    assert.is_truthy(text:find("process 2, stack traceback:\n\tjob.lua:3", 1, true))
    assert.is_truthy(text:find("caused by KeyError: gone", 1, true))
  end)

  it("print whatever they are made of", function()
    local broken = setmetatable({}, { __tostring = function() error("no") end })
    assert.is_truthy(tostring(errors.new("IOError", broken, { cause = broken, traceback = broken })):find("tostring fails", 1, true))
    assert.is_truthy(tostring(errors.new("IOError", nil)):find("no message", 1, true))
    local loop = errors.new("IOError", "x")
    loop.cause = loop
    assert.are.equal("IOError: x", tostring(loop))
  end)

  it("raised here name the line of the caller, not one of tarn's", function()
    local ok, e = pcall(errors.raise, "ArgumentError", "wrong")
    assert.is_false(ok)
    assert.is_true(errors.iserror(e, "ArgumentError"))
    local line = debug.getinfo(1, "l").currentline + 1
    ok, e = pcall(function() local x = core.decode({}) return x end)
    assert.is_false(ok)
    assert.are.equal("ArgumentError", e.kind)
    assert.is_truthy(e.message:find("errors_spec.lua:" .. line .. ": ", 1, true), e.message)
  end)

  it("travel as what they are", function()
    local e = core.decode(core.encode(errors.new("PoolFull", "no room", { needed = 10, available = 3, cause = { 1 } })))
    assert.is_true(errors.iserror(e, "PoolFull"))
    assert.are.same({ 10, 3, 1 }, { e.needed, e.available, e.cause[1] })
  end)

  it("concatenate with strings", function()
    assert.are.equal("got IOError: x!", "got " .. errors.new("IOError", "x") .. "!")
  end)
end)
