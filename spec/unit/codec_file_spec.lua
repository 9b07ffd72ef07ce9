local core = require "tarn.core"
local array = require "tarn.array"
local strings = require "tarn.strings"
local fails = require "spec.helper.fails"

describe("codec: files", function()
  local directory

  before_each(function()
    directory = os.tmpname()
    os.remove(directory)
    assert(os.execute("mkdir " .. directory))
  end)
  after_each(function() os.execute("rm -rf " .. directory) end)

  local function entries()
    local list = io.popen("ls -A " .. directory)
    local text = list:read("*a")
    list:close()
    return text
  end

  it("bring values back", function()
    local path = directory .. "/x"
    core.save(path, { 1, "two", { three = 3 } })
    assert.are.same({ 1, "two", { three = 3 } }, core.load(path))
    local a = array("double", 100000)
    for i = 1, #a do a[i] = i end
    core.save(path, { a, strings { "a", nil, "c" }, a:slice(10, 20) })
    local back_again = core.load(path)
    assert.are.equal(100000, #back_again[1])
    assert.are.equal(54321, back_again[1][54321])
    assert.are.equal("c", back_again[2][3])
    assert.are.equal(10, back_again[3][1])
    assert.are.equal("x\n", entries())
  end)

  it("are left as they were when what is to be saved cannot be", function()
    local path = directory .. "/x"
    core.save(path, "old")
    fails("NotSerializable", core.save, path, coroutine.create(print))
    assert.are.equal("old", core.load(path))
    assert.are.equal("x\n", entries())
  end)

  it("name themselves in errors", function()
    local e = fails("IOError", core.load, directory .. "/absent")
    assert.are.equal(directory .. "/absent", e.path)
    fails("IOError", core.save, directory .. "/no/such/folder", 1)
    fails("IOError", core.load, directory)
    fails("ArgumentError", core.save, nil, 1)
    fails("ArgumentError", core.load, "a\0b")
  end)

  it("that were changed or cut are Corrupt", function()
    local path = directory .. "/x"
    core.save(path, { array("double", 20), { "text", 5 } })
    local file = assert(io.open(path, "rb"))
    local good = file:read("*a")
    file:close()
    local function check(text)
      local out = assert(io.open(path, "wb"))
      out:write(text)
      out:close()
      assert.are.equal(path, fails("Corrupt", core.load, path).path)
    end
    check("")
    check("hello")
    for at = 1, #good, 3 do
      if good:byte(at) ~= 0 then check(good:sub(1, at - 1) .. string.char((good:byte(at) + 1) % 256) .. good:sub(at + 1)) end
      check(good:sub(1, at))
    end
  end)

  it("hold functions only for who says so", function()
    local path = directory .. "/x"
    core.save(path, function() return 7 end)
    fails("Corrupt", core.load, path)
    assert.are.equal(7, core.load(path, { code = true })())
  end)
end)
