-- What processes say about references (docs/REFERENCES.md, "A connection") when they have several connections, or one of them has
-- broken: a worker, and another that the spec plays, which writes what docs/model/broken.pml has found, in just that order.
local image = require "spec.helper.image"
local pack = require "spec.helper.pack"
local posix = require "spec.helper.posix"
local process = require "spec.helper.process"
local wire = require "spec.helper.wire"
local int, notice = pack.int, pack.notice

local WORKER, OTHER = 2, 3

-- The next notification of that name; what comes before it is passed over. Its parameters.
local function heard(w, method)
  repeat
    local message = w:read()
    assert(message, "the connection was closed")
    if message[1] == 2 and message[2] == method then return message[3] end
  until false
end

-- Run fn(connect, me, driver): connect() gives a connection to the worker, of the process that the spec plays; me is its id; driver(what)
-- makes process 1 do one of these things, and gives what it answers.
--   lose     kill process 3, which holds an object of the worker's
--   number   -> the number of an object of the worker's
--   move     begin to migrate that to process 3
--   state    -> "telling": the worker waits for those who must be told of it; "moved": migrate has returned
-- idle_s: of addprocs.
local function with_worker(fn, idle_s)
  local process_1 = process.start_script(("local idle_s = %g\n"):format(idle_s or 300) .. [[
    local id, other = unpack(tarn.addprocs(2, { silence_s = 60, idle_s = idle_s }))
    tarn.remotecall_fetch(other, function(ref) _G.kept = ref end, tarn.poolset({ 1 }, id))
    local moving, moved = tarn.poolset({ 2 }, id), false
    print(tarn.address())
    print(tarn.secret_file())
    print(tarn.remotecall_fetch(id, tarn.address))
    io.stdout:flush()
    while #tarn.remotecall_fetch(id, tarn.procs) < 4 do tarn.sleep(0.005) end
    local os_pid = tarn.remotecall_fetch(other, function() return require("tarn.core").os_pid() end)
    local uv, commands = require "luv", {}
    function commands.ready() return "it knows" end
    function commands.lose()
      uv.kill(os_pid, "sigkill")
      return "killed"
    end
    function commands.number() return moving:key():match ":(.*)" end
    function commands.move()
      tarn.async(function()
        tarn.migrate(moving, other)
        moved = true
      end)
      return "begun"
    end
    function commands.state()
      while not moved do
        if tarn.remotecall_fetch(id, function(ref) return require("tarn.core").ref_telling(ref) end, moving) then return "telling" end
        tarn.sleep(0.005)
      end
      return "moved"
    end
  ]] .. process.SERVE .. [[(function(name)
    tarn.async(function()
      print(commands[name]())
      io.stdout:flush()
    end)
  end)]])
  local address, path, worker_address = process_1:line(), process_1:line(), process_1:line()
  local secret = wire.secret_of(path)
  local member = wire.join(address, secret)
  local me = member.joined[4]
  member:write(notice("member.joined", pack.str "127.0.0.1:9", int(60000), int(0)))
  local function driver(what)
    process_1:write(what .. "\n")
    return process_1:line()
  end
  assert.equal("it knows", driver "ready")
  local open = { member }
  fn(function()
    local w = wire.connect(worker_address)
    w:hello { id = me.your_id, incarnation = me.your_incarnation, want_id = WORKER }
    assert.equal(2, w:prove(w:proof(secret, "tarn connector"))[2])
    open[#open + 1] = w
    return w
  end, me.your_id, driver)
  for _, w in ipairs(open) do
    if not w.closed then w:close() end
  end
  process_1:close_stdin()
  process_1:wait(10)
  assert.equal(0, process_1.code, process_1.err)
end

local function cut(w)
  w:close()
  w.closed = true
end

-- An image with a reference to that object, and a request to store it; number: it is that transfer.
local function set(msgid, origin, id, number)
  local front = image.front { skeleton = "\192", refs = { { origin, id } } }
  local params = { int(0), pack.bin(front) }
  if number then params[3] = pack.ext(0x21, pack.array(int(number))) end
  return pack.request(msgid, "pool.set", unpack(params))
end

-- The worker passes us a reference, to an object that it stores for us: the transfer's number.
local function passed(w, msgid)
  w:write(pack.request(msgid, "pool.set", int(0), pack.bin "\1"))
  return pack.read(w:answer(msgid)[3].bytes, 1)[1]
end

describe("of a process with several connections", function()
  it("an older refs.sync that comes later, on another, is passed over", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      passed(a, 3) -- what the worker says takes the first
      b:write(notice("refs.sync", int(2)))
      assert.same({ 2 }, heard(a, "refs.held"))
      a:write(notice("refs.sync", int(1)))
      a:write(pack.request(4, "ping"))
      a:answer(4)
      b:write(notice("refs.hold", int(3)))
      assert.same({ 3 }, heard(a, "refs.held"))
    end)
  end)

  it("what it was passed is asked about, when the first that is heard of it is a refs.sync", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      local number = passed(a, 3)
      b:write(notice("refs.sync", int(1)))
      assert.same({ number }, heard(a, "refs.seen"))
      b:write(notice("refs.sync", int(2))) -- what was said in between may have taken a third
      assert.same({ number }, heard(a, "refs.seen"))
    end)
  end)

  it("that changes to another, an answer is waited for once more", function()
    with_worker(function(connect, me)
      local a, b = connect(), connect()
      a:write(notice("refs.hold", int(1)))
      heard(a, "refs.held")
      a:write(set(3, me, 1))
      assert.same({ 1, me, 1, 1 }, heard(a, "refs.hold"))
      b:write(notice("refs.sync", int(2)))
      assert.same({ 2 }, heard(a, "refs.hold"))
    end)
  end)

  it("and does not hear what is said, all is said and asked again", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      local number = passed(a, 3)
      b:write(notice("refs.ask", int(0)))
      assert.same({ 1 }, heard(b, "refs.sync"))
      assert.same({ number }, heard(a, "refs.seen"))
    end)
  end)

  it("one of which breaks, what has taken that is asked about on another", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      b:write(notice("refs.ask", int(0)))
      local on_a, on_b = passed(a, 3), passed(b, 3)
      cut(a)
      assert.same({ on_a }, heard(b, "refs.ask"))
      assert.same({ on_b }, heard(b, "refs.seen"))
    end)
  end)

  it("that has been asked about a loss is asked again", function()
    with_worker(function(connect, _, driver)
      local a, b = connect(), connect()
      passed(a, 3)
      driver "lose"
      local asked = heard(a, "refs.fence")
      b:write(notice("refs.sync", int(1)))
      assert.same(asked, heard(a, "refs.fence"))
    end)
  end)

  it("which hears, its question is answered where it hears", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      passed(a, 3)
      a:write(notice("refs.hold", int(1)))
      heard(a, "refs.held")
      b:write(notice("refs.sync", int(2)) .. notice("refs.ask", int(5)))
      assert.same({ 5 }, heard(a, "refs.done"))
    end)
  end)
