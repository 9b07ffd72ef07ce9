-- tarn top: once, in a terminal, and what it says when it cannot.
local process = require "spec.helper.process"
local watched = require "spec.helper.watched"

describe("tarn top", function()
  it("prints one table of a running cluster", function()
    local w = watched.start(2, "{ memory = '64MB' }", "tarn.remote_do(3, function() while true do end end)")
    local run = process.run_tarn { "top", "--connect", w.address, "--secret-file", w.secret_file, "--once" }
    assert.equal(0, run.code, run.err)
    assert.truthy(run.out:find("tarn %d.- at " .. w.address:gsub("%p", "%%%0") .. ": 3 processes, %d busy; "), run.out)
    assert.truthy(run.out:find "\n%s*ID%s+HOST%s+PID%s+STATE", run.out)
    assert.truthy(run.out:find "\n%s*2%s+%S+%s+%d+%s+idle.-/64M", run.out)
    assert.truthy(run.out:find "\n%s*3%s+%S+%s+%d+%s+busy%s+%d+%%.-/64M", run.out)
    w:stop()
  end)

  it("redraws in place in a terminal, and leaves it as it was", function()
    local w = watched.start(1)
    local command = ("exec %s top %s --secret-file %s --interval 0.1"):format(process.tarn_path, w.address, w.secret_file)
    local top = process.start { "/usr/bin/script", "-qefc", command, "/dev/null" }
    local seen = ""
    repeat seen = seen .. top:line() .. "\n" until select(2, seen:gsub("CONNECTED", "")) >= 4
    top:write "q"
    local ended = top:wait(10)
    assert.equal(0, ended.code)
    assert.truthy(ended.out:find("^%c*\27%[%?1049h"), "it takes another screen")
    assert.is_true(select(2, ended.out:gsub("\27%[H", "")) >= 4, "each picture begins at the first line")
    assert.truthy(ended.out:find "\27%[%?25h\27%[%?1049l%s*$", "cursor and screen are given back")
    w:stop()
  end)

  it("says when the cluster ends", function()
    local w = watched.start(1)
    local top = process.start_tarn { "top", w.address, "--secret-file", w.secret_file, "--interval", "0.1" }
    repeat local line = top:line() until line:find "CONNECTED"
    w:stop()
    local ended = top:wait(10)
    assert.equal(1, ended.code)
    assert.truthy(ended.err:match "^tarn top: 127%.0%.0%.1:%d+ has closed the connection[^\n]*\n$", ended.err)
  end)

  it("says in one line what is wrong", function()
    local w = watched.start(1)
    local other = process.write_file(process.tmpdir() .. "/other", ("0"):rep(64) .. "\n")
    local cases = {
      { 2, "tarn top: --connect HOST:PORT and --secret-file FILE are needed", {} },
      { 2, "tarn top: unknown option '--twice'", { "--twice" } },
      { 1, "tarn top: cannot connect to 127.0.0.1:1: ECONNREFUSED", { "127.0.0.1:1", "--secret-file", w.secret_file } },
      { 1, "tarn top: 'nowhere' is not an address (HOST:PORT)", { "nowhere", "--secret-file", w.secret_file } },
      { 1, "tarn top: the secret file: /no/such: No such file or directory", { w.address, "--secret-file", "/no/such" } },
      { 1, "tarn top: /etc/passwd is no secret file of tarn's", { w.address, "--secret-file", "/etc/passwd" } },
      { 1, "secret", { w.address, "--secret-file", other } },
    }
    for _, case in ipairs(cases) do
      local code, text, args = unpack(case)
      local run = process.run_tarn { "top", "--once", unpack(args) }
      assert.equal(code, run.code, run.err)
      assert.truthy(run.err:find(text, 1, true), run.err)
      assert.equal(1, select(2, run.err:gsub("\n", "")), run.err)
    end
    w:stop()
  end)
end)
