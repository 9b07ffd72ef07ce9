---@meta tarn
-- For editors. Never run. Made from the annotations in the sources by ./dev docs: change those, not this.

---@class tarn
tarn = {}

---A fixed number of numbers or structs of C. `a[i]` reads, `a[i] = v` writes until it is stored; `#a`, `pairs`, `ipairs`. NaNs are read
---as the ordinary one.
---@class tarn.Array: tarn.Column
---@field kind "array"
---@field ctype string the declaration of an element
---@field shape integer[] the dimensions, as a new list
---@field sealed boolean it has been stored: writing is an error
---@field [integer] any
local Array = {}

---Booleans, a bit each.
---@class tarn.Bits: tarn.Column
---@field kind "bits"
---@field sealed boolean
---@field [integer] boolean
local Bits = {}

---@class tarn.Event
---@field ref tarn.DRef what holds it
local Event = {}

---The result of a job or of a local task, there or yet to come. It may travel, inside other values too.
---@class tarn.Future
local Future = {}

---What the `start` of a launcher of one's own is handed. docs/LAUNCHERS.md has the contract.
---@class tarn.Job
---@field n integer how many workers
---@field hosts {name:string,n:integer}[]|nil where
---@field options table the launcher's own options, checked
---@field env table<string,string>|nil variables to set
---@field timeout_s number the time for all of it
local Job = {}

---What job:spawn has started.
---@class tarn.JobProcess
---@field number integer by which the driver knows it
---@field os_pid integer
---@field label string|nil
---@field kill fun(self:tarn.JobProcess) end it at once, and what it has started here
local JobProcess = {}

---@class tarn.MapOptions
---@field workers? integer[] ids of the processes that work. Default: all workers
---@field batch? integer items that are sent at a time. Default: about a millisecond's worth
---@field retries? integer how often an item is tried elsewhere after its worker was lost. Default: 0
---@field progress? boolean|fun(done:integer,total:integer?) true: show how far it is, on standard error
---@field on_error? fun(err:any,item:any):any gives what stands in for the result of an item that failed
local MapOptions = {}

---An array, or bits, of which some elements may be missing: nil.
---@class tarn.Nullable: tarn.Column
---@field kind "nullable"
---@field values tarn.Array|tarn.Bits what is beneath, on the same bytes
---@field bits tarn.Bits true where there is a value
---@field ctype string the declaration of an element, or "bits"
---@field sealed boolean
---@field [integer] any
local Nullable = {}

---Values of which few are distinct, strings or numbers: codes, and each value once.
---@class tarn.Pooled: tarn.Column
---@field kind "pooled"
---@field codes tarn.Array from 0
---@field values tarn.Strings|tarn.Array the distinct values
---@field [integer] any
local Pooled = {}

---@class tarn.PooledBuilder
local PooledBuilder = {}

---@class tarn.ProcsOptions
---@field memory? integer|string memory for data of each worker, in bytes or as "512MB". Default: as -m says, else a share of what its
--- machine has
---@field disk? integer|string bytes that each worker may spill. Default: no bound
---@field spill_dir? string where spilled bytes live. Default: as -d says
---@field launcher? string|table "local", "ssh", "slurm", "command", another `tarn.launcher.NAME`, or a table with `start` and `stop`
---@field listen? string where the workers listen, ADDR:PORT. Default: loopback, or the address by which they reach the driver
---@field respawn? boolean a worker that is lost is replaced by a new one, with a new id
---@field env? table<string,string> environment variables to set
---@field init? string|function run on each worker before addprocs returns
---@field silence_s? number unheard for so many seconds is lost. Default: 5
---@field idle_s? number a connection between two workers that is not used for so many seconds is closed, until it is needed again.
--- Default: 300
---@field map? boolean false: never map another process's memory, copy over TCP. Default: as --no-map says
---@field tls? boolean true: encrypt all connections; false: none. Alike for all workers. Default: --tls, --no-tls, else between machines
---@field partial? boolean do without workers that cannot be started, and tell which as a second result
---@field connect_timeout_s? number all must be ready within it. Default: 30, for Slurm 600
---@field tarn? string the program there. Default: the path that it has here
local ProcsOptions = {}

