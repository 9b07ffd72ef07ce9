-- The fault proxy: a program that stands between the processes of a cluster (spec/helper/proxy.lua starts it and says how).
--
--   tarn spec/helper/proxy/main.lua ADDRESS-OF-PROCESS-1
--
-- Workers are started with this program's address in place of process 1's. Each tells process 1 where it listens (member.joined,
-- docs/PROTOCOL.md): on the way that port becomes that of a listener here, so whoever connects to the worker comes by too. Who a connection
-- is from stands in its hello. A *link* is a connection with its other half; a *flow* is one direction of it.
--
-- Commands come on standard input, a line each, and are answered by a line. X and Y are process ids, 0 is any; what concerns X Y
-- is the flows from X to Y, on any of their connections, those to come as well:
--
--   delay X Y MS      each piece arrives so much later
--   split X Y         single bytes, each written on its own
--   stall X Y         nothing arrives, no end either, until it is cleared: as with a cable that is cut
--   refuse X          new connections to X are reset, until all is healed
--   stall_bulk X Y    the same of large values alone, on their own connection
--   clear X Y         none of these any more, nor of what follows and has not come to pass; held pieces arrive
--   heal              clear of all
--   cut X Y AFTER     once, both ways, after so many bytes of X's: the connections there are now are reset
--   half X Y AFTER    once, after so many bytes of X's: Y sees the end of them, and X may go on writing to nobody
--   spoil X Y AFTER   once, the byte after so many of X's becomes another
--   links             "FROM:TO:ROLE ..." of those that are open
--   marks             how often MARK has passed, on any of them
--
-- Connections with TLS are passed on unread: they are from 0, of the role "tls", and workers find each other without this program.
local pack = require "spec.helper.pack"
local serve = require "spec.helper.input"
local uv = require "luv"

local HELD_BYTES = 2 ^ 22  -- of a flow: beyond, its source is not read
local SPLIT_BYTES = 1000   -- of a piece; the rest in one
local MARK = "Tarn's mark, which nobody is to read"

local links = {}           -- set
local refusing = {}        -- id -> true
local faults = {}          -- "X Y" -> {delay =, split =, stall =}
local marks = 0
local listen

local function close(handle)
  if not handle:is_closing() then handle:close() end
end

local function reset(tcp)
  if not tcp:is_closing() then tcp:close_reset() end
end

---------------------------------------------------------------------------------------------------- flows

local function fault_of(flow, kind)
  local from, to = flow.from(), flow.to()
  for _, key in ipairs { from .. " " .. to, "0 " .. to, from .. " 0", "0 0" } do
    local value = faults[key] and faults[key][kind]
    if value then return value end
  end
end

local function stalls(flow) return fault_of(flow, "stall") or flow.link.role == "bulk" and fault_of(flow, "stall_bulk") end

local function drop(link, how)
  if not links[link] then return end
  links[link] = nil
  for _, flow in ipairs { link.up, link.down } do
    close(flow.timer)
    flow.queue = {}
  end
  how(link.up.source)
  how(link.down.source)
end

local pump, push

-- One write; it is over when the kernel has it. One that fails is a reset that the other direction brings.
local function write(flow, bytes)
  flow.writing = flow.writing + #bytes
  flow.sink:write(bytes, function(e)
    if not links[flow.link] then return end
    flow.writing = flow.writing - #bytes
    if e then return push(flow.back, "", "reset") end
    pump(flow)
  end)
end

local function finish(flow)
  flow.ended = true
  flow.queue = {}
  flow.sink:shutdown(function()
    if flow.link.up.ended and flow.link.down.ended then drop(flow.link, close) end
  end)
end

-- The action of a cut or half that counts the bytes of this flow; true: the flow is no more.
local function act(flow)
  local kind = flow.action
  flow.action = nil
  if kind == "spoil" then
    flow.spoil = true
    return false
  elseif kind == "cut" then
    drop(flow.link, reset)
  else
    finish(flow)
  end
  return true
end

