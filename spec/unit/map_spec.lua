local ffi = require("ffi")
local C = require("spec.helper.c")
local bytes = require("spec.helper.bytes")

pcall(ffi.cdef, "typedef struct tarn_map_slot { uint64_t key; void *value; } tarn_map_slot_t;")
pcall(ffi.cdef, "typedef struct tarn_map { tarn_map_slot_t *slots; size_t count, capacity; } tarn_map_t;")
pcall(ffi.cdef, [[
void tarn_map_init(tarn_map_t *m);
void tarn_map_clear(tarn_map_t *m);
void *tarn_map_get(const tarn_map_t *m, uint64_t key);
int tarn_map_set(tarn_map_t *m, uint64_t key, void *value);
void *tarn_map_remove(tarn_map_t *m, uint64_t key);
void *tarn_map_next(const tarn_map_t *m, size_t *cursor, uint64_t *key);]])

local function new_map()
  local m = ffi.gc(ffi.new("tarn_map_t"), C.tarn_map_clear)
  C.tarn_map_init(m)
  return m
end
local function pointer(n) return ffi.cast("void *", n) end
local function number(p) return p ~= nil and tonumber(ffi.cast("uintptr_t", p)) or nil end

-- Everything the map holds, by the key's text.
local function contents(m)
  local all, cursor, key, count = {}, ffi.new("size_t[1]"), ffi.new("uint64_t[1]"), 0
  while true do
    local value = C.tarn_map_next(m, cursor, key)
    if value == nil then break end
    assert.is_nil(all[tostring(key[0])])
    all[tostring(key[0])] = number(value)
    count = count + 1
  end
  assert.equal(count, tonumber(m.count))
  return all
end

describe("a map", function()
  it("is empty at first", function()
    local m = new_map()
    assert.is_true(C.tarn_map_get(m, 0) == nil)
    assert.is_true(C.tarn_map_remove(m, 0) == nil)
    assert.same({}, contents(m))
  end)

  it("takes any key, 0 and 2^64-1 among them", function()
    local m = new_map()
    for i, key in ipairs({ 0ULL, 1ULL, 0xffffffffffffffffULL, 0x8000000000000000ULL }) do
      assert.equal(0, C.tarn_map_set(m, key, pointer(i)))
    end
    assert.equal(1, number(C.tarn_map_get(m, 0)))
    assert.equal(3, number(C.tarn_map_get(m, 0xffffffffffffffffULL)))
    assert.equal(3, number(C.tarn_map_remove(m, 0xffffffffffffffffULL)))
    assert.is_true(C.tarn_map_get(m, 0xffffffffffffffffULL) == nil)
    assert.equal(4, number(C.tarn_map_get(m, 0x8000000000000000ULL)))
  end)

  it("refuses a null value", function()
    local m = new_map()
    assert.equal(bytes.EINVAL, C.tarn_map_set(m, 1, nil))
    assert.equal(0, tonumber(m.count))
  end)

  for seed = 1, 6 do
    it("behaves like a Lua table under random operations, seed " .. seed, function()
      math.randomseed(seed)
      local m, model, count = new_map(), {}, 0
      -- Few distinct keys make long clusters and many removals; a shift moves them into the high bits.
      local range, factor = ({ 20, 200, 2000, 50, 500, 5000 })[seed], seed > 3 and 2ULL ^ 40 or 1ULL
      for step = 1, 40000 do
        local k = math.random(0, range)
        local key = factor * k
        -- Alternate between phases of filling and of emptying.
        local action = math.random() < (step % 8000 < 4000 and 0.6 or 0.3) and "set" or "remove"
        if action == "set" then
          assert(C.tarn_map_set(m, key, pointer(step)) == 0)
          count = count + (model[k] and 0 or 1)
          model[k] = step
        else
          assert(number(C.tarn_map_remove(m, key)) == model[k])
          count = count - (model[k] and 1 or 0)
          model[k] = nil
        end
        local other = math.random(0, range)
        assert(number(C.tarn_map_get(m, factor * other)) == model[other])
        assert(m.count == count)
        if step % 5000 == 0 then
          local expected = {}
          for key_number, value in pairs(model) do expected[tostring(factor * key_number)] = value end
          assert.same(expected, contents(m))
        end
      end
    end)
  end

  it("is unchanged when it cannot grow, and can still replace", function()
    bytes.hold_garbage(finally)
    local m, before = new_map(), C.tarn_alloc_bytes()
    local i = 0
    local failures = bytes.sweep(function()
      local old = contents(m)
      while i < 500 do
        local rc = C.tarn_map_set(m, i, pointer(i + 1))
        if rc ~= 0 then
          assert.is_true(C.tarn_map_get(m, i) == nil)
          for key, value in pairs(old) do
            assert.equal(value, number(C.tarn_map_get(m, ffi.new("uint64_t", tonumber((key:gsub("ULL", "")))))))
          end
          if i > 0 then assert.equal(0, C.tarn_map_set(m, 0, pointer(1))) end
          return rc
        end
        i = i + 1
      end
      return 0
    end)
    assert.is_true(failures >= 1)
    assert.equal(500, tonumber(m.count))
    C.tarn_map_clear(m)
    assert.equal(before, C.tarn_alloc_bytes())
    assert.equal(0, C.tarn_map_set(m, 7, pointer(7)))
  end)
end)