---@class tarn.Promise
---@field ref tarn.DRef what holds it
local Promise = {}

---A row of a table. Its fields have the names of the columns; a name that is none's is an error. `row()` is a plain table, which can
---travel.
---@class tarn.Row
---@field [string] any
local Row = {}

---@class tarn.Serializer
---@field name string
---@field version? integer Default: 1. Of two the higher counts; of two contents of one version the later
---@field type? table|ffi.ctype* the metatable or ctype of the values
---@field matches? fun(x:any):boolean instead of `type`
---@field approx_size? fun(x:any):number what a value counts for in the pool, in bytes
---@field mmwrite fun(out:tarn.Writer,x:any) says what the value consists of
---@field mmread fun(inp:tarn.Reader):any makes it again. Neither may suspend
local Serializer = {}

---@class tarn.SetOptions
---@field size? integer|string what the value is to count for, in bytes or as "4MB". Default: tarn.approx_size
---@field destroyonevict? boolean under pressure it is dropped, not spilled; then reading it is a KeyError
---@field destructor? fun(key:string) called once on the owner when the object is gone; at an orderly exit too, not after a crash
---@field remake? fun():any gives the value anew when it was dropped, or lost with its owner; once, however many ask. It must not need the
--- object itself
---@field replicas? integer so many copies on other processes. A survivor becomes the owner when that is lost, and the copies are made up
--- again
local SetOptions = {}

---Strings, of which some may be missing: offsets, and one blob with all the bytes. A Lua string is made only for an element that is asked
---for.
---@class tarn.Strings: tarn.Column
---@field kind "strings"
---@field [integer] string
local Strings = {}

---@class tarn.StringsBuilder
local StringsBuilder = {}

---Named columns of one length, with rows in the order of a key. `#t`, `t[i]`, `pairs`, `ipairs`: rows. `t.name`: a column. It never
---changes.
---@class tarn.Table
---@field columns table[] {{name, column}, ...}
---@field key string[]
---@field [integer] tarn.Row
---@field [string] tarn.Column
local Table = {}

---Run fn(value, ...) on the owner of an object: work where the data are.
---@param fn fun(value:any,...):any
---@param ref tarn.DRef
---@param ... any
---@return any ... fn's results
function tarn.access(fn, ref, ...) end

---Start workers and wait until all are ready. On the driver only. `where` is how many, or a list of hosts such as {"alpha*4",
---"user@beta"}, where they
---are started by ssh. docs/LAUNCHERS.md has the launchers, and the options that each of them adds to these.
---Errors: ArgumentError; WorkerLost with the words of what could not be started; Timeout. Those that had started are then stopped.
---@param where integer|string[] how many workers, or on which hosts
---@param opts? tarn.ProcsOptions
---@return integer[] ids in the order of the hosts
---@return table[]|nil missing with `partial` only: what could not be started, {host, workers, message} each
function tarn.addprocs(where, opts) end

---What a value counts for in the pool: exactly the elements' bytes for arrays and other columns.
---@param x any
---@return number bytes
function tarn.approx_size(x) end

---A new array. Zero-filled, unless it is made of something; it counts against the process's memory at once. May suspend; no room: PoolFull or DiskFull.
---@class tarn.array_module
---@overload fun(declaration: string, x: integer|table|tarn.Array): tarn.Array
tarn.array = {}

---Is x an array?
---@param x any
---@return boolean is
function tarn.array.is(x) end

---The dimensions of an array, as a new list.
---@param a tarn.Array
---@return integer[] shape
function tarn.array.shape(a) end

tarn.arrow = {}

---A table from an Arrow file, or from a stream in a file. Large buffers are mapped, not copied, where there is one record batch. The
---columns are sealed. The file must
---stay as it is while the table is in use: replace it by another (as save does), do not write into it. What is wrong with it: Corrupt.
---@param path string
---@param opts? {columns:string[]?,key:(string|string[])?} the columns that are wanted, and the key. Default: all, and the key that it was
--- saved with
---@return tarn.Table table
function tarn.arrow.load(path, opts) end

