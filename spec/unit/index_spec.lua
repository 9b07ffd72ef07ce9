-- The pool's table of objects by id, against a Lua table.
local ffi = require "ffi"
local C = require "spec.helper.c"

pcall(ffi.cdef, "void tarn_alloc_fail_at(uint64_t countdown);")
pcall(ffi.cdef, "typedef struct tarn__object tarn__object_t;")
pcall(ffi.cdef, "struct tarn__index_shard { uint64_t *slots; uint32_t count, capacity; };")
pcall(ffi.cdef, "typedef struct tarn__index { struct tarn__index_shard shards[256]; size_t count; uint64_t bytes; } tarn__index_t;")
pcall(ffi.cdef, [[
void tarn__index_init(tarn__index_t *x);
void tarn__index_clear(tarn__index_t *x);
tarn__object_t *tarn__index_get(const tarn__index_t *x, uint64_t id);
int tarn__index_add(tarn__index_t *x, tarn__object_t *o);
void tarn__index_remove(tarn__index_t *x, const tarn__object_t *o);
void tarn__index_shrink(tarn__index_t *x, uint64_t id);
tarn__object_t *tarn__index_next(const tarn__index_t *x, size_t *cursor);]])

local function new_index()
  local x = ffi.gc(ffi.new("tarn__index_t"), C.tarn__index_clear)
  C.tarn__index_init(x)
  return x
end

-- Records that begin with their id, as objects do.
local function new_object(id) return ffi.new("uint64_t[1]", id) end
local function pointer(o) return ffi.cast("tarn__object_t *", o) end
local function id_of(o) return tonumber(ffi.cast("uint64_t *", o)[0]) end

local function ids(x)
  local seen, cursor, count = {}, ffi.new("size_t[1]"), 0
  while true do
    local o = C.tarn__index_next(x, cursor)
    if o == nil then break end
    assert.is_nil(seen[id_of(o)], "met twice")
    seen[id_of(o)] = true
    count = count + 1
  end
  assert.equal(tonumber(x.count), count)
  return seen
end

describe("the index of objects", function()
  it("does what a table would, while it grows and shrinks", function()
    local x, model, list = new_index(), {}, {}
    math.randomseed(7)
    for round, target in ipairs({ 20000, 500, 8000, 0 }) do
      while #list ~= target do
        if #list < target or (math.random() < 0.2 and target > 0) then
          local id = #list < target and math.random(2 ^ 40) or round
          if not model[id] then
            model[id] = new_object(id)
            list[#list + 1] = id
            assert.equal(0, C.tarn__index_add(x, pointer(model[id])))
          end
        end
        if #list > target then
          local i = math.random(#list)
          local id = list[i]
          list[i] = list[#list]
          list[#list] = nil
          C.tarn__index_remove(x, pointer(model[id]))
          C.tarn__index_shrink(x, id)
          model[id] = nil
        end
      end
      for _, id in ipairs(list) do assert.equal(id, id_of(C.tarn__index_get(x, id))) end
      assert.is_true(C.tarn__index_get(x, 2 ^ 41) == nil)
      local seen = ids(x)
      for id in pairs(model) do assert.is_true(seen[id]) end
    end
    assert.is_true(tonumber(x.bytes) <= 256 * 16 * 8, "an empty one is small again: " .. tonumber(x.bytes))
  end)

  it("costs at most 22 bytes an object of sequential ids, at every size", function()
    local x, keep = new_index(), {}
    for id = 1, 60000 do
      keep[id] = new_object(id)
      C.tarn__index_add(x, pointer(keep[id]))
      if id > 10000 and id % 777 == 0 then assert.is_true(tonumber(x.bytes) <= 22 * id, id .. ": " .. tonumber(x.bytes)) end
    end
  end)

  it("tells objects apart whose ids end alike", function()
    local x, keep = new_index(), {}
    for k = 0, 99 do
      keep[k] = new_object(7 + k * 65536)
      C.tarn__index_add(x, pointer(keep[k]))
    end
    for k = 0, 99 do assert.equal(7 + k * 65536, id_of(C.tarn__index_get(x, 7 + k * 65536))) end
    C.tarn__index_remove(x, pointer(keep[50]))
    assert.is_true(C.tarn__index_get(x, 7 + 50 * 65536) == nil)
    assert.is_true(C.tarn__index_get(x, 7 + 100 * 65536) == nil)
  end)

  it("is emptied by removing what an iteration returns", function()
    local x, keep, cursor, count = new_index(), {}, ffi.new("size_t[1]"), 0
    for id = 1, 5000 do
      keep[id] = new_object(id)
      C.tarn__index_add(x, pointer(keep[id]))
    end
    while true do
      local o = C.tarn__index_next(x, cursor)
      if o == nil then break end
      C.tarn__index_remove(x, o)
      cursor[0] = cursor[0] - 1
      count = count + 1
    end
    assert.same({ 5000, 0 }, { count, tonumber(x.count) })
  end)

  it("stays as it is when there is no memory", function()
    local x = new_index()
    local a, b = new_object(1), new_object(5)
    assert.equal(0, C.tarn__index_add(x, pointer(a)))
    C.tarn_alloc_fail_at(1)
    assert.equal(-1, C.tarn__index_add(x, pointer(b))) -- another shard: its first slots
    C.tarn_alloc_fail_at(0)
    assert.same({ [1] = true }, ids(x))
    assert.equal(0, C.tarn__index_add(x, pointer(b)))
  end)
end)
