-- `--name value` on a soak's command line, against a table of defaults: numbers stay numbers. Another word ends it with a message.
return function(args, defaults)
  local options = {}
  for name, value in pairs(defaults) do options[name] = value end
  local i = 1
  while args[i] do
    local name = args[i]:match("^%-%-(.+)$")
    local value = args[i + 1]
    if type(defaults[name]) == "number" then value = tonumber(value) end
    if not name or defaults[name] == nil or value == nil then
      io.stderr:write(("%s: unknown option or missing value: %s\n"):format(args[0], args[i]))
      os.exit(2)
    end
    options[name] = value
    i = i + 2
  end
  return options
end