---Write a table to an Arrow IPC file, or replace one: the old file or the new one, never half. The key is kept with it.
---@param path string
---@param t tarn.Table
function tarn.arrow.save(path, t) end

---Iterate over Futures in the order in which they become ready: `for future in tarn.as_completed(list) do`.
---@param list tarn.Future[]
---@return fun():tarn.Future? iterator
function tarn.as_completed(list) end

---Start fn(...) as a task of this process.
---@param fn function
---@param ... any
---@return tarn.Future future
function tarn.async(fn, ...) end

---A new column of booleans, a bit each.
---@class tarn.bits_module
---@overload fun(x: integer|boolean[]|tarn.Bits): tarn.Bits
tarn.bits = {}

---Is x bits?
---@param x any
---@return boolean is
function tarn.bits.is(x) end

---Delete every object of this process, and what was spilled of them. The pool stays usable.
function tarn.cleanup() end

---The same, and the object stays in memory.
---@param ref tarn.DRef
---@param path? string
---@return tarn.FileRef fileref
function tarn.copytodisk(ref, path) end

---Name a struct, so that tarn.array(name, n) and other declarations can use it. The declaration travels with the data. Pointers are refused.
---@class tarn.ctype_module
---@overload fun(name: string, declaration: string): ffi.ctype*
tarn.ctype = {}

---Serve a web page on 127.0.0.1 that shows what the cluster does, until this process ends. A second call gives the address of the first.
---See docs/OPERATIONS.md. Suspends; raises IOError when libmicrohttpd is missing, or the port is taken.
---@param opts? { port?: integer } port: 0, the default, is any that is free
---@return string url with a token: who has it may look, and do nothing else
function tarn.dashboard(opts) end

---Remove such a file, on the object's owner.
---@param ref tarn.DRef
---@param path string|tarn.FileRef
function tarn.deletefromdisk(ref, path) end

---Say what becomes of an object under pressure.
---@param ref tarn.DRef
---@param flag boolean true: it is dropped; false: it is spilled
function tarn.destroyonevict(ref, flag) end

---A one-shot event. It may travel, and any process may notify it, look at it and wait for it.
---@param pid? integer the process that owns it. Default: this one
---@return tarn.Event event
function tarn.event(pid) end

---Run a function, or a text of Lua, on every process, the driver included. Fails if any failed: the error's `failures` has all of them
---by id.
---@param fn function|string
---@param ... any
---@return table<integer,any> results the first result of each process, by its id
function tarn.everywhere(fn, ...) end

---What x stands for: a Future's results, a DRef's or FileRef's value, anything else as it is.
---@param x any
---@param ... any for a Future, timeout_s; for a FileRef, the options of poolget
---@return any ...
function tarn.fetch(x, ...) end

---Is e an error of tarn's, and of that kind if one is given?
---@param e any
---@param kind? tarn.ErrorKind
---@return boolean is
function tarn.iserror(e, kind) end

---The value in a saved file, mapped: the file must stay as it is while the value is in use. From `s3://bucket/key` it is read into this
---process's memory, within its budget and verified; that suspends. Errors: IOError, Corrupt, PoolFull, DiskFull.
---@param path string a path, file:// or s3://
---@param opts? {code:boolean?,verify:boolean?} code: it may hold functions; verify: check all of a large file first
---@return any value
function tarn.load(path, opts) end

---One line on standard error: time, process, level, text. Shown from the level on that TARN_LOG names (warn).
---@param level "debug"|"info"|"warn"|"error"
---@param fmt any a format as for string.format, or any value
---@param ... any
function tarn.log(level, fmt, ...) end

---The DRef that was published under a name.
---@param name string
---@return tarn.DRef|nil ref
function tarn.lookup(name) end

---The bytes that a process may spill. With n, set it first.
---@param n? number|string bytes, or "10GB"; math.huge: no bound
---@param pid? integer Default: this process
---@return number bytes math.huge: no bound
function tarn.max_disksize(n, pid) end

