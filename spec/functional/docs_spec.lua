-- The code in README.md and docs/*.md, run. A ```lua block is a driver script of its own; it must succeed without a word on standard
-- error. Where it says `--> text`, those texts are all that it prints, line by line; `...` in one stands for anything.
-- Comments that readers do not see, above a block, say more of it:
--
--   <!-- continues -->            it is the end of a script that the blocks before it began
--   <!-- lua: CODE -->            comes before it in the script
--   <!-- then: CODE -->           comes after it
--   <!-- options: -p 2 -->        options of tarn
--   <!-- file: a/b.lua -->        it is not run but written to a file, for the blocks behind it
--   <!-- elsewhere -->            workers of all launchers are started on this machine
--
-- A ```sh block is read by sh, and every option of tarn and command of ./dev in it must be one.
local lfs = require "lfs"
local process = require "spec.helper.process"

-- Launchers that start workers here, and take the options of the real ones.
local ELSEWHERE = [[
for _, name in ipairs { "ssh", "slurm", "command" } do
  local real = require("tarn.launcher." .. name)
  local here = { options = real.options }
  function here.start(job)
    for _ = 1, job.n do job:spawn { argv = job:command(job.n) } end
  end
  function here.stop(process) process:kill() end
  package.loaded["tarn.launcher." .. name] = here
end
]]

local function documents()
  local list = { "README.md" }
  for name in lfs.dir("docs") do
    if name:find("%.md$") then list[#list + 1] = "docs/" .. name end
  end
  table.sort(list)
  return list
end

-- What a hidden comment says, noted for the block that it stands above.
local function note(block, text)
  local word, rest = text:match("^%s*(%a+):?%s*(.-)%s*$")
  block[word] = rest
end

-- The fenced blocks of a text: {language, text, line, and what is noted}.
local function blocks_of(text)
  local blocks, block, comment, at = {}, { lines = {} }, nil, 0
  for line in (text .. "\n"):gmatch("(.-)\n") do
    at = at + 1
    if block.language then
      if line:find("^```%s*$") then
        block.text = table.concat(block.lines, "\n") .. "\n"
        blocks[#blocks + 1] = block
        block = { lines = {} }
      else
        table.insert(block.lines, line)
      end
    elseif comment then
      comment = comment .. "\n" .. line
      if line:find("%-%->") then
        note(block, comment:match("^(.-)%-%->"))
        comment = nil
      end
    elseif line:find("^<!%-%-") then
      local whole = line:match("^<!%-%-(.-)%-%->")
      if whole then note(block, whole) else comment = line:match("^<!%-%-(.*)$") end
    else
      local language = line:match("^```(.*)$")
      if language then block.language, block.line = language, at elseif line:find("%S") then block = { lines = {} } end
    end
  end
  return blocks
end

local function expected_of(source)
  local list = {}
  for text in source:gmatch("%-%-> ?([^\n]*)") do list[#list + 1] = text end
  return list
end

local function pattern_of(text) return "^" .. text:gsub("%p", "%%%0"):gsub("%%%.%%%.%%%.", ".*") .. "$" end

-- Run a script that one or more blocks make up.
local function run(where, source, options, folder)
  local args = {}
  for word in options:gmatch("%S+") do args[#args + 1] = word end
  local result = process.run_script(source, { args = args, cwd = folder, timeout_s = 60 })
  assert(result.code == 0 and result.err == "", ("%s: exit %s\n%s"):format(where, result.code, result.err))
  local expected, printed = expected_of(source), {}
  if #expected == 0 then return end
  for line in result.out:gmatch("(.-)\n") do printed[#printed + 1] = line end
  for i = 1, math.max(#expected, #printed) do
    local fits = expected[i] and printed[i] and printed[i]:find(pattern_of(expected[i]))
    assert(fits, ("%s: line %d of what is printed is '%s', not '%s'"):format(where, i, printed[i] or "(none)", expected[i] or "(none)"))
  end
end

local function write_file(folder, path, text)
  local at = folder
  for name in path:gmatch("([^/]+)/") do
    at = at .. "/" .. name
    lfs.mkdir(at)
  end
  process.write_file(folder .. "/" .. path, text)
end

local function run_lua(path, blocks)
  local script, options, folder, where
  local function finish()
    if script then run(where, script, options, folder) end
    script = nil
  end
  folder = process.tmpdir()
  for _, block in ipairs(blocks) do
    if block.language == "lua" then
      if block.file then
        write_file(folder, block.file, block.text)
      else
        if not block.continues then
          finish()
          script, options, where = "local tarn = require 'tarn'\n", "", ("%s:%d"):format(path, block.line)
          if block.elsewhere then script = script .. ELSEWHERE end
        end
        options = block.options or options
        script = script .. (block.lua and block.lua .. "\n" or "") .. block.text .. (block["then"] and block["then"] .. "\n" or "")
      end
    end
  end
  finish()
end

local help, usage

local function check_shell(where, text)
  local folder = process.tmpdir()
  local checked = process.run { "/bin/sh", "-n", process.write_file(folder .. "/block.sh", text) }
  assert(checked.code == 0, where .. ": " .. checked.err)
  help = help or process.run_tarn({ "--help" }).out
  usage = usage or process.run({ process.root .. "/dev", "--help" }, { cwd = process.root }).out
  for line in text:gsub("\\\n", " "):gmatch("[^\n]+") do
    local words = line:match("^%s*tarn%s+(.*)$") or line:match("^%s*build/tarn%s+(.*)$") or line:match("|%s*tarn%s+(.*)$")
    local foreign = words and words:find("^slurm")
    for word in (words or ""):gsub("[\"'].-[\"']", "TEXT"):gsub("#.*", ""):gmatch("%S+") do
      if word:find("%.lua$") then break end
      local option = word:match("^(%-%-[%w-]+)") or word:match("^(%-%a)")
      local is = not option or foreign or help:find("[%s]" .. option:gsub("%p", "%%%0") .. "[%s,]")
      assert(is, ("%s: tarn has no option %s"):format(where, option or ""))
    end
    local command = line:match("^%s*%./dev%s+(%l+)")
    assert(not command or usage:find("\n  " .. command .. "%s"), ("%s: there is no ./dev %s"):format(where, command or ""))
  end
end

describe("the code in", function()
  for _, path in ipairs(documents()) do
    local text = process.read_file(path)
    it(path .. " does what it says", function()
      local blocks = blocks_of(text)
      for _, block in ipairs(blocks) do
        local where = ("%s:%d"):format(path, block.line)
        assert(block.language:find("^%l+$"), where .. ": a block of no language")
        if block.language == "sh" then check_shell(where, block.text) end
      end
      run_lua(path, blocks)
    end)

    it(path .. " is fenced, so that it is run", function()
      local fenced, before = false, ""
      local at = 0
      for line in text:gmatch("(.-)\n") do
        at = at + 1
        if line:find("^```") then fenced = not fenced end
        local lua = line:find("^    %S") and (line:find("local ", 1, true) or line:find("tarn%.%l+[%({ ]"))
        assert(fenced or not (lua and before == ""), ("%s:%d: Lua that is not within ```lua"):format(path, at))
        before = line
      end
      assert.is_false(fenced)
    end)
  end
end)

describe("the code in a document", function()
  local function fails(text, what)
    local ok, e = pcall(run_lua, "X.md", blocks_of(text))
    assert.is_false(ok)
    assert.truthy(tostring(e):find(what, 1, true), e)
  end

  it("must print what it says, and succeed", function()
    run_lua("X.md", blocks_of "```lua\nprint(1, 'a b')\n--> 1...b\n```\n")
    fails("```lua\nprint(1) --> 2\n```\n", "X.md:1: line 1 of what is printed is '1', not '2'")
    fails("\n```lua\nprint(1) --> 1\nprint(2)\n```\n", "X.md:2: line 2 of what is printed is '2', not '(none)'")
    fails("```lua\nprint(1)\n--> 1\n--> 2\n```\n", "line 2 of what is printed is '(none)', not '2'")
    fails("```lua\nlocal a = 1\n```\n<!-- continues -->\n```lua\nerror('no ' .. a)\n```\n", "no 1")
    fails("```lua\nio.stderr:write('word')\n```\n", "word")
  end)

  it("must be shell, and name options and commands that there are", function()
    check_shell("X.md:1", "tarn -p 2 --hosts 'a b' x.lua --its-own\n./dev test # all\n")
    for text, what in pairs {
      ["build/tarn --nosuch x.lua"] = "X.md:1: tarn has no option --nosuch",
      ["./dev nosuch"] = "X.md:1: there is no ./dev nosuch",
      ["if true; then"] = "X.md:1: ",
    } do
      local ok, e = pcall(check_shell, "X.md:1", text)
      assert.is_false(ok)
      assert.truthy(tostring(e):find(what, 1, true), e)
    end
  end)
end)