end)

local IDLE_S = 0.2

-- The next question of the worker, which has the lower id, whether the connection may be closed: how many messages it has sent, how many
-- have come.
local function asked(w) return heard(w, "member.idle") end

describe("a connection that is idle", function()
  it("is closed when the other has seen the same messages and agrees, not else", function()
    with_worker(function(connect)
      local a = connect()
      a:write(pack.request(3, "ping"))
      a:answer(3)
      assert.same({ 1, 1 }, asked(a))
      a:write(notice("member.rest", int(0))) -- to an earlier question
      a:write(pack.request(4, "ping"))
      a:answer(4)
      assert.same({ 2, 2 }, asked(a))
      a:write(notice("member.rest", int(2)))
      while a:read() do end
      cut(a)
    end, IDLE_S)
  end)

  it("stays when its question is not answered, and is asked about again", function()
    with_worker(function(connect)
      local a = connect()
      assert.same({ 0, 0 }, asked(a))
      assert.same({ 0, 0 }, asked(a))
    end, IDLE_S)
  end)

  it("stays while the worker waits for what became of a reference", function()
    with_worker(function(connect)
      local a = connect()
      local number = passed(a, 3)
      local deadline = posix.now() + 4 * IDLE_S
      repeat -- that it does not ask has no event
        a:write(pack.request(4, "ping", int(0)))
        repeat
          local message = a:read()
          assert.not_equal("member.idle", message[2])
        until message[1] == 1
        posix.poll({}, posix.now() + 3 * IDLE_S)
      until posix.now() > deadline
      a:write(notice("refs.got", int(number)))
      asked(a)
    end, IDLE_S)
  end)

  it("that is gone as agreed leaves what is held; what is said next begins with refs.here", function()
    with_worker(function(connect, me)
      local a = connect()
      a:write(set(3, me, 1, 1)) -- an object of ours, which the worker holds from here on
      local number = pack.read(a:answer(3)[3].bytes, 1)[1]
      a:write(notice("refs.got", int(number)))
      a:write(notice("member.rest", int(asked(a)[1])))
      while a:read() do end
      cut(a)
      local b = connect()
      b:write(set(3, me, 2, 2))
      local here = heard(b, "refs.here")
      assert.equal(1, #here) -- what it held before is not said again, nor is anything asked
      b:write(notice("refs.held", int(here[1])))
      heard(b, "refs.got")
    end, IDLE_S)
  end)
end)

describe("the end of a connection that is idle", function()
  it("is no break: what is passed on another just then is not asked about", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      a:write(notice("refs.got", int(passed(a, 3))))
      a:write(notice("member.rest", int(asked(a)[1])))
      passed(b, 3)
      while a:read() do end
      cut(a)
      local deadline = posix.now() + 0.6 -- a break is asked about after 0.25 s
      repeat
        b:write(pack.request(4, "ping"))
        repeat
          local message = b:read()
          assert.not_equal("refs.seen", message[2])
        until message[1] == 1
        posix.poll({}, posix.now() + 0.05)
      until posix.now() > deadline
    end, IDLE_S)
  end)
end)