---The memory that a process may use for data. With n, set it first; what does not fit any more is spilled.
---@param n? integer|string bytes, or "512MB"
---@param pid? integer Default: this process
---@return number bytes
function tarn.max_memsize(n, pid) end

---Make a process the owner of an object. References stay equal and keep their `key()`; their `owner` is current: when this returns,
---every holder
---has been told. Errors: WorkerLost, or PoolFull where it is to go; then it stays where it is.
---@param ref tarn.DRef
---@param pid integer
function tarn.migrate(ref, pid) end

---Write an object to disk and release its memory; reading it maps it back. With a path: a new file, which is the user's and is never
---deleted by tarn. Without:
---into the spill file; the FileRef then holds the object as a DRef does. Errors: IOError (the file exists, for one), DiskFull.
---@param ref tarn.DRef
---@param path? string on the owner's machine
---@return tarn.FileRef fileref
function tarn.movetodisk(ref, path) end

---How many processes there are, the driver included.
---@return integer count
function tarn.nprocs() end

---A new column whose elements may be missing.
---@class tarn.nullable_module
---@overload fun(values: tarn.Array|tarn.Bits|string, validity?: tarn.Bits|boolean[]|integer|table): tarn.Nullable
tarn.nullable = {}

---Is x a nullable column?
---@param x any
---@return boolean is
function tarn.nullable.is(x) end

---How many workers there are.
---@return integer count
function tarn.nworkers() end

---Have fn(id) called here for each worker that joins, or fn(id, reason) for each that is lost. Each call is a task of its own.
---@param event "joined"|"lost"
---@param fn fun(id:integer,reason:string?) the reason is a text such as "killed by signal 9, perhaps out of memory" or "silent for 5 s"
function tarn.on(event, fn) end

---What its machine calls a process: the number that ps, kill and a debugger want. A process that is not there is an ArgumentError.
---@param pid? integer the process. Default: this one
---@return integer os_pid
function tarn.os_pid(pid) end

---Call fn(item) for every item of a list, on workers as they come free, and return the first results in their order; the field `n` is
---their count.
---Without workers the driver does it. The first error is raised and the rest is cancelled, unless there is `on_error`.
---@param fn fun(item:any):any
---@param list table|function|tarn.Column a list, a column, or an iterator of items
---@param opts? tarn.MapOptions
---@return table results
function tarn.pmap(fn, list, opts) end

---Forget an object and what was spilled of it. One that is unknown is no error. Views that were got stay readable. Of a FileRef: what
---has been read of the file
---here; the file stays.
---@param ref tarn.DRef|tarn.FileRef
function tarn.pooldelete(ref) end

---Forget many objects, up to 512 to a message.
---@param list tarn.DRef[]
function tarn.pooldelete_all(list) end

---A column of values of which few are distinct: small codes, and each value once. It never changes.
---@class tarn.pooled_module
---@overload fun(x: table|tarn.Column): tarn.Pooled
tarn.pooled = {}

---Build a pooled column one value after another.
---@return tarn.PooledBuilder builder
function tarn.pooled.builder() end

---Is x a pooled column?
---@param x any
---@return boolean is
function tarn.pooled.is(x) end

---The value of a DRef or FileRef. On the owner and in memory: the same object. Spilled: mapped, not copied. Elsewhere: large blocks
---are mapped on the same machine,
---sent over TCP from another; a plain table is a fresh copy each time. Deleted or dropped: KeyError. An owner that is lost: WorkerLost.
---@param ref tarn.DRef|tarn.FileRef
---@param opts? {code:boolean?,verify:boolean?} for a FileRef. code: the file may hold functions; verify: check all of a large file first
---@return any value
function tarn.poolget(ref, opts) end

---The values of many DRefs. Small ones come up to 512 to a message.
---@param list tarn.DRef[]
---@return table values in the same order; the field n is their count
function tarn.poolget_all(list) end

---Store a value in the pool of a process. Here: the value itself is kept, and typed values are sealed. Elsewhere: a copy is sent, and
---x stays writable.
---No room: PoolFull or DiskFull, with `needed` and `available`; nothing that was stored is lost.
---@param x any
---@param pid? integer the process that is to own it. Default: this one
---@param opts? tarn.SetOptions
---@return tarn.DRef ref when the last DRef to it anywhere is gone, so is the object
function tarn.poolset(x, pid, opts) end