local function deliver(flow, bytes)
  if flow.action then
    if #bytes >= flow.after then
      if flow.after > 0 then write(flow, bytes:sub(1, flow.after)) end
      if act(flow) then return true end
      bytes = bytes:sub(flow.after + 1)
    else
      flow.after = flow.after - #bytes
    end
  end
  if flow.spoil and bytes ~= "" then
    flow.spoil = nil
    bytes = string.char((bytes:byte() + 1) % 256) .. bytes:sub(2)
  end
  if bytes ~= "" then write(flow, bytes) end
end

local function read(flow)
  local held = flow.writing
  for _, piece in ipairs(flow.queue) do held = held + #piece.bytes end
  local want = held < HELD_BYTES and not flow.over
  if want and not flow.reading then flow.source:read_start(flow.on_read) end
  if not want and flow.reading then flow.source:read_stop() end
  flow.reading = want
end

-- Pass on what is due. Pieces leave in order; one that is split waits for each of its bytes.
function pump(flow)
  if not links[flow.link] then return end
  while flow.queue[1] and not stalls(flow) and not flow.ended do
    local piece, now = flow.queue[1], uv.now()
    if piece.due > now then
      flow.timer:start(piece.due - now, 0, function() pump(flow) end)
      break
    end
    local split = fault_of(flow, "split") and (piece.left or SPLIT_BYTES) > 0 and #piece.bytes > 1
    if split and flow.writing > 0 then break end
    if piece.over then
      table.remove(flow.queue, 1)
      if piece.over == "reset" then return drop(flow.link, reset) end
      return finish(flow)
    elseif split then
      local byte = piece.bytes:sub(1, 1)
      piece.bytes, piece.left = piece.bytes:sub(2), (piece.left or SPLIT_BYTES) - 1
      if deliver(flow, byte) then return end
    else
      table.remove(flow.queue, 1)
      if deliver(flow, piece.bytes) then return end
    end
  end
  read(flow)
end