describe("refs.here", function()
  it("makes its connection the channel, and takes nothing away that is held", function()
    with_worker(function(connect, _, driver)
      local a, b = connect(), connect()
      local id = tonumber(driver "number")
      a:write(notice("refs.hold", int(1), int(WORKER), int(id), int(1)))
      assert.same({ 1 }, heard(a, "refs.held"))
      b:write(notice("refs.here", int(2)))
      assert.same({ 2 }, heard(a, "refs.held"))
      a:write(notice("refs.here", int(2))) -- not newer than the last: passed over
      a:write(pack.request(3, "ping"))
      a:answer(3)
      b:write(notice("refs.hold", int(4)))
      assert.same({ 4 }, heard(a, "refs.held"))
      driver "move" -- we are told, since we hold it still
      assert.same({ 0, OTHER, WORKER, id, 1 }, heard(a, "refs.moved"))
    end)
  end)
end)

describe("a message with references", function()
  local function is_lost(w, msgid, number)
    w:write(set(msgid, WORKER, 77, number))
    return tarn.decode(w:answer(msgid)[3]).kind == "WorkerLost"
  end
  local function is_stored(w, msgid, number)
    w:write(set(msgid, WORKER, 77, number))
    return w:answer(msgid)[3].ext == 0x21 -- here is a reference
  end

  it("that arrives after its sender was told that it is lost is lost", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      a:write(notice("refs.ask", int(0), int(5)))
      assert.same({ 5 }, heard(a, "refs.done"))
      assert.is_true(is_lost(b, 3, 5))
      assert.is_true(is_stored(b, 4, 6))
    end)
  end)

  it("that arrives on a connection after it was asked about there is lost, and none on another", function()
    with_worker(function(connect)
      local a, b = connect(), connect()
      passed(a, 3)
      b:write(notice("refs.seen", int(5)))
      assert.same({ 5 }, heard(a, "refs.done"))
      assert.is_true(is_stored(a, 4, 4))
      assert.is_true(is_lost(b, 3, 5))
      assert.is_true(is_stored(b, 4, 6))
    end)
  end)