---Store every item of a list: all are under way at once, small ones up to 512 to a message.
---@param list table with a field n if items may be nil
---@param pid? integer Default: this process
---@return tarn.DRef[] refs
function tarn.poolset_all(list, pid) end

---The figures of a process's pool.
---@param pid? integer Default: this process
---@return tarn.Stats stats
function tarn.poolstats(pid) end

---The ids of all processes, sorted. The driver is 1.
---@return integer[] ids
function tarn.procs() end

---A value that is put once, by any process, and fetched by any.
---@param pid? integer the process that keeps it. Default: this one
---@return tarn.Promise promise
function tarn.promise(pid) end

---Make a DRef known under a name to the whole cluster. The object is held until the name is published anew, or as nil.
---@param name string
---@param ref tarn.DRef|nil
function tarn.publish(name, ref) end

---Start fn(...) on a process and forget it. An error of fn is logged there.
---@param pid integer
---@param fn function
---@param ... any
function tarn.remote_do(pid, fn, ...) end

---Start fn(...) on a process, without waiting. The results stay there until they are fetched; dropping the Future frees them.
---@param pid integer
---@param fn function
---@param ... any
---@return tarn.Future future
function tarn.remotecall(pid, fn, ...) end

---Run fn(...) on a process and wait for its results. An error of fn is raised here: one of tarn's keeps its kind, any other is a
---RemoteError with the
---original as `cause`. A process that is lost meanwhile: WorkerLost. What cannot travel: NotSerializable, which names the path to it.
---@param pid integer the process; this one too
---@param fn function its upvalues travel by value, modules by name; the driver's globals do not
---@param ... any its arguments; a DRef travels as a reference
---@return any ... fn's results
function tarn.remotecall_fetch(pid, fn, ...) end

---Stop workers and wait until they are gone. What they own is lost, unless it was migrated. On the driver only.
---@param ... integer their ids
function tarn.rmprocs(...) end

---Write a value to a file, or replace one: the old file or the new one, never half. DRefs and Futures cannot be saved. To
---`s3://bucket/key`, an object in a store (docs/STORES.md), it suspends. Errors: IOError, DiskFull, NotSerializable.
---@param path string a path, file:// or s3://
---@param x any
function tarn.save(path, x) end

---Write an object to a file of the user's own, or replace one: the old file or the new one, never half. The pool does not notice. To
---`s3://bucket/key`, an object in a store, the owner writes it with its own environment's keys (docs/STORES.md).
---@param ref tarn.DRef
---@param path string on the owner's machine; or s3://
---@return tarn.FileRef fileref
function tarn.savetodisk(ref, path) end

---Declare how values of a type become plain values and raw blocks, and come back. See docs/serializers.md. Declared again, the new one counts from then on.
---@class tarn.serializer_module
---@overload fun(spec: tarn.Serializer): tarn.Serializer
tarn.serializer = {}

---A pause of this task; others go on. 0: let others run once.
---@param seconds? number default: 0
function tarn.sleep(seconds) end

---Start fn(...) where most bytes of its DRef arguments live, else on the least busy worker. fn gets the DRefs themselves.
---@param fn function
---@param ... any
---@return tarn.Future future
function tarn.spawn(fn, ...) end

---A new column of strings from a list of them. It never changes.
---@class tarn.strings_module
---@overload fun(list: table|tarn.Strings): tarn.Strings
tarn.strings = {}

---Build a column of strings one after another, their number and sizes not known yet.
---@return tarn.StringsBuilder builder
function tarn.strings.builder() end

---A column of what an iterator gives, one string a turn: tarn.strings.from(io.lines(path)).
---@param iterator function|table|tarn.Strings
---@param state? any as for a generic `for`
---@param control? any
---@return tarn.Strings strings
function tarn.strings.from(iterator, state, control) end

---Is x a column of strings?
---@param x any
---@return boolean is
function tarn.strings.is(x) end

