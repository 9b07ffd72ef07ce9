-- What people are told when something goes wrong: what happened, where (their file and line), what to do. The texts stand here, so that
-- none gets worse unnoticed.
local process = require "spec.helper.process"

-- Code of one line, and the error it ends with; N stands for the place "driver.lua:LINE:", "*" for anything.
local CALLS = {
  -- jobs
  { "tarn.remotecall('x', print)", "ArgumentError: N tarn.remotecall: a process id is a whole number, not the string 'x'" },
  { "tarn.remotecall(print, 2)", "ArgumentError: N tarn.remotecall: a process id is a whole number, not a function" },
  { "tarn.remotecall_fetch(2)", "ArgumentError: N tarn.remotecall_fetch: a function is needed, not nil" },
  { "tarn.remotecall_fetch(7, print)", "WorkerLost: there is no process 7 (tarn.procs() lists those there are)" },
  { "tarn.remote_do(2, 'x')", "ArgumentError: N tarn.remote_do: a function is needed, not the string 'x'" },
  { "tarn.spawn(1)", "ArgumentError: N tarn.spawn: a function is needed, not 1" },
  { "tarn.everywhere('x = = 1')", "ArgumentError: N tarn.everywhere: everywhere:1: unexpected symbol near '='" },
  { "tarn.everywhere(function() error('bad') end)", "RemoteError: tarn.everywhere: failed on processes 1, 2: N bad (on process 1)*" },
  { "tarn.fetch(tarn.async(error, 'late'))", "late" },
  { "tarn.async(print).fetch()", "ArgumentError: N future:fetch: a Future is needed (call it with a colon), not nil" },
  { "tarn.sleep('x')", "ArgumentError: N tarn.sleep: seconds must be a number, not the string 'x'" },
  { "tarn.timeout(0.01, tarn.sleep, 5)", "Timeout: tarn.timeout: not done within 0.01 s" },
  { "tarn.as_completed({1})", "ArgumentError: N tarn.as_completed: item 1 is no Future but 1" },
  { "tarn.event().wait()", "ArgumentError: N event:wait: call it with a colon, on what tarn.event gave, not on nil" },
  { "tarn.publish('x', 5)", "ArgumentError: N tarn.publish: a DRef or nil is needed, not 5" },
  { "tarn.log('loud', 'x')", "ArgumentError: N tarn.log: a level is debug, info, warn or error, not the string 'loud'" },
  { "tarn.on('left', print)", "ArgumentError: N tarn.on: there are the events 'joined' and 'lost', not the string 'left'" },
  -- pmap
  { "tarn.pmap({1}, print)", "ArgumentError: N tarn.pmap: a function is needed, not a table" },
  { "tarn.pmap(print)", "ArgumentError: N tarn.pmap: a list or an iterator is needed, not nil" },
  { "tarn.pmap(print, {a = 1})", "ArgumentError: N tarn.pmap: a list is needed, not a table with other keys than 1, 2, 3..." },
  { "tarn.pmap(print, {1}, {batchsize = 2})", "ArgumentError: N tarn.pmap: unknown option 'batchsize'; did you mean 'batch'?" },
  { "tarn.pmap(print, {1}, {colour = 2})",
    "ArgumentError: N tarn.pmap: unknown option 'colour'; there are batch, on_error, progress, retries, workers" },
  { "tarn.pmap(print, {1}, {workers = 2})", "ArgumentError: N tarn.pmap: workers is a list of process ids, not 2" },
  { "tarn.pmap(print, {1}, {progress = 1})", "ArgumentError: N tarn.pmap: progress is true or a function, not 1" },
  { "tarn.pmap(function(x) return x.y end, {1})",
    "RemoteError: N attempt to index local 'x' (a number value) (on process 2)\nprocess 2, stack traceback:\n\tN in function <N>" },
  { "tarn.pmap(function() coroutine.wrap(function() error('within') end)() end, {1})",
    "RemoteError: N within (on process 2)\nprocess 2, stack traceback:*N in function <N>" },
  { "tarn.pmap(function() return helper() end, {1})",
    "RemoteError: N global 'helper' is nil on process 2: make it local, or use tarn.everywhere (on process 2)*" },
  { "tarn.pmap(function(x) return x < limit end, {1})",
    "RemoteError: N attempt to compare number with nil; global 'limit' is nil on process 2: make it local, or use tarn.everywhere (*" },
  { "tarn.remotecall_fetch(2, function() return limit < limit end)",
    "RemoteError: N attempt to compare two nil values; global 'limit' is nil on process 2: make it local, or use tarn.everywhere (*" },
  { "tarn.remotecall_fetch(2, function() for i = 1, limit do print(i) end end)",
    "RemoteError: N 'for' limit must be a number; global 'limit' is nil on process 2: make it local, or use tarn.everywhere (*" },
  { "tarn.remotecall_fetch(2, function() local s = string.rep('x', limit) return s end)",
    "RemoteError: N bad argument #2 to 'rep' (number expected, got nil); global 'limit' is nil on process 2:*" },
  { "tarn.remotecall_fetch(2, function() return limit * 2 end)", "RemoteError: N global 'limit' is nil on process 2: make it local,*" },
  -- what is nil there is no global
  { "tarn.remotecall_fetch(2, function() local t = {} return (limit or 1) < 2 and t.y < 3 end)",
    "RemoteError: N attempt to compare nil with number (on process 2)\nprocess 2, stack traceback:*" },
  { "local limit tarn.remotecall_fetch(2, function() return DEBUG, 1 < limit end)",
    "RemoteError: N attempt to compare number with nil (on process 2)\nprocess 2, stack traceback:*" },
  { "tarn.fetch(tarn.pmap(function() return helper() end, {1}, {workers = {1}}))",
    "RemoteError: N attempt to call global 'helper' (a nil value) (on process 1)*" },
  { "tarn.pmap(function() tarn.pooldelet(1) end, {1})",
    "RemoteError: N attempt to call field 'pooldelet' (a nil value); did you mean tarn.pooldelete? (on process 2)*" },
  -- a tail call leaves no line of the user's: then at least the function is named
  { "tarn.fetch(tarn.spawn(function() return tarn.sleep('x') end))", "ArgumentError: tarn.sleep: seconds must be a number, not the string"
    .. " 'x' (on process 2)\nprocess 2, stack traceback:\n\tN in the job's function, by a tail call" },
  { "tarn.pmap(function() return tarn.sleep('x') end, {1})", "ArgumentError: tarn.sleep: seconds must be a number, not the string"
    .. " 'x' (on process 2)\nprocess 2, stack traceback:\n\tN in the job's function, by a tail call" },
  { "tarn.pmap(function() error({code = 5}) end, {1})", "RemoteError: an error that is a table: { code = 5 } (on process 2)*" },
  -- processes
  { "tarn.addprocs('2')",
    "ArgumentError: N tarn.addprocs: the number of workers is a whole number from 1 to 4096, not the string '2'" },
  { "tarn.addprocs{memory = '1GB'}", "ArgumentError: N tarn.addprocs: first comes the number of workers, or a list of hosts;"
    .. " options such as 'memory' are the second argument" },
  { "tarn.addprocs(1, {mem = '1GB'})", "ArgumentError: N tarn.addprocs: unknown option 'mem'; did you mean 'memory'?" },
  { "tarn.addprocs(1, {memory = 'lots'})",
    "ArgumentError: N tarn.addprocs: memory: a size such as 512MB or 1GiB is needed, not the string 'lots'" },
  { "tarn.addprocs(1, {launcher = 'slrum'})", "ArgumentError: N tarn.addprocs: no launcher 'slrum': there are command, local, slurm, ssh,"
    .. " and modules tarn.launcher.NAME of your own on package.path" },
  { "tarn.addprocs(1, {listen = 'here'})",
    "ArgumentError: N tarn.addprocs: listen: 'here' is not HOST:PORT (such as 0.0.0.0:0; port 0 is any that is free)" },
  { "tarn.addprocs(1, {tarn = '/no/tarn'})", "IOError: tarn.addprocs: cannot start /no/tarn: No such file or directory" },
  { "tarn.addprocs({'a b'})", "ArgumentError: N tarn.addprocs: a host is HOST, USER@HOST or either with **, not the string 'a b'" },
  { "tarn.addprocs(1, {init = function() error('unset') end})", "RemoteError: tarn.addprocs: init: failed on process *: N unset*" },
  { "tarn.rmprocs(1)", "ArgumentError: N tarn.rmprocs: process 1 is the driver; os.exit ends it" },
  { "tarn.rmprocs(7)", "ArgumentError: N tarn.rmprocs: there is no process 7" },
  -- what cannot be sent
  { "tarn.remotecall(2, print, 1, { x = coroutine.create(print) })",
    "NotSerializable: N a coroutine cannot travel: field 'x' of argument 2 of the function; make it where it is used" },
  { "tarn.access(print, tarn.poolset({}, 2), coroutine.create(print))",
    "NotSerializable: N a coroutine cannot travel: argument 1 of the function; make it where it is used" },
  { "tarn.pmap(print, {1, 2, coroutine.create(print)}, {batch = 2})",
    "NotSerializable: N a coroutine cannot travel: item 3 of the list; make it where it is used" },
  { "tarn.pmap(function(x) return x > 3 and {coroutine.create(print)} end, {1, 2, 3, 4}, {batch = 2})",
    "NotSerializable: a coroutine cannot travel: element 1 of the result of item 4; make it where it is used (on process 2)" },
  { "tarn.remotecall_fetch(2, function() return 1, coroutine.create(print) end)",
    "NotSerializable: a coroutine cannot travel: result 2; make it where it is used (on process 2)" },
  { "local f = io.stdout tarn.remotecall(2, function() return f end)",
    "NotSerializable: N a userdata cannot travel: upvalue 'f' of function at N; make it where it is used" },
  { "tarn.remotecall_fetch(2, function() return { a = { coroutine.create(print) } } end)",
    "NotSerializable: a coroutine cannot travel: element 1 of field 'a' of result 1; make it where it is used (on process 2)" },
  { "tarn.poolset({ { setmetatable({}, {}) } }, 2)",
    "NotSerializable: N a table with an unregistered metatable cannot travel: element 1 of element 1;"
    .. " declare its type with tarn.serializer, or keep the metatable in a module (docs/serializers.md)" },
  { "tarn.poolset_all({ 1, { a = require('ffi').new('char *') } }, 2)",
    "NotSerializable: N a cdata of type 'char *' cannot travel: field 'a' of item 2;"
    .. " put what it holds into a tarn.array, or declare its type with tarn.serializer" },
  { "local t = require('ffi').typeof('struct { int a; }') tarn.remotecall(2, function() return t end)",
    "NotSerializable: N the C type 'struct *' cannot travel: upvalue 't' of function at N;"
    .. " put it into a module, or name it by ffi.typeof where it is used" },
  { "local t = require('ffi').typeof('struct { int own; }') tarn.serializer{name = 'own', version = 1, type = t, mmwrite ="
    .. " function(out, x) out:value(x.own) end, mmread = function(inp) return t(inp:value()) end} tarn.remotecall_fetch(2, print, t(1))",
    "NotSerializable: unknown serializer 'own' (version 1): process 1 has it, but it is for a C type: declare it in a module,"
    .. " and require that (docs/serializers.md) (on process 2)" },
  { "tarn.poolset({}, nil, {remake = coroutine.wrap(print)})", "NotSerializable: N a * cannot travel*; make it where it is used" },
  -- what stands for a value
  { "local f = tarn.spawn(tostring, 1) print(f[1])", "ArgumentError: N a Future has no [1]: future:fetch() gives its value" },
  { "local f = tarn.spawn(tostring, 1) print(f:get())", "ArgumentError: N a Future has no 'get': future:fetch() gives its value" },
  { "local f = tarn.spawn(tostring, 1) print(f + 1)", "ArgumentError: N a Future is no number: future:fetch() gives its value" },
  { "local f = tarn.spawn(tostring, 1) print('is ' .. f)", "ArgumentError: N a Future is no text: future:fetch() gives its value" },
  { "local p = tarn.promise(2) print(p:get())", "ArgumentError: N a promise has no 'get': promise:fetch() gives its value" },
  { "local r = tarn.poolset({1}) print(r[1])", "ArgumentError: N a DRef has no '1': ref:get() gives its value" },
  { "local r = tarn.poolset({1}) print(r:fetch())", "ArgumentError: N a DRef has no 'fetch': ref:get() gives its value" },
  { "local r = tarn.poolset({1}) print(#r)", "ArgumentError: N a DRef has no length: ref:get() gives its value" },
  { "local r = tarn.poolset({1}) print(r())", "ArgumentError: N a DRef is no function: ref:get() gives its value" },
  { "local r = tarn.movetodisk(tarn.poolset({1})) print(r.x)", "ArgumentError: N a FileRef has no 'x': ref:get() gives its value" },
  -- what was stored and cannot leave
  { "tarn.movetodisk(tarn.poolset { a = { coroutine.create(print) } })", "NotSerializable: N a coroutine cannot travel:"
    .. " element 1 of field 'a' of object 1:* (a table, stored on process 1); make it where it is used" },
  { "tarn.savetodisk(tarn.poolset { coroutine.create(print) }, '/tmp/x')", "NotSerializable: N a coroutine cannot travel:"
    .. " element 1 of object 1:* (a table, stored on process 1); make it where it is used" },
  { "tarn.remotecall_fetch(2, tarn.poolget, tarn.poolset { coroutine.create(print) })", "NotSerializable: a coroutine cannot travel:"
    .. " element 1 of object 1:* (a table, stored on process 1); make it where it is used (on process 2)*" },
  { "tarn.poolset({ coroutine.create(print) }, nil, { replicas = 1 })", "NotSerializable: N a coroutine cannot travel:"
    .. " element 1 of object 1:* (a table, stored on process 1); make it where it is used" },
  -- the pool
  { "tarn.poolset(1, nil, {destructr = print})", "ArgumentError: N tarn.poolset: unknown option 'destructr'; did you mean 'destructor'?" },
  { "tarn.poolset({}, {remake = print})", "ArgumentError: N tarn.poolset: the second argument is the id of the process that is to own"
    .. " the value (nil: this one); options are the third: tarn.poolset(x, nil, {...})" },
  { "tarn.poolget(tarn.poolset({}), {verfy = true})", "ArgumentError: N tarn.poolget: unknown option 'verfy'; did you mean 'verify'?" },
  { "tarn.poolget(1)", "ArgumentError: N tarn.poolget: a DRef is needed, not 1" },
  { "local r = tarn.poolset({}) tarn.pooldelete(r) tarn.poolget(r)", "KeyError: N no object 1:* (deleted, or dropped under pressure)" },
  { "local a = tarn.array('double', 2) tarn.poolset(a) a[1] = 1",
    "ArgumentError: N the array is sealed: it has been stored; a:copy() gives a writable one" },
  { "tarn.max_memsize('1 XB')", "ArgumentError: N tarn.max_memsize: a size such as 512MB or 1GiB is needed, not the string '1 XB'" },
  { "tarn.addprocs(1, {memory = '4'})", "ArgumentError: N tarn.addprocs: memory: the string '4' is that many bytes:"
    .. " did you mean '4GB'? (1000 bytes is the least without a unit)" },
  { "tarn.movetodisk(tarn.poolset({}), '/no/where')", "IOError: N /no/where: no such directory: No such file or directory" },
  { "tarn.copytodisk(tarn.poolset({}), '/dev/null')", "IOError: N /dev/null: the file must not exist yet: File exists" },
  { "tarn.load('/no/file')", "IOError: N /no/file: cannot open: No such file or directory" },
  { "tarn.load()", "ArgumentError: N tarn.load: a path is needed, not nil" },
  { "tarn.load(arg[0])", "Corrupt: N *driver.lua: file: not a tarn file (first bytes)" },
  { "tarn.load(arg[0], {cod = true})", "ArgumentError: N unknown option 'cod'; there are code and verify" },
  { "tarn.decode('x', {cod = false})", "ArgumentError: N unknown option 'cod'; there are code and verify" },
  { "tarn.save('/tmp/x', tarn.poolset({}))", "NotSerializable: N a DRef cannot be saved in a file: save what it refers to" },
  { "tarn.array('dubble', 3)",
    "ArgumentError: N tarn.array: 'dubble': no type 'dubble' that can be stored (numbers, structs of them, tarn.ctype names)" },
  { "tarn.table{columns = {{'a', 5}}}", "ArgumentError: N tarn.table: column 'a' is 5, not a column or a list" },
  { "tarn.table{columns = {{'a', {1, 'x'}}}}", "ArgumentError: N tarn.table: column 'a': element 2 is 'x', not a number" },
  { "tarn.table{id = {1}}", "ArgumentError: N tarn.table: 'id' is no option: columns go into columns = {{\"name\", column}, ...}" },
  { "tarn.table{{'a', {1}}}", "ArgumentError: N tarn.table: 1 is no option: columns go into columns = {{\"name\", column}, ...}" },
  { "tarn.table{column = {}}", "ArgumentError: N tarn.table: unknown option 'column'; did you mean 'columns'?" },
  { "local t = tarn.table{columns = {{'a', {1}}}} t:join(t, {onn = 'a'})",
    "ArgumentError: N table:join: unknown option 'onn'; did you mean 'on'?" },
  { "tarn.arrow.load('x', {keys = 'a'})", "ArgumentError: N tarn.arrow.load: unknown option 'keys'; did you mean 'key'?" },
  { "local t = tarn.table{columns = {{'a', {1}}, {'b', {2}}}} print(t.c)",
    "ArgumentError: N the table has no method and no column 'c'; there are a, b" },
  { "local t = tarn.table{columns = {{'a', {1}}}} t:groupby('a')",
    "ArgumentError: N the table has no method and no column 'groupby'; there are a" },
  { "local t = tarn.table{columns = {{'a', {1}}}} print(t[1].b)", "ArgumentError: N the row has no column 'b'; there are a" },
  { "local t = tarn.table{columns = {{'a', {1}}}} t:sort('b')", "ArgumentError: N table:sort: there is no column 'b'; there are a" },
  { "local t = tarn.table{columns = {{'a', {1}}}} t:groupreduce('a', {{'n', 'sum', 'b'}})",
    "ArgumentError: N table:groupreduce: there is no column 'b'; there are a" },
  { "tarn.arrow.load(arg[0])", "Corrupt: N */driver.lua: Arrow: neither an Arrow IPC file (feather v2) nor a stream" },
  { "local path = os.tmpname() tarn.arrow.save(path, tarn.table{columns = {{'a', {1}}}}) local ok, e = pcall(tarn.load, path)"
    .. " os.remove(path) error(e, 0)", "Corrupt: N *: file: not a tarn file (first bytes), but an Arrow file: tarn.arrow.load reads it" },
  { "tarn.array('double', {shap = {2, 3}})", "ArgumentError: N tarn.array: 'shap' is no element; beside elements there is shape" },
  { "tarn.dashboard{prot = 80}", "ArgumentError: N tarn.dashboard: unknown option 'prot'; did you mean 'port'?" },
  { "tarn.serializer{name = 'x', type = {}, mmwrite = print, mmread = print, aprox_size = print}",
    "ArgumentError: N tarn.serializer: unknown option 'aprox_size'; did you mean 'approx_size'?" },
  { "tarn.serializer()", "ArgumentError: N tarn.serializer: a table is needed, not nil" },
  { "table.sort({2, 1}, function() tarn.sleep(0) end)", "ArgumentError: N tarn.sleep: Lua cannot suspend here (in a sort comparator,*"
    .. "do it before or after, or start a task for it with tarn.async(fn, ...)" },
  { "tarn.remotecall_fetch(2, function() return io.read() end)",
    "ArgumentError: io.read: a worker has no standard input: read in the driver and pass the data to the job,*" },
}

