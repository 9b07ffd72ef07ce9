-- Dask as a peer: a script of Python with a cluster of its own on this machine, a process a worker, one thread each, no limit of memory
-- and no dashboard. It runs in Debian's Python, which is where Debian's packages are.
local peer = require "bench.lib.peer"
local process = require "spec.helper.process"

local dask = {}

local PYTHON = "/usr/bin/python3"

local SCRIPT = [[
import os, sys, time
from dask.distributed import Client, LocalCluster

%s

if __name__ == "__main__":
    with LocalCluster(n_workers=%d, threads_per_worker=1, processes=True, memory_limit=0, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            main(client, *sys.argv[1:])
]]

-- Can Debian's Python import these modules?
local function can_import(modules) return os.execute(("%s -c 'import %s' 2>/dev/null"):format(PYTHON, modules)) == 0 end

-- A function that runs main(client, ...) of this source in Python, once workers are there, with arguments that come as strings, and
-- returns what it printed; nil where there is no Dask. modules: what else it imports ("numpy, pandas").
function dask.script(source, workers, modules)
  if not can_import("dask.distributed" .. (modules and ", " .. modules or "")) then return nil end
  local folder = peer.tmpdir()
  local path = process.write_file(folder .. "/bench.py", SCRIPT:format(source, workers))
  return function(...) return peer.run({ PYTHON, path, ... }, { cwd = folder }) end
end

return dask
