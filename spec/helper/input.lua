-- For programs that a spec starts: go on until the standard input ends; io.read would keep them from serving.
-- on_line gets each line of it.
local uv = require "luv"

return function(on_line)
  local waiting, text = tarn.async(tarn.sleep, 1e6), "" -- an event would be an object more in the pool
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(_, bytes)
    if not bytes then return waiting:cancel() end
    text = text .. bytes
    for line in text:gmatch "([^\n]*)\n" do
      if on_line then on_line(line) end
    end
    text = text:match "[^\n]*$"
  end)
  waiting:wait()
end
