-- lua/tarn/task.lua by itself: beginning, answering, waking and cancelling tasks.
local task = require "tarn.task"

-- Wait inside the current task until `box.task` is answered; box.cleaned tells that it was cut short.
local function wait(box)
  box.task = task.check("spec")
  return task.wait(function(_, b) b.cleaned = true end, box)
end

describe("a task", function()
  it("is begun soon, and its end is told with its results", function()
    local got
    local function done(_, ...) got = { n = select("#", ...), ... } end
    local t = task.spawn({ done = done }, function(...) return ..., "more" end, 1, nil, 3)
    assert.is_nil(t.ended)
    tarn.sleep(0)
    assert.is_true(t.ended)
    assert.same({ n = 3, true, 1, "more" }, got)
  end)

  it("that fails tells its error, and has a traceback", function()
    local got
    local t = task.spawn({ done = function(_, ...) got = { ... } end }, function() error("x", 0) end)
    tarn.sleep(0)
    assert.same({ false, "x" }, got)
    assert.is_truthy(t.traceback:find("task_spec.lua", 1, true))
  end)

  it("waits until it is woken, and only once", function()
    local box, got = {}, {}
    task.spawn({ done = function() got.done = true end }, function()
      got[1], got[2] = wait(box)
      got[3], got[4] = wait(box)
    end)
    tarn.sleep(0)
    task.wake(box.task, true, "first")
    tarn.sleep(0)
    tarn.sleep(0)
    assert.same({ true, "first" }, got)
    task.wake(box.task, false, "second")
    tarn.sleep(0)
    assert.same({ true, "first", false, "second", done = true }, got)
    assert.is_nil(box.cleaned)
  end)

  it("that is cancelled while it waits cleans up first", function()
    local box, got = {}, nil
    local t = task.spawn({ done = function() end }, function() got = { wait(box) } end)
    tarn.sleep(0)
    task.cancel(t)
    assert.is_true(box.cleaned)
    tarn.sleep(0)
    assert.is_false(got[1])
    assert.is_true(tarn.iserror(got[2], "Cancelled"))
    task.cancel(t) -- it has ended: nothing happens
  end)

  it("that is cancelled after it was woken gets what it was woken with, then Cancelled", function()
    local box, got = {}, {}
    local t = task.spawn({ done = function(_, ok, e) got.ok, got.e = ok, e end }, function()
      got[1], got[2] = wait(box)
      tarn.sleep(0)
    end)
    tarn.sleep(0)
    task.wake(t, true, "value")
    task.cancel(t)
    tarn.sleep(0)
    assert.same({ true, "value" }, { got[1], got[2] })
    assert.is_false(got.ok)
    assert.is_true(tarn.iserror(got.e, "Cancelled"))
  end)

  it("uses the coroutine of one that has ended", function()
    local first, second
    task.spawn({ done = function() end }, function() first = coroutine.running() end)
    tarn.sleep(0)
    task.spawn({ done = function() end }, function() second = coroutine.running() end)
    tarn.sleep(0)
    assert.equal(first, second)
  end)
end)

describe("a timer", function()
  it("fires once, in order of time, and can be stopped at any time", function()
    local fired = {}
    local function note(x) fired[#fired + 1] = x end
    local late = task.timer(0.02, note, "b")
    task.timer(0.005, note, "a")
    local never = task.timer(0.01, note, "never")
    task.stop_timer(never)
    local again = task.timer(0.03, note, "c") -- has the handle of the stopped one
    task.stop_timer(never)
    tarn.sleep(0.06)
    assert.same({ "a", "b", "c" }, fired)
    task.stop_timer(late)
    task.stop_timer(again)
    task.stop_timer(nil)
  end)
end)