---A new table: named columns of one length, rows in the order of a key. Columns are shared, not copied, unless the rows have to be sorted.
---@class tarn.table_module
---@overload fun(spec: {columns:table,key:(string|string[])?}): tarn.Table
tarn.table = {}

---Is x a tarn table?
---@param x any
---@return boolean is
function tarn.table.is(x) end

---fn's results, or a Timeout error after so many seconds; fn is then cancelled.
---@param seconds number
---@param fn function
---@param ... any
---@return any ... fn's results
function tarn.timeout(seconds, fn, ...) end

---The objects into which a file has been read, anywhere in the cluster.
---@param x tarn.FileRef|string or a path of this machine, or s3://
---@return tarn.DRef[] refs
function tarn.who_has_read(x) end

---The ids of all workers, sorted.
---@return integer[] ids
function tarn.workers() end

---@class tarn.Column
local Column = {}

---Rows in the order of their elements, stable. A composite key is sorted by its last column first: a:argsort(b:argsort()).
---@param rows? integer[]|tarn.Array Default: all
---@param down? boolean the largest first; missing ones stay last
---@return tarn.Array rows of uint32_t
function Column:argsort(rows, down) end

---Element i beside element j of another column of the same kind: -1, 0 or 1. Missing ones are last.
---@param i integer
---@param j integer
---@param other? tarn.Column Default: this one
---@return integer order
function Column:compare(i, j, other) end

---Is element i that value? nil: is it missing, or outside?
---@param i integer
---@param value any
---@return boolean equal
function Column:eq(i, value) end

---The first index of a value; nil looks for a missing one.
---@param value any
---@param from? integer Default: 1
---@return integer|nil index
function Column:find(value, from) end

---Number the groups of equal elements, from 1 in order of appearance.
---@param codes? tarn.Array from another column's group: groups within those groups
---@return tarn.Array codes the number of each row's group, of uint32_t
---@return tarn.Array first the first row of each group
function Column:group(codes) end

---In a column that is sorted between i and j: the first index whose element is not below value, else j + 1.
---@param value any
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return integer index
function Column:lower(value, i, j) end

---Are the elements in order?
---@return boolean sorted
function Column:sorted() end

---A new column of the elements at those rows.
---@param rows integer[]|tarn.Array
---@return tarn.Column column of the same kind
function Column:take(rows) end

---All elements in a Lua table, with n where some may be missing.
---@return table list
function Column:totable() end

---The same, of the first element above value.
---@param value any
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return integer index
function Column:upper(value, i, j) end

---Is there a value? False where it is missing, and outside.
---@param i integer
---@return boolean valid
function Column:valid(i) end

---How many elements are not missing.
---@return integer count
function Column:valid_count() end

---Bits that share this column's bytes, true where there is a value; nil when none can be missing.
---@return tarn.Bits|nil bits
function Column:validity() end

---Ask for the job to be given up. It gets a Cancelled error when it next suspends; one that computes is not interrupted.
---@return boolean asked false if it was ready already
function Future:cancel() end

---Wait for the results and return them; raise the job's error if it has failed. May be called more than once. Not ready in time: Timeout.
---@param timeout_s? number
---@return any ... the results
function Future:fetch(timeout_s) end

---Is it there, or has it failed?
---@return boolean ready
function Future:ready() end

---Wait until it is ready. Raises no error of the job's.
---@param timeout_s? number default: for as long as it takes
---@return boolean ready false after timeout_s without
function Future:wait(timeout_s) end

---Has it been set? An owner that is lost: WorkerLost.
---@return boolean isset
function Event:isset() end

---Set it, and wake all who wait. Once is enough, more does no harm.
function Event:notify() end

---Wait until it is set. An owner that is lost: WorkerLost.
---@param timeout_s? number
---@return boolean isset false after timeout_s without
function Event:wait(timeout_s) end

---Wait for the value. Not there in time: Timeout. An owner that is lost: WorkerLost.
---@param timeout_s? number
---@return any value
function Promise:fetch(timeout_s) end

---Give it its value. A second put is ignored.
---@param x any
---@return boolean taken false if it had a value already
function Promise:put(x) end

