-- The C functions under test: this process's own when it is tarn, else those of the library that TARN_TEST_LIB names.
local ffi = require("ffi")

pcall(ffi.cdef, "uint64_t tarn_alloc_bytes(void);")
if pcall(function() return ffi.C.tarn_alloc_bytes end) then return ffi.C end
return ffi.load(assert(os.getenv("TARN_TEST_LIB"), "run by tarn, or set TARN_TEST_LIB"))
