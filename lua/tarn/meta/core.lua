---@meta
-- What C implements, and what is made of no function, annotated: for editors and for docs/API.md. Never run. The rest of what editors
-- read stands beside it in tarn.lua, which is made from the annotations in the sources: ./dev docs.

---@class tarn
---@field version string of the program
tarn = {}

---@alias tarn.ErrorKind
---| "KeyError" # no such object: deleted, or dropped under pressure
---| "WorkerLost" # a process that is lost, or was lost meanwhile
---| "RemoteError" # an error that is none of tarn's, raised on another process; `cause` is what was raised
---| "Timeout"
---| "Cancelled"
---| "PoolFull" # no room in memory, with nothing to spill: `needed`, `available`
---| "DiskFull" # the same of the disk, and `path`
---| "IOError" # a file or a connection; `path`
---| "Corrupt" # bytes that are not what was written
---| "NotSerializable" # what cannot travel; the message names the path to it
---| "AuthError" # a peer that does not know the secret
---| "ProtocolError" # a peer that speaks otherwise, or another version
---| "ArgumentError" # what the caller has given is wrong

---Every error that tarn raises. `tostring` gives one readable text.
---@class tarn.Error
---@field kind tarn.ErrorKind
---@field message string
---@field pid? integer the process on which it was raised, or which is lost
---@field traceback? string there
---@field path? string the file that it is about
---@field bucket? string the same of an object in a store (docs/STORES.md)
---@field key? string
---@field status? integer of HTTP, that the store answered
---@field code? string what the store calls it, "NoSuchKey"; or "ConnectionFailed", "Silent", "BadConfiguration", "WrongReply", "Changed"
---@field needed? number bytes
---@field available? number bytes
---@field cause? any what was raised, of a RemoteError

---The id of this process: 1 is the driver.
---@return integer id
function tarn.myid() end

---Where this process listens: HOST:PORT.
---@return string address
function tarn.address() end

---The path of a file that only its owner can read, with the cluster's secret in one line: for programs from outside. Made at the first
---call.
---@return string path
function tarn.secret_file() end

---A value as bytes: its image, without a file header. Ordinary MessagePack, unless its first byte is 0xC1, which says that it has blocks.
---A DRef in it does not keep its object alive. What cannot be written: NotSerializable.
---@param x any
---@return string bytes
function tarn.encode(x) end

---The value of such bytes. Functions are bytecode: only for bytes that you trust. What is wrong with them: Corrupt.
---@param bytes string
---@param opts? {code:boolean?} code = false refuses functions
---@return any value
function tarn.decode(bytes, opts) end

---A reference to an object of a pool. It travels; the object is freed when the last one anywhere is gone. Equal ones are `==` and print
---alike.
---@class tarn.DRef
---@field owner integer the process that owns the object now
---@field id integer its number where it was made
---@field size number what it counts for, in bytes
local DRef = {}

---tarn.poolget.
---@return any value
function DRef:get() end

---tarn.pooldelete.
function DRef:delete() end

---A string that is the same for equal references, for use as a table's key.
---@return string key
function DRef:key() end

---A reference to what was written to disk: to a file on a host, to an object in a store, or without a path to an object in a spill file.
---@class tarn.FileRef
---@field host? string the machine that has the file; nil of an object in a store, which any process may read
---@field path? string of the file; s3://bucket/key
---@field size number in bytes
local FileRef = {}

---tarn.poolget.
---@param opts? {code:boolean?,verify:boolean?}
---@return any value
function FileRef:get(opts) end

---tarn.pooldelete.
function FileRef:delete() end

---A string that is the same for equal references, for use as a table's key.
---@return string key
function FileRef:key() end

---What arrays, bits, strings, nullable and pooled columns have in common. They lie outside the Lua heap and are mapped, not parsed. `#c`,
---`c[i]` (nil where one is missing, and outside), `pairs` and `ipairs` over all, missing ones too. Order: numbers by value, NaN behind
---them; strings by bytes; false, true; missing ones last.
---@class tarn.Column
---@field kind "array"|"bits"|"strings"|"nullable"|"pooled"
local Column = {}

---A copy, writable if the kind is (strings and pooled never are).
---@return tarn.Column column
function Column:copy() end

---Elements i to j as a column of their own on the same bytes.
---@param i integer
---@param j? integer Default: the last
---@return tarn.Column column
function Column:slice(i, j) end

---A number; equal elements have equal ones, whatever kinds of column they are in. Makes no string.
---@param i integer
---@return number|nil hash nil where it is missing
function Column:hash(i) end

---Element i beside a value: -1, 0 or 1.
---@param i integer
---@param value any
---@return integer order
function Column:order(i, value) end

---The bytes of the elements, with offsets, bits and distinct values: tarn.approx_size(c).
---@return number bytes
function Column:nbytes() end

---What a serializer's mmwrite is handed.
---@class tarn.Writer
local Writer = {}

---Write any value.
---@param x any
function Writer:value(x) end

---The same: a value of a type that has a serializer of its own is written by that.
---@param x any
function Writer:write(x) end

---What a serializer's mmread is handed: it reads in the order in which mmwrite wrote.
---@class tarn.Reader
---@field version integer of the serializer that wrote the value
local Reader = {}

---The next value.
---@return any value
function Reader:value() end

---The same as value.
---@return any value
function Reader:read() end

---Is there another value?
---@return boolean more
function Reader:more() end

---@package
function Reader:trusted() end

---What a process's pool has done and holds. Bytes unless it says otherwise.
---@class tarn.Stats
---@field objects number how many
---@field live_bytes number of plain Lua values, by tarn.approx_size
---@field resident_bytes number of blocks in memory
---@field inflight_bytes number of messages under way
---@field lent_bytes number that other processes have mapped
---@field borrowed_bytes number that are mapped of other processes
---@field spilled_bytes number of objects that are on disk
---@field disk_bytes number that the spill file takes
---@field lua_bytes number of the Lua heap, not counted against max_memsize
---@field max_memsize number
---@field max_disksize number
---@field sets number how many
---@field gets number how many
---@field deletes number how many
---@field evictions number how many
---@field spill_written_bytes number in all
---@field mapped_back_bytes number read back from the spill file by mapping, in all
---@field mapped_in_bytes number read from other processes by mapping, in all
---@field mapped_in_count number how often
---@field tcp_in_bytes number in all
---@field tcp_out_bytes number in all

---@class tarn.JobSpawn
---@field argv string[] the program and its arguments
---@field label? string stands before its output, and names it in errors
---@field workers? integer how many will join through it. Default: 1
---@field address? string of this process, as they see it: what job:reach or job:route gave. Default: for this machine
---@field env? table<string,string> Default: the job's
---@field on_exit? fun(process:tarn.JobProcess) called once when it has ended
