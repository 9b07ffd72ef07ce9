-- What is done about LuaJIT's exchange of 32 bits after lj_vm_next (runtime/host/mcode.c): on machine code as LuaJIT writes it, run
-- before and after; whether LuaJIT writes it here and now depends on what else is compiled.
local core = require "tarn.core"
local ffi = require "ffi"
local mend = require "tarn.mend"
local util = require "jit.util"

ffi.cdef [[
  void *mmap(void *, size_t, int, int, int, long);
  int munmap(void *, size_t);
  int mprotect(void *, size_t, int);
]]

local READ, WRITE, EXEC, PRIVATE_ANONYMOUS = 1, 2, 4, 0x22
local PAGE, MiB = 4096, 2 ^ 20

local function helper_address()
  for i, name in pairs(require("jit.vmdef").ircall) do
    if name == "lj_vm_next" then return util.ircalladdr(i) end
  end
end

local NEXT = jit.arch == "x64" and helper_address()

-- A page from which a call reaches the address.
local function page_near(address)
  for i = 1, 500 do
    local hint = ffi.cast("void *", math.floor(address / PAGE) * PAGE + i * MiB)
    local p = ffi.C.mmap(hint, PAGE, READ + WRITE, PRIVATE_ANONYMOUS, -1, 0)
    if math.abs(tonumber(ffi.cast("intptr_t", p)) - address) < 1000 * MiB then return p end
    ffi.C.munmap(p, PAGE)
  end
  error "no page near LuaJIT"
end

local STORES = {
  [""] = "",
  ["stores of one byte's offset between"] = "\x48\x89\x44\x24\x20\x89\x54\x24\x28", -- mov [rsp+32], rax; mov [rsp+40], edx
  ["stores of four bytes' offset between"] = "\x48\x89\x84\x24\x20\0\0\0\x89\x94\x24\x28\0\0\0",
}

-- A function (table, index, out): out[0] the address in rdx, out[1] the index in rax after lj_vm_next and the exchange; out[2] and out[3]
-- what was stored between. Returns it, its address and its size.
local function assemble(between, exchange)
  local p = page_near(NEXT)
  local at = tonumber(ffi.cast("intptr_t", p))
  local head = "\x48\x83\xec\x38" -- sub rsp, 56
  local distance = ffi.new("int32_t[1]", NEXT - (at + #head + 5))
  local code = head .. "\xe8" .. ffi.string(distance, 4) .. between .. exchange ..
    "\x49\x89\x10\x49\x89\x40\x08" ..         -- mov [r8], rdx; mov [r8+8], rax
    "\x48\x8b\x44\x24\x20\x49\x89\x40\x10" .. -- mov rax, [rsp+32]; mov [r8+16], rax
    "\x48\x8b\x44\x24\x28\x49\x89\x40\x18" .. -- mov rax, [rsp+40]; mov [r8+24], rax
    "\x48\x83\xc4\x38\xc3"                    -- add rsp, 56; ret
  ffi.copy(p, code, #code)
  assert.equal(0, ffi.C.mprotect(p, PAGE, READ + EXEC))
  return ffi.cast("void (*)(void *, uint32_t, int, int, uint64_t *)", p), at, #code
end

local function run(fn, t, index)
  local out = ffi.new "uint64_t[4]"
  fn(ffi.cast("void *", tonumber(("%p"):format(t))), index, 0, 0, out)
  return out
end

describe("code that LuaJIT has compiled of next", function()
  if not NEXT then return pending "only on x86-64 there is something to mend" end

  for name, between in pairs(STORES) do
    it("loses half an address to a 32-bit exchange, and does not after it has been mended " .. name, function()
      local fn, at, size = assemble(between, "\x92")
      local t = { key = 42.5 }
      local before = run(fn, t, 0)
      assert.is_true(before[0] < 2 ^ 32) -- the fault
      assert.is_true(before[1] >= 1 and before[1] <= 2) -- the place after the key's
      assert.equal(1, core.mend(at, size))
      assert.equal(1, core.mend(at, size, NEXT))
      for _ = 1, 3 do
        local out = run(fn, t, 0)
        assert.equal(before[0], out[0] % 2 ^ 32)
        assert.is_true(out[0] > 2 ^ 32)
        assert.equal(42.5, ffi.cast("double *", out[0])[0])
        assert.equal(before[1], out[1])
        if between ~= "" then
          assert.equal(out[0], out[2])
          assert.equal(before[1], out[3] % 2 ^ 32)
        end
      end
      assert.equal(0, core.mend(at, size, NEXT)) -- it has been
      ffi.C.munmap(ffi.cast("void *", at), PAGE)
    end)
  end

  it("is left alone where the exchange is whole, or belongs to another call", function()
    for _, exchange in ipairs { "\x48\x92", "\x90" } do
      local _, at, size = assemble("", exchange)
      local code = ffi.string(ffi.cast("char *", at), size)
      assert.equal(0, core.mend(at, size, NEXT))
      assert.equal(0, core.mend(at, size, NEXT + 1))
      assert.equal(code, ffi.string(ffi.cast("char *", at), size))
      ffi.C.munmap(ffi.cast("void *", at), PAGE)
    end
    local _, at, size = assemble("", "\x92")
    assert.equal(0, core.mend(at, size, NEXT + 1))
    assert.equal(0, core.mend(at, 9, NEXT)) -- the code ends before the exchange
    ffi.C.munmap(ffi.cast("void *", at), PAGE)
  end)
end)

describe("a script's own handler of traces", function()
  it("is called beside tarn's, until it is detached", function()
    local seen = 0
    local function on_trace(what) if what == "stop" then seen = seen + 1 end end
    jit.attach(on_trace, "trace")
    local function compile() return assert(loadstring "local n = 0 for i = 1, 1000 do n = n + i end return n")() end
    compile()
    assert.is_true(seen > 0)
    jit.attach(on_trace)
    local before = seen
    compile()
    assert.equal(before, seen)
    assert.is_number(mend.count)
  end)
end)
