-- `tarn slurm [sbatch options] script.lua [args...]`: submits a batch job whose driver starts its workers in the job's allocation.
local core = require "tarn.core"
local failure = require "tarn.failure"
local quote = require("tarn.launcher.command").quote
local subprocess = require "tarn.subprocess"
local uv = require "luv"

local sbatch = {}

local function complain(text)
  io.stderr:write("tarn: ", text, "\n")
  return 2
end

-- Where the script is among the words: the first that is no option and names a file, since an option's value may stand apart from it.
local function find_script(words)
  for i, word in ipairs(words) do
    local stat = not word:find("^%-") and uv.fs_stat(word)
    if stat and stat.type == "file" then return i end
  end
end

--- The exit status: that of sbatch, whose "Submitted batch job N" is printed; 2 when nothing was submitted for want of a script.
function sbatch.run(...)
  local words = { ... }
  local at = find_script(words)
  if not at then return complain("tarn slurm: no script: tarn slurm [sbatch options] script.lua [args...]") end
  local argv = { "sbatch", "--job-name=" .. words[at]:match("[^/]+$"), unpack(words, 1, at - 1) }
  local driver = { core.options.exe, "--launcher", "slurm", unpack(words, at) }
  local ok, code, out, err = pcall(subprocess.run, argv, "#!/bin/sh\nexec " .. quote(driver) .. "\n")
  if not ok then return complain("tarn slurm: " .. failure.tostring(code)) end
  io.stdout:write(out)
  io.stderr:write(err)
  return code
end

return sbatch