local function pattern_of(text)
  text = text:gsub("[%p]", "%%%0"):gsub("%f[%w]N%f[^%w]:?", "[^%%s<>]*driver.lua:%%d+:?"):gsub("%%%*", ".*")
  return "^" .. text .. "$"
end

describe("a mistake in a call", function()
  local said = {}

  setup(function()
    local lines = { "local function check(i, f) local ok, e = pcall(f) io.write(i, '\\0', ok and 'no error' or tostring(e), '\\0') end" }
    for i, call in ipairs(CALLS) do lines[#lines + 1] = ("check(%d, function() %s end)"):format(i, call[1]) end
    local result = process.run_script(table.concat(lines, "\n"), { args = { "-p", "1" } })
    assert.equal(0, result.code, result.err)
    for i, text in result.out:gmatch("(%d+)%z(.-)%z") do said[tonumber(i)] = text end
  end)

  for i, call in ipairs(CALLS) do
    it("is told: " .. call[1], function()
      assert.is_truthy(said[i] and said[i]:find(pattern_of(call[2])), ("said %s\nnot  %s"):format(tostring(said[i]), call[2]))
    end)
  end
end)

-- The whole of standard error, and the exit status.
local function run(args, opts)
  local result = process.run_tarn(args, opts)
  return (result.err:gsub("\n$", "")), result.code
end

local function check(status, expected, args, opts)
  local err, code = run(args, opts)
  assert.equal(status, code, err)
  assert.is_truthy(err:find(pattern_of(expected)), err)
end

describe("a mistake in the command line", function()
  it("is one line, and status 2", function()
    check(2, "tarn: cannot open nosuch.lua: No such file or directory", { "nosuch.lua" })
    check(2, "tarn: unknown option '--frob' (tarn -h lists them)", { "--frob" })
    check(2, "tarn: -p: 'x' is not a number of workers", { "-p", "x" })
    check(2, "tarn: -m: '1 XB' is not a size (such as 512MB or 1GiB)", { "-m", "1 XB" })
    check(2, "tarn: -m: '3' is that many bytes: did you mean 3GB? (1000 bytes is the least without a unit)", { "-m", "3" })
    check(0, "", { "-m", "1000", "-e", "" })
    check(2, "tarn: --listen: 'here' is not HOST:PORT", { "--listen", "here", "-e", "" })
    check(2, "tarn: --listen: '127.0.0.1:99999' is not HOST:PORT", { "--listen", "127.0.0.1:99999", "-e", "" })
    check(2, "tarn: --listen: '::1:4000' is not HOST:PORT (an IPv6 address goes in brackets)", { "--listen", "::1:4000", "-e", "" })
    check(2, "tarn: --connect: 'here' is not HOST:PORT", { "--connect", "here" })
  end)

  it("about where to listen, or how much to log, says what to say instead", function()
    local driver = process.start_tarn { "-e", "print((tarn.address())) io.stdout:flush() tarn.sleep(100)" }
    local address = driver:line()
    check(1, ("tarn: cannot listen on %s: address already in use"):format(address), { "--listen", address, "-e", "" })
    driver:destroy()
    check(1, "tarn: cannot listen on 'no.such.invalid:0': *", { "--listen", "no.such.invalid:0", "-e", "" })
    check(0, "tarn: TARN_LOG: 'loud' is no level; there are debug, info, warn, error", { "-e", "" }, { env = { TARN_LOG = "loud" } })
  end)
end)

describe("a script that fails", function()
  local function fails(source, expected, args)
    local cwd = process.tmpdir()
    process.write_file(cwd .. "/driver.lua", source)
    args = args or {}
    args[#args + 1] = "driver.lua"
    check(1, expected, args, { cwd = cwd })
  end

  it("is told with file and line, and a traceback without tarn's own frames", function()
    fails("local x = 1\nlocal y = = 2", "tarn: driver.lua:2: unexpected symbol near '='")
    fails("local function f() error('boom') end\nf()", "tarn: driver.lua:1: boom\nstack traceback:\n\t[C]: in function 'error'\n"
      .. "\tdriver.lua:1: in function 'f'\n\tdriver.lua:2: in main chunk")
    fails("error({ code = 5 })", "tarn: an error that is a table: { code = 5 }\nstack traceback:*driver.lua:1: in main chunk")
    fails("tarn.poolgett(1)", "tarn: driver.lua:1: attempt to call field 'poolgett' (a nil value); did you mean tarn.poolget?\n"
      .. "stack traceback:\n\tdriver.lua:1: in main chunk")
    fails("tarn.remotecall_fetch(2, function() error('there') end)", "tarn: RemoteError: driver.lua:1: there (on process 2)\n"
      .. "process 2, stack traceback:\n\t[C]: in function 'error'\n\tdriver.lua:1: in function <driver.lua:1>\n"
      .. "stack traceback:\n\tdriver.lua:1: in main chunk", { "-p", "1" })
  end)

  it("for lack of room says how to get more", function()
    fails("tarn.array('double', 10)", "tarn: PoolFull: driver.lua:1: the pool is full: * bytes needed, 0 available of max_memsize 1000;"
      .. " what is in use cannot be evicted (-m, memory of addprocs, or tarn.max_memsize() raise it)\n*driver.lua:1: in main chunk",
      { "-m", "1kB" })
    fails("tarn.max_disksize('1kB') for i = 1, 30 do r = tarn.poolset(tarn.array('double', 1e6)) k = { r, k } end",
      "tarn: DiskFull: driver.lua:1: the spill file in */.tarn is full: * bytes needed, * available of max_disksize 1000"
      .. " (disk of addprocs, or tarn.max_disksize() raise it)\n*driver.lua:1: in main chunk", { "-m", "20MB" })
    fails("for i = 1, 30 do r = tarn.poolset(tarn.array('double', 1e6)) k = { r, k } end",
      "tarn: IOError: driver.lua:1: cannot make the spill directory /proc/x (-d, or spill_dir of addprocs, name another):"
      .. " No such file or directory\n*driver.lua:1: in main chunk", { "-m", "20MB", "-d", "/proc/x" })
  end)

  it("for lack of room names an object that cannot make any", function()
    fails("stuck = tarn.poolset({ a = coroutine.create(print), ('x'):rep(9e6) })"
      .. " tarn.poolset(tarn.array('double', 1e6)) tarn.array('double', 2e6)",
      "tarn: PoolFull: driver.lua:1: * bytes needed, * available of max_memsize *; one that cannot be written to disk:"
      .. " a coroutine cannot travel: field 'a' of object 1:1 (a table, stored on process 1); make it where it is used\n*",
      { "-m", "20MB" })
    fails("tarn.poolset({ a = coroutine.create(print), ('x'):rep(9e6) })", "tarn: NotSerializable: driver.lua:1: a coroutine cannot"
      .. " travel: field 'a' of a value that must go to disk, for lack of memory; make it where it is used\n*", { "-m", "5MB" })
  end)

  it("for a host that is not there has the words of ssh", function()
    fails("tarn.addprocs({ 'no.such.invalid' })", "tarn: WorkerLost: tarn.addprocs: no.such.invalid: *")
  end)
end)