---Has it a value? An owner that is lost: WorkerLost.
---@return boolean ready
function Promise:ready() end

---The element at indices i, j, ...; nil where one of them is outside.
---@param i integer
---@param j? integer
---@param ... integer
---@return any element
function Array:at(i, j, ...) end

---A writable copy.
---@return tarn.Array array
function Array:copy() end

---A pointer to the first element, 0-based; const when sealed. Valid while the array is reachable, else until the next tarn call of the
---task.
---@return ffi.cdata* pointer
function Array:ptr() end

---Write the element at indices i, j, ...
---@param value any
---@param ... integer the indices
function Array:put(value, ...) end

---The same bytes in another shape.
---@param shape integer[]
---@return tarn.Array array
function Array:reshape(shape) end

---Part i of the first dimension, as an array of the other dimensions on the same bytes: a:row(2)[3] is a:at(2, 3).
---@param i integer
---@return tarn.Array array
function Array:row(i) end

---Elements i to j as an array of their own on the same bytes: what one writes the other reads.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Array array
function Array:slice(i, j) end

---Sort the elements themselves. Not of arrays of structs.
---@param down? boolean the largest first
---@return tarn.Array self
function Array:sort(down) end

---Are all true?
---@return boolean all
function Bits:all() end

---Is any true?
---@return boolean any
function Bits:any() end

---A writable copy.
---@return tarn.Bits bits
function Bits:copy() end

---How many are true.
---@return integer count
function Bits:count() end

---Set all, or those from i to j.
---@param value boolean
---@param i? integer Default: 1
---@param j? integer Default: the last
---@return tarn.Bits self
function Bits:fill(value, i, j) end

---The first index whose element is value.
---@param value? boolean Default: true
---@param from? integer Default: 1
---@return integer|nil index
function Bits:find(value, from) end

---A pointer to the byte that has element 1. Valid while the bits are reachable; const when sealed.
---@return ffi.cdata* pointer
---@return integer bit which of its bits that is, 0 to 7
function Bits:ptr() end

---Bits i to j as bits of their own on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Bits bits
function Bits:slice(i, j) end

---The indices of those that are true: what column:take wants.
---@return tarn.Array rows of uint32_t
function Bits:which() end

---The bytes themselves, as Arrow has them.
---@return ffi.cdata* offsets one more than there are elements; the first need not be 0
---@return integer width of an offset in bytes: 4 or 8
---@return ffi.cdata* blob what they count in
---@return integer size of the blob in bytes
function Strings:buffers() end

---A copy, in blocks that hold nothing else.
---@return tarn.Strings strings
function Strings:copy() end

---Is element i within the column, but missing?
---@param i integer
---@return boolean missing
function Strings:missing(i) end

---The bytes of element i, without making a string; nil where it is missing. Valid while the column is reachable.
---@param i integer
---@return ffi.cdata*|nil pointer
---@return integer|nil size in bytes
function Strings:ptr(i) end

---Elements i to j as a column of their own on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Strings strings
function Strings:slice(i, j) end

---A writable copy.
---@return tarn.Nullable nullable
function Nullable:copy() end

---Elements i to j on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Nullable nullable
function Nullable:slice(i, j) end

---The code of a value, from 0; nil where no element can have it.
---@param value any
---@return integer|nil code
function Pooled:code(value) end

---A copy; the values are shared.
---@return tarn.Pooled pooled
function Pooled:copy() end

---Elements i to j on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Pooled pooled
function Pooled:slice(i, j) end

---The column of that name, also where the table has something else under it.
---@param name string
---@return tarn.Column column
function Table:column(name) end

---One row for each group of rows that agree in the columns `by`, which become the key. Missing values are passed over, and what no
---value led to is missing.
---@param by string|string[] names; an empty list: all rows are one group
---@param what table|function a list of {name, "count"|"sum"|"mean"|"min"|"max", column} (count without a column counts rows), and of
--- {name, function(so_far, value), column, init = the first so_far}, without a column function(so_far, row). A function alone: the answer
--- is called "value"
---@param init? any for a function alone
---@return tarn.Table table
function Table:groupreduce(by, what, init) end