function push(flow, bytes, over)
  if flow.ended or not links[flow.link] then return end -- nobody hears it
  local due = uv.now() + (fault_of(flow, "delay") or 0)
  local last = flow.queue[#flow.queue]
  if last and last.due > due then due = last.due end
  table.insert(flow.queue, { bytes = bytes, due = due, over = over })
  pump(flow)
end

local function count_marks(flow, bytes)
  bytes = flow.tail .. bytes
  local _, count = bytes:gsub(MARK, "")
  marks = marks + count
  flow.tail = bytes:sub(-#MARK + 1)
end

local function new_flow(link, source, sink, from, to)
  local flow = { link = link, source = source, sink = sink, from = from, to = to, queue = {}, writing = 0, tail = "",
    timer = uv.new_timer() }
  function flow.on_read(e, bytes)
    if not links[link] then return end
    if bytes then
      count_marks(flow, bytes)
      return flow.take(bytes)
    end
    flow.over, flow.reading = true, false
    source:read_stop()
    push(flow, "", e and "reset" or "end")
  end
  function flow.take(bytes) push(flow, bytes) end
  return flow
end

---------------------------------------------------------------------------------------------------- what is read on the way

-- The first byte of a message of tarn's is that of an array.
local function is_tls(bytes) return bytes:byte() >= 0x14 and bytes:byte() <= 0x17 end

-- A flow's messages one by one, until look(message, bytes) says false; it may give other bytes to pass on.
local function look_at(flow, look)
  local bytes = ""
  function flow.take(more)
    if bytes == "" and is_tls(more) then
      flow.link.role = "tls"
      flow.take = function(rest) push(flow, rest) end
      return push(flow, more)
    end
    bytes = bytes .. more
    while bytes ~= "" do
      local message, next_at = pack.read(bytes, 1)
      if not next_at then return end
      local piece = bytes:sub(1, next_at - 1)
      bytes = bytes:sub(next_at)
      local go_on, other = look(message, piece)
      push(flow, other or piece)
      if not go_on then
        flow.take = function(rest) push(flow, rest) end
        if bytes ~= "" then push(flow, bytes) end
        return
      end
    end
  end
end

local function same_length_address(bytes, address, port)
  local from, to = bytes:find(address, 1, true)
  local other = address:gsub("%d+$", tostring(port))
  assert(from and #other == #address, "ports have five digits")
  return bytes:sub(1, from - 1) .. other .. bytes:sub(to + 1)
end

-- hello, prove, and of who joins: member.joined.
local function look_up(link)
  return function(message, bytes)
    if message[3] == "hello" then
      link.from, link.role = message[4][1].id, message[4][1].role
      link.joins = link.from == 0
    elseif message[2] == "member.joined" then
      local address = message[3][1]
      local port = listen(address, function() return link.from end)
      return false, same_length_address(bytes, address, port)
    elseif message[3] == "prove" then
      return link.joins
    end
    return true
  end
end

-- The answers; to who joins, the second has its id.
local function look_down(link)
  return function(message)
    if message[2] ~= 2 then return true end
    if type(message[4]) == "table" then link.from = message[4].your_id end
    return false
  end
end

---------------------------------------------------------------------------------------------------- links

local function host_port(address)
  local host, port = address:match("^(.*):(%d+)$")
  return host, tonumber(port)
end

local function open(from, to, owner)
  local link = { from = 0, role = "?" }
  local function id_from() return link.from end
  link.up = new_flow(link, from, to, id_from, owner)
  link.down = new_flow(link, to, from, owner, id_from)
  link.up.back, link.down.back = link.down, link.up
  link.owner = owner
  links[link] = true
  look_at(link.up, look_up(link))
  look_at(link.down, look_down(link))
  read(link.up)
  read(link.down)
end

-- A listener for the process that owner() names and that listens at address; its port.
function listen(address, owner)
  local server = uv.new_tcp()
  assert(server:bind("127.0.0.1", 0))
  assert(server:listen(128, function()
    local from, to = uv.new_tcp(), uv.new_tcp()
    server:accept(from)
    if refusing[owner()] then return reset(from) end
    from:nodelay(true)
    local host, port = host_port(address)
    to:connect(host, port, function(e)
      if e then
        close(to)
        return reset(from)
      end
      to:nodelay(true)
      open(from, to, owner)
    end)
  end))
  return server:getsockname().port
end

---------------------------------------------------------------------------------------------------- commands

local function each_flow(x, y, fn)
  local all = {}
  for link in pairs(links) do
    for _, flow in ipairs { link.up, link.down } do
      if (x == 0 or flow.from() == x) and (y == 0 or flow.to() == y) then all[#all + 1] = flow end
    end
  end
  for _, flow in ipairs(all) do fn(flow) end
end

local commands = {}

local function set(kind)
  commands[kind] = function(x, y, value)
    local key = x .. " " .. y
    faults[key] = faults[key] or {}
    faults[key][kind] = value or true
  end
end
set "delay"
set "split"
set "stall"
set "stall_bulk"

function commands.clear(x, y)
  faults[x .. " " .. y] = nil
  each_flow(x, y, function(flow)
    flow.action = nil
    pump(flow)
  end)
end

function commands.refuse(x) refusing[x] = true end

function commands.heal()
  faults, refusing = {}, {}
  commands.clear(0, 0)
end

local function once(kind)
  commands[kind] = function(x, y, after)
    each_flow(x, y, function(flow)
      if not links[flow.link] or flow.ended then return end
      flow.action, flow.after = kind, after or 0
      if flow.after == 0 then act(flow) end
    end)
  end
end
once "cut"
once "half"
once "spoil"

function commands.marks() return tostring(marks) end

function commands.links()
  local list = {}
  for link in pairs(links) do list[#list + 1] = ("%d:%d:%s"):format(link.from, link.owner(), link.role) end
  table.sort(list)
  return table.concat(list, " ")
end

local function command(line)
  local verb, x, y, value = line:match("^([%a_]+) ?(%d*) ?(%d*) ?(%d*)$")
  return commands[verb](tonumber(x), tonumber(y), tonumber(value)) or "done"
end

io.stdout:setvbuf("line")
print(listen(arg[1], function() return 1 end))
serve(function(line) print(command(line)) end)