end)

describe("an object that has moved while a connection breaks", function()
  -- The worker, whose object we hold, is to tell us on w that it is at process 3 now: the object's number.
  local function hold_and_move(w, driver)
    local id = tonumber(driver "number")
    w:write(notice("refs.hold", int(1), int(WORKER), int(id), int(1)))
    heard(w, "refs.held")
    driver "move"
    assert.same({ 0, OTHER, WORKER, id, 1 }, heard(w, "refs.moved"))
    return id
  end
  -- In answer to what was said in that round; it has been worked off when this returns.
  local function tell(w, msgid, round, id)
    w:write(notice("refs.told", int(round), int(WORKER), int(id), int(1)) .. pack.request(msgid, "ping"))
    w:answer(msgid)
  end

  it("is told of anew when that was lost, and no answer to what was said before counts", function()
    with_worker(function(connect, _, driver)
      local a, b = connect(), connect()
      local id = hold_and_move(a, driver)
      cut(a)
      b:write(notice("refs.sync", int(2)) .. notice("refs.ask", int(0)))
      heard(b, "refs.sync")
      local told = heard(b, "refs.moved")
      assert.same({ told[1], OTHER, WORKER, id, 1 }, told)
      tell(b, 3, 0, id)
      assert.equal("telling", driver "state")
      b:write(notice("refs.sync", int(3))) -- by now it has seen the end of a
      told = heard(b, "refs.moved")
      tell(b, 4, told[1] - 1, id)
      assert.equal("telling", driver "state")
      tell(b, 5, told[1], id)
      assert.equal("moved", driver "state")
    end)
  end)

  it("is told of anew when the answer may have been lost", function()
    with_worker(function(connect, _, driver)
      local a, b = connect(), connect()
      local id = hold_and_move(a, driver)
      tell(b, 3, 0, id) -- which is not the channel: passed over
      assert.equal("telling", driver "state")
      b:write(notice("refs.sync", int(2)))
      assert.same({ 1, OTHER, WORKER, id, 1 }, heard(a, "refs.moved"))
      tell(b, 4, 1, id)
      assert.equal("moved", driver "state")
    end)
  end)

  it("is understood when each time that it was told of has been answered", function()
    with_worker(function(connect, _, driver)
      local a = connect()
      local id = hold_and_move(a, driver)
      a:write(notice("refs.hold", int(2), int(WORKER), int(id), int(1))) -- it has crossed the other's
      assert.same({ 0, OTHER, WORKER, id, 1 }, heard(a, "refs.moved"))
      tell(a, 3, 0, id)
      assert.equal("telling", driver "state")
      tell(a, 4, 0, id)
      assert.equal("moved", driver "state")
    end)
  end)

  it("is noted, and that is said in answer to each round", function()
    with_worker(function(connect, me)
      local a, b = connect(), connect()
      a:write(set(3, me, 1, 1))
      heard(a, "refs.got")
      a:write(notice("refs.moved", int(6), int(OTHER), int(me), int(1), int(1)))
      assert.same({ 6, me, 1, 1 }, heard(a, "refs.told"))
      cut(a)
      b:write(notice("refs.sync", int(1)) .. notice("refs.ask", int(0))
        .. notice("refs.moved", int(7), int(OTHER), int(me), int(1), int(1)))
      assert.same({ 7, me, 1, 1 }, heard(b, "refs.told"))
    end)
  end)
end)