---Rows of this table beside those of another that agree in some columns; a missing value agrees with nothing. First this table's
---columns, then the other's without those
---in `on`; one whose name is taken is called name_right.
---@param other tarn.Table
---@param opts {on:string|table,how:string?} on: names, or {name here, name there}. how: "inner" (the default): rows that have a
--- counterpart; "left": all of this table; "outer": those of the other too, in the order of `on`; "anti": the rows of this table that have
--- none
---@return tarn.Table table
function Table:join(other, opts) end

---The first row with that key, or whose key begins so. Makes no strings.
---@param value any of the first column of the key
---@param ... any of the next ones
---@return tarn.Row|nil row
---@return integer|nil index
function Table:lookup(value, ...) end

---The rows from key lo to key hi, both included, as a table on the same bytes. A bound is a value, or a list of the first values of
---the key.
---@param lo any nil: no bound
---@param hi any nil: no bound; rows whose key begins with hi are included
---@return tarn.Table table
function Table:range(lo, hi) end

---Rows one after another: for i, row in t:rows() do.
---@return function iterator
---@return tarn.Table table
---@return integer start
function Table:rows() end

---Some columns, shared: t:select("a", "b") or t:select{"a", "b"}. Or some rows, copied: those for which a function is true, or whose
---bit is.
---@param what string|string[]|tarn.Bits|fun(row:tarn.Row):boolean
---@param ... string further names
---@return tarn.Table table
function Table:select(what, ...) end

---Rows i to j as a table on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Table table
function Table:slice(i, j) end

---The rows in another order, which becomes the key, unless a column goes down. Rows that are equal stay as they were.
---@param by string|table a name, or a list of names and of {name, down = true}
---@return tarn.Table table
function Table:sort(by) end

---All rows as plain tables.
---@return table[] rows
function Table:totable() end

---One more element.
---@param text string|nil nil: a missing one
function StringsBuilder:add(text) end

---Raw bytes as one more element.
---@param pointer ffi.cdata*|string
---@param size integer in bytes
function StringsBuilder:add_bytes(pointer, size) end

---The column. The builder is empty again after it.
---@return tarn.Strings strings
function StringsBuilder:finish() end

---One more element: strings alone, or numbers alone.
---@param value string|number|nil nil: a missing one
function PooledBuilder:add(value) end

---The column. The builder is empty again after it.
---@return tarn.Pooled pooled
function PooledBuilder:finish() end

---@class tarn.Writer
local Writer = {}

---Write raw bytes as a block: others map it, aligned to 64. They are copied: the pointer need not stay valid.
---@param pointer ffi.cdata*|string a pointer, array or struct, or a string
---@param nbytes? integer default: all, which a pointer does not tell
function Writer:block(pointer, nbytes) end

---@class tarn.Reader
local Reader = {}

---The next block, mapped. It stays so while the value that mmread returns is reachable, or the pointer itself.
---@param ctype? any the type of its elements. Default: uint8_t
---@return ffi.cdata* pointer to the first element, 0-based
---@return integer count of elements
function Reader:block(ctype) end

---The command of a worker.
---@param share? integer how many workers its machine will have: the default of their memory depends on it
---@return string[] argv
function Job:command(share) end

---These workers will not come. With `partial` the others go on, else addprocs fails.
---@param label string the host
---@param workers integer how many
---@param why any an error, or a text
function Job:fail(label, workers, why) end

---The address of this process for workers elsewhere, which see this machine as ip. It listens there from now on, if it did not yet.
---@param ip string
---@return string address HOST:PORT
function Job:reach(ip) end

---The address of this process for workers on a host: that of this machine on the way there. May suspend.
---@param host string a name or an address
---@return string address HOST:PORT
---@return boolean loopback true: the way stays on this machine
function Job:route(host) end

---Start a program of this machine that is a worker, or that carries its standard streams to workers elsewhere. Its standard input gets
---the first line (address and
---secret) and is held open.
---@param what tarn.JobSpawn
---@return tarn.JobProcess process
function Job:spawn(what) end

return tarn
