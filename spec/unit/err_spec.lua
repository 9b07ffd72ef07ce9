local ffi = require("ffi")
local C = require("spec.helper.c")
require("spec.helper.bytes")

pcall(ffi.cdef, [[
int tarn_error_set(tarn_error_t *err, int code, const char *fmt, ...);
int tarn_error_errno(tarn_error_t *err, int sys_errno, const char *fmt, ...);
const char *tarn_error_kind(int code);
int tarn_error_code(const char *kind, uint32_t length);
const char *tarn_error_text(int code);
uint64_t tarn_clock_ns(void);]])

local ENOMEM, EIO, EDISKFULL, EREMOTE = -1, -3, -4, -16

describe("an error", function()
  local err
  before_each(function() err = ffi.new("tarn_error_t") end)
  local function message() return ffi.string(err.message) end

  it("carries its code and message, and no old figures", function()
    err.needed, err.available = 5, 6
    assert.equal(-7, C.tarn_error_set(err, -7, "block %d of %s", ffi.new("int", 3), "x.tarn"))
    assert.equal(-7, err.code)
    assert.equal("block 3 of x.tarn", message())
    assert.is_true(err.needed == 0 and err.available == 0)
  end)

  it("may be absent", function()
    assert.equal(-7, C.tarn_error_set(nil, -7, "lost"))
    assert.equal(EIO, C.tarn_error_errno(nil, 5, "lost"))
  end)

  it("never has an empty message", function()
    C.tarn_error_set(err, -6, "%s", "")
    assert.equal("no such object", message())
  end)

  it("can be wrapped in place", function()
    C.tarn_error_set(err, -7, "inner")
    C.tarn_error_set(err, -7, "outer: %s", ffi.cast("const char *", err.message))
    assert.equal("outer: inner", message())
  end)

  it("cuts a long message, and not within a character", function()
    for extra = 0, 3 do
      C.tarn_error_set(err, -7, "%s", ("a"):rep(extra) .. ("\226\130\172"):rep(300))
      assert.is_true(#message() <= 383)
      local text = message():match("^a*(.*)%.%.%.$")
      assert.equal(("\226\130\172"):rep(#text / 3), text)
    end
  end)

  it("takes its code from errno and keeps the reason of a long text", function()
    for errno, code in pairs({ [28] = EDISKFULL, [122] = EDISKFULL, [27] = EDISKFULL, [12] = ENOMEM, [2] = EIO }) do
      assert.equal(code, C.tarn_error_errno(err, errno, "open"))
      assert.equal(code, err.code)
    end
    C.tarn_error_errno(err, 2, "open %s", "f")
    assert.equal("open f: No such file or directory", message())
    C.tarn_error_errno(err, 2, "open %s", ("p"):rep(600))
    assert.is_truthy(message():find("...: No such file or directory", 1, true))
    assert.is_true(#message() <= 383)
    C.tarn_error_errno(err, 99999, "odd")
    assert.is_truthy(message():find("odd: Unknown error 99999", 1, true))
  end)
end)

describe("error kinds", function()
  it("go from code to name and back", function()
    for code, kind in pairs({
      [-2] = "ArgumentError", [-3] = "IOError", [-4] = "DiskFull", [-5] = "PoolFull", [-6] = "KeyError",
      [-7] = "Corrupt", [-8] = "ProtocolError", [-9] = "AuthError", [-10] = "WorkerLost", [-11] = "Timeout",
      [-12] = "Cancelled", [-16] = "RemoteError",
    }) do
      assert.equal(kind, ffi.string(C.tarn_error_kind(code)))
      assert.equal(code, C.tarn_error_code(kind, #kind))
    end
  end)

  it("have an answer for what is unknown", function()
    assert.equal("IOError", ffi.string(C.tarn_error_kind(-1234)))
    assert.equal("unknown error", ffi.string(C.tarn_error_text(7)))
    assert.equal(EREMOTE, C.tarn_error_code("Nonsense", 8))
    assert.equal(EREMOTE, C.tarn_error_code("", 0))
    assert.equal(EREMOTE, C.tarn_error_code("Corrupt", 6))
    for code = -16, 0 do assert.is_true(#ffi.string(C.tarn_error_text(code)) > 0) end
  end)
end)

describe("the clock", function()
  it("does not run backwards", function()
    local last = C.tarn_clock_ns()
    for _ = 1, 1000 do
      local now = C.tarn_clock_ns()
      assert(now >= last)
      last = now
    end
  end)
end)

describe("the log", function()
  pcall(ffi.cdef, "void tarn_log(int level, const char *fmt, ...);")
  pcall(ffi.cdef, "void tarn_log_set_process(uint32_t pid);")
  pcall(ffi.cdef, "bool tarn_log_enabled(int level);")
  pcall(ffi.cdef, "int dup(int fd); int dup2(int from, int to); int close(int fd); int fileno(void *file);")

  -- What fn writes to descriptor 2.
  local function captured(fn)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    local saved = ffi.C.dup(2)
    ffi.C.dup2(ffi.C.fileno(file), 2)
    local ok, problem = pcall(fn)
    ffi.C.dup2(saved, 2)
    ffi.C.close(saved)
    file:close()
    local text = assert(io.open(path)):read("*a")
    os.remove(path)
    assert(ok, problem)
    return text
  end

  it("writes one line with time, process and level", function()
    local text = captured(function()
      C.tarn_log_set_process(0)
      C.tarn_log(3, "lost %s", "worker")
      C.tarn_log_set_process(2)
      C.tarn_log(3, "%s", "a\nb\27[2Jc")
    end)
    C.tarn_log_set_process(0)
    local first, second = text:match("^(.-)\n(.-)\n$")
    assert.is_truthy(first:match("^%d%d:%d%d:%d%d%.%d%d%d tarn error: lost worker$"))
    assert.is_truthy(second:match("^%d%d:%d%d:%d%d%.%d%d%d tarn%[2%] error: a b%?%[2Jc$"))
  end)

  it("cuts a line that is too long", function()
    local text = captured(function() C.tarn_log(3, "%s", ("y"):rep(10000)) end)
    assert.equal(4095, #text)
    assert.equal("yyy...\n", text:sub(-7))
  end)

  it("keeps quiet below its level", function()
    local quiet = not C.tarn_log_enabled(0)
    local text = captured(function() C.tarn_log(0, "%s", "detail") end)
    assert.equal(quiet, text == "")
    assert.is_true(C.tarn_log_enabled(3))
  end)
end)
