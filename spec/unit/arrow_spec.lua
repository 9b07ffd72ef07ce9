local array = require "tarn.array"
local arrow = require "tarn.arrow"
local bits = require "tarn.bits"
local compose = require "spec.helper.arrow"
local core = require "tarn.core"
local errors = require "tarn.errors"
local ffi = require "ffi"
local nullable = require "tarn.nullable"
local pooled = require "tarn.pooled"
local process = require "spec.helper.process"
local strings = require "tarn.strings"
local tabular = require "tarn.table"

local seed = tonumber(os.getenv("TARN_SEED")) or os.time()
local fixed, texts, truths, dictionary, numbers = compose.fixed, compose.texts, compose.truths, compose.dictionary, compose.numbers

local function fails(kind, text, fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_true(errors.iserror(e, kind), tostring(e))
  assert.is_truthy(e.message:find(text, 1, true), e.message)
  return e
end

local function path_of(bytes)
  local path = process.tmpdir() .. "/x.arrow"
  process.write_file(path, bytes)
  return path
end

local function back(columns, key)
  local path = process.tmpdir() .. "/x.arrow"
  arrow.save(path, tabular { columns = columns, key = key })
  return arrow.load(path)
end

local function values(c)
  local list = { n = #c }
  for i = 1, #c do list[i] = c[i] end
  return list
end

local types = { "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t", "float", "double" }

describe("tarn.arrow", function()
  it("saves and loads every kind of column", function()
    local columns = {}
    for _, ctype in ipairs(types) do columns[#columns + 1] = { ctype, array(ctype, { 1, 0, 3, 100, 5 }) } end
    columns[#columns + 1] = { "bool", array("bool", { true, false, true, true, false }) }
    columns[#columns + 1] = { "bits", bits { true, false, true, true, false } }
    columns[#columns + 1] = { "strings", strings { "a", nil, "", "üß", n = 5 } }
    columns[#columns + 1] = { "binary", strings { "a", "\xff\0", "", "x", "y" } }
    columns[#columns + 1] = { "nullable", nullable("double", { 1.5, nil, 0 / 0, nil, 1 / 0, n = 5 }) }
    columns[#columns + 1] = { "nullable bits", nullable("bits", { true, nil, false, nil, nil, n = 5 }) }
    columns[#columns + 1] = { "pooled", pooled { "x", "y", nil, "x", "", n = 5 } }
    columns[#columns + 1] = { "pooled numbers", pooled { 1.5, nil, 1.5, 3, 4, n = 5 } }
    local t = back(columns)
    for _, pair in ipairs(columns) do
      local expected, found = pair[2], t:column(pair[1])
      assert.are.equal(pair[1] == "bool" and "bits" or expected.kind, found.kind)
      if expected.kind == "array" and pair[1] ~= "bool" then assert.are.equal(expected.ctype, found.ctype) end
      for i = 1, 5 do
        local a, b = expected[i], found[i]
        assert.is_true(a == b or a ~= a and b ~= b, pair[1] .. " " .. i)
      end
    end
    local e = fails("ArgumentError", "sealed", function() t:column("int32_t")[1] = 5 end)
    assert.is_truthy(e.message:find("arrow_spec.lua:%d+"))
  end)

  it("keeps the key, and takes another", function()
    local path = process.tmpdir() .. "/x.arrow"
    arrow.save(path, tabular { columns = { { "a", { 2, 1 } }, { "b", { "x", "y" } } }, key = { "a", "b" } })
    assert.are.same({ "a", "b" }, arrow.load(path).key)
    assert.are.equal("y", arrow.load(path):lookup(1).b)
    assert.are.same({ "b" }, arrow.load(path, { key = "b" }).key)
    assert.are.same({}, arrow.load(path, { key = {} }).key)
    assert.are.same({}, arrow.load(path, { columns = { "b" } }).key)
    fails("ArgumentError", "it has no column 'c'", arrow.load, path, { columns = { "c" } })
    fails("ArgumentError", "unknown option 'keys'", arrow.load, path, { keys = "a" })
  end)

  it("saves slices, which begin anywhere", function()
    local n = 100
    local b, s, v, p = bits(n), { n = n }, { n = n }, { n = n }
    for i = 1, n do
      b[i], s[i], v[i], p[i] = i % 3 == 0, i % 5 > 0 and ("s"):rep(i % 7) or nil, i % 4 > 0 and i or nil, i % 6 > 0 and "p" .. i % 3 or nil
    end
    local whole = tabular { columns = { { "b", b }, { "s", strings(s) }, { "v", nullable("int32_t", v) }, { "p", pooled(p) },
      { "d", array("double", n) } } }
    for _, from in ipairs { 1, 2, 8, 9, 64, 100 } do
      local path = process.tmpdir() .. "/x.arrow"
      arrow.save(path, whole:slice(from, n))
      assert.are.same(whole:slice(from, n):totable(), arrow.load(path):totable())
    end
    local path = process.tmpdir() .. "/x.arrow"
    arrow.save(path, whole:slice(50, 49))
    assert.are.equal(0, #arrow.load(path))
  end)

  it("maps large buffers, which cost no memory", function()
    local n = 1000000
    local v, text, b = array("double", n), strings.builder(), bits(n)
    for i = 1, n do
      v[i] = i
      text:add("text " .. i)
      if i % 2 == 0 then b[i] = true end
    end
    local path = process.tmpdir() .. "/x.arrow"
    arrow.save(path, tabular { columns = { { "v", v }, { "text", text:finish() }, { "b", b } } })
    v, text, b = nil, nil, nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    local before = core.pool_stats().resident_bytes
    local t = arrow.load(path)
    assert.is_true(core.pool_stats().resident_bytes <= before)
    assert.are.equal(777777, t[777777].v)
    assert.are.equal("text 777777", t[777777].text)
    assert.is_false(t[777777].b)
    assert.are.equal(n * (n + 1) / 2, t:groupreduce({}, { { "sum", "sum", "v" } })[1].sum)
    -- It is read on though the file has another by now, and travels.
    arrow.save(path, tabular { columns = { { "x", { 1 } } } })
    assert.are.equal(1000000, t[1000000].v)
    assert.are.equal("text 5", core.decode(core.encode(t:slice(1, 10)))[5].text)
  end)

  it("says which column cannot be saved", function()
    local path = process.tmpdir() .. "/x.arrow"
    local function save(c) arrow.save(path, tabular { columns = { { "c", c } } }) end
    fails("NotSerializable", "column 'c' is an array of struct", save, array("struct { int x; }", 2))
    fails("NotSerializable", "column 'c' has 2 dimensions", save, array("double", { shape = { 2, 2 } }))
    fails("ArgumentError", "a tarn.table is needed, not a number", arrow.save, path, 5)
    fails("IOError", "/none/x", arrow.save, "/none/x", tabular { columns = { { "c", { 1 } } } })
    assert.is_nil(io.open(path))
  end)
end)

describe("tarn.arrow, of what others write", function()
  -- Three batches of numbers, truths and texts with missing ones, whose bits do not end with a byte, and whose text does not begin at 0.
  local function batches()
    return {
      { length = 3, nodes = { { 3, 0 }, { 3, 1 }, { 3, 1 } },
        buffers = { "", numbers("int32_t", { 1, 2, 3 }), "\5", "\1", "\5", numbers("int32_t", { 2, 3, 3, 5 }), "xxabc" } },
      { length = 0, nodes = { { 0, 0 }, { 0, 0 }, { 0, 0 } }, buffers = { "", "", "", "", "", "", "" } },
      { length = 10, nodes = { { 10, 2 }, { 10, 0 }, { 10, 0 } },
        buffers = { "\251\1", numbers("int32_t", { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }), "", "\255\2", "",
          numbers("int32_t", { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }), "abcdefghij" } },
    }
  end
  local fields = { fixed("n", "int32_t"), truths("b"), texts("s") }

  it("puts several batches together", function()
    for _, stream in ipairs { false, true } do
      local t = arrow.load(path_of(compose.compose { fields = fields, batches = batches(), stream = stream }))
      assert.are.equal(13, #t)
      assert.are.same({ 1, 2, 3, 1, 2, nil, 4, 5, 6, 7, 8, 9, nil, n = 13 }, values(t:column "n"))
      assert.are.same({ true, nil, false, true, true, true, true, true, true, true, true, false, true, n = 13 }, values(t:column "b"))
      assert.are.same({ "a", nil, "bc", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", n = 13 }, values(t:column "s"))
    end
    local none = arrow.load(path_of(compose.compose { fields = fields, batches = {} }))
    assert.are.equal(0, #none)
  end)

  it("reads dictionaries: with more to come, a value twice, or a missing one, and one that is replaced", function()
    local function part(id, list, delta, missing)
      local offsets, text = { 0 }, table.concat(list)
      for i, s in ipairs(list) do offsets[i + 1] = offsets[i] + #s end
      return { id = id, delta = delta, length = #list, nodes = { { #list, missing and 1 or 0 } },
        buffers = { missing and string.char(255 - 2 ^ (missing - 1)) or "", numbers("int32_t", offsets), text } }
    end
    local function load(dictionaries, codes, index)
      return arrow.load(path_of(compose.compose { fields = { dictionary("d", 7, index or "int8_t") }, dictionaries = dictionaries,
        batches = { { length = #codes, nodes = { { #codes, 0 } }, buffers = { "", numbers(index or "int8_t", codes) } } } })):column "d"
    end
    for _, index in ipairs { "int8_t", "uint8_t", "int16_t", "int32_t", "int64_t", "uint64_t" } do
      assert.are.same({ "b", "a", "c", "b", n = 4 }, values(load({ part(7, { "a", "b" }), part(7, { "c" }, true) }, { 1, 0, 2, 1 }, index)))
    end
    local twice = load({ part(7, { "a", "b", "a" }) }, { 0, 1, 2 })
    assert.are.same({ "a", "b", "a", n = 3 }, values(twice))
    assert.are.equal(0, twice:compare(1, 3))
    assert.are.equal(2, #select(2, twice:group()))
    assert.are.same({ "a", nil, "c", n = 3 }, values(load({ part(7, { "a", "b", "c" }, false, 2) }, { 0, 1, 2 })))
    assert.are.same({ "new", n = 1 }, values(load({ part(7, { "old" }), part(7, { "new" }) }, { 0 })))
    local none = compose.compose { fields = { dictionary("d", 7, "int8_t") }, batches = {} }
    assert.are.same({ n = 0 }, values(arrow.load(path_of(none)):column "d"))
    fails("Corrupt", "dictionary 7 is missing", load, { part(8, { "a" }) }, { 0 })
    local outside = load({ part(7, { "a" }) }, { 5, -1 })
    fails("Corrupt", "code", function() return outside[1] end)
    fails("Corrupt", "code", function() return outside[2] end)
    fails("Corrupt", "column 'd': code 5", load, { part(7, { "a", "a" }) }, { 5 })
  end)

  it("refuses what it has no column for, naming it, and reads the others", function()
    local format = require "tarn.arrow.format"
    local real = format.schema_table
    -- A list of int32, which tarn does not write.
    local int32 = { { 0, "int32_t", 32 }, { 1, "bool", true } }
    local child = { { 0, "string", "item" }, { 1, "bool", true }, { 2, "uint8_t", 2 }, { 3, "table", int32 } }
    local list = { { 0, "string", "list" }, { 1, "bool", true }, { 2, "uint8_t", 12 }, { 3, "table", {} }, { 5, "tables", { child } } }
    finally(function() format.schema_table = real end)
    format.schema_table = function(spec)
      local t = real(spec)
      table.insert(t[2][3], 1, list)
      return t
    end
    local batch = { length = 2, nodes = { { 2, 0 }, { 3, 0 }, { 2, 0 } },
      buffers = { "", numbers("int32_t", { 0, 1, 3 }), "", numbers("int32_t", { 7, 8, 9 }), "", numbers("int32_t", { 5, 6 }) } }
    local path = path_of(compose.compose { fields = { fixed("n", "int32_t") }, batches = { batch } })
    fails("ArgumentError", "column 'list' is of type list", arrow.load, path)
    assert.are.same({ 5, 6, n = 2 }, values(arrow.load(path, { columns = { "n" } }):column "n"))
  end)

  it("says what is wrong with claims that do not hold", function()
    local function load(changes)
      local spec = { fields = fields, batches = batches() }
      for k, v in pairs(changes) do spec[k] = v end
      return arrow.load(path_of(compose.compose(spec)))
    end
    local function one(change)
      local list = batches()
      change(list[1])
      return { batches = { list[1] } }
    end
    local function bad(text, changes) fails("Corrupt", text, load, changes) end
    bad("overlap", { footer = function(_, list) list[#list + 1] = list[1] end })
    bad("names a message at 3", { footer = function(_, list) list[1].at = 3 end })
    bad("where there is another", { footer = function(_, list) list[1].at = 8 end })
    bad("no message at", { footer = function(_, list) list[1].at = list[1].at + 8 end })
    bad("names a message at", { footer = function(_, list) list[1].at = 2 ^ 50 end })
    bad("3 rows in a batch of 4", one(function(b) b.length = 4 end))
    bad("column 'n': a buffer of 12 bytes where 4e+15", one(function(b)
      b.length = 1e15
      for _, node in ipairs(b.nodes) do node[1] = 1e15 end
    end))
    bad("a batch of -1 rows", one(function(b) b.length = -1 end))
    bad("4 of 3 values missing", one(function(b) b.nodes[1][2] = 4 end))
    bad("a batch of 2 columns", one(function(b) table.remove(b.nodes) end))
    bad("a buffer of 0 bytes where 1 are needed", one(function(b) b.buffers[3] = "" end))
    bad("its offsets run from 2 to -1", one(function(b) b.buffers[6] = numbers("int32_t", { 2, 3, 3, -1 }) end))
    bad("a buffer of 5 bytes where 6 are needed", one(function(b) b.buffers[6] = numbers("int32_t", { 2, 3, 3, 6 }) end))
    bad("overlap", one(function(b)
      b.spans = {}
      for i = 1, 7 do b.spans[i] = { 0, 32 } end
    end))
    bad("buffer 1 of a batch is 64 bytes at 2e+15", one(function(b) b.spans = { { 2e15, 64 } } end))
    bad("buffer 1 of a batch is -8 bytes", one(function(b) b.spans = { { 0, -8 } } end))
    -- Within the only batch offsets are looked at when they are used.
    local t = load(one(function(b) b.buffers[6] = numbers("int32_t", { 2, 100, 3, 5 }) end))
    fails("Corrupt", "offsets of element 1", function() return t:column("s")[1] end)
    bad("its offsets are not in order", (function()
      local list = batches()
      list[1].buffers[6] = numbers("int32_t", { 2, 100, 3, 5 })
      return { batches = list }
    end)())
  end)

  it("refuses files that are none, or cut off", function()
    local good = compose.compose { fields = fields, batches = batches() }
    for _, bytes in ipairs { "", "ARROW1", "ARROW1\0\0", "hello, this is no Arrow file", ("\0"):rep(100), good:sub(1, -2), good:sub(9) } do
      local path = path_of(bytes)
      local ok, e = pcall(arrow.load, path)
      if ok then
        assert.are.equal(good:sub(9), bytes) -- without its first 8 bytes it is a stream
      else
        assert.is_true(errors.iserror(e, "Corrupt"), tostring(e))
        assert.are.equal(path, e.path)
        assert.is_truthy(e.message:find("arrow_spec.lua:%d+"), e.message)
      end
    end
    local stream = compose.compose { fields = fields, batches = batches(), stream = true }
    for size = 1, #stream - 1 do
      local ok, e = pcall(arrow.load, path_of(stream:sub(1, size)))
      assert.is_true(ok or errors.iserror(e, "Corrupt"), ("%d bytes: %s"):format(size, tostring(e)))
    end
  end)

  it("with any byte changed is Corrupt, refused, or a table that can be read", function()
    math.randomseed(seed)
    local path = process.tmpdir() .. "/x.arrow"
    arrow.save(path, tabular { columns = { { "n", array("int32_t", { 3, 1, 2 }) }, { "s", strings { "a", nil, "bcd", n = 3 } },
      { "p", pooled { "x", "y", nil, n = 3 } }, { "v", nullable("bits", { true, nil, false, n = 3 }) } }, key = "n" })
    local files = { process.read_file(path), compose.compose { fields = fields, batches = batches() },
      compose.compose { fields = fields, batches = batches(), stream = true } }
    local before, refused = core.pool_stats(), 0
    for round = 1, 2000 do
      local bytes = files[round % 3 + 1]
      for _ = 1, math.random(2) do
        local at = math.random(#bytes)
        local byte = math.random() < 0.5 and string.char(math.random(0, 255)) or math.random() < 0.5 and "\255" or "\127"
        bytes = bytes:sub(1, at - 1) .. byte .. bytes:sub(at + 1)
      end
      process.write_file(path, bytes)
      local ok, e = pcall(function()
        local t = arrow.load(path)
        for i = 1, math.min(#t, 50) do t[i]() end
        return tostring(t)
      end)
      if not ok then
        refused = refused + 1
        local known = errors.iserror(e, "Corrupt") or errors.iserror(e, "ArgumentError")
        assert.is_true(known, ("seed %d, round %d: %s"):format(seed, round, tostring(e)))
      end
    end
    assert.is_true(refused > 500)
    collectgarbage()
    tarn.sleep(0) -- what finalizers have queued is unmapped between tasks
    assert.is_true(core.pool_stats().resident_bytes <= before.resident_bytes + 1048576)
  end)
end)

describe("tarn.arrow, compressed", function()
  -- One column of int32, its buffer compressed by the system's library.
  local function compressed(codec, plain, claim, damage)
    local library = ffi.load(codec == "lz4" and "liblz4.so.1" or "libzstd.so.1")
    pcall(ffi.cdef, [[size_t LZ4F_compressFrame(void *to, size_t to_size, const void *from, size_t from_size, const void *preferences);
      size_t ZSTD_compress(void *to, size_t to_size, const void *from, size_t from_size, int level);]])
    local out = ffi.new("uint8_t[?]", #plain + 1000)
    local size = tonumber(codec == "lz4" and library.LZ4F_compressFrame(out, #plain + 1000, plain, #plain, nil)
      or library.ZSTD_compress(out, #plain + 1000, plain, #plain, 1))
    local bytes = ffi.string(out, size)
    if damage then bytes = "garbage!" .. bytes:sub(9) end
    local format = require "tarn.arrow.format"
    local real = format.batch_table
    finally(function() format.batch_table = real end)
    format.batch_table = function(...)
      local t = real(...)
      t[#t + 1] = { 3, "table", { { 0, "int8_t", codec == "zstd" and 1 or 0 }, { 1, "int8_t", 0 } } }
      return t
    end
    local batch = { length = #plain / 4, nodes = { { #plain / 4, 0 } }, buffers = { "", numbers("int64_t", { claim or #plain }) .. bytes } }
    local path = path_of(compose.compose { fields = { fixed("n", "int32_t") }, batches = { batch } })
    format.batch_table = real
    return path
  end

  it("is read: LZ4, Zstandard, and what is left as it was", function()
    local list = {}
    for i = 1, 50000 do list[i] = i % 100 end
    local plain = numbers("int32_t", list)
    for _, codec in ipairs { "lz4", "zstd" } do
      local t = arrow.load(compressed(codec, plain))
      assert.are.equal(50000, #t)
      for i = 1, 50000 do assert.is_true(t.n[i] == list[i]) end
      fails("Corrupt", "damaged", arrow.load, compressed(codec, plain, nil, true))
      fails("Corrupt", "damaged", arrow.load, compressed(codec, plain, #plain + 64))
      fails("Corrupt", "bytes compressed to", arrow.load, compressed(codec, plain, 2 ^ 40))
      fails("Corrupt", "bytes compressed to", arrow.load, compressed(codec, plain, 64))
      fails("Corrupt", "bytes compressed to", arrow.load, compressed(codec, plain, -2))
    end
    local path = path_of(process.read_file(compressed("lz4", plain, -1)))
    fails("Corrupt", "bytes where 200000 are needed", arrow.load, path)
  end)
end)
