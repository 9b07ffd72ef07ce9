-- (path) -> all bytes of that file; or nil, and why not.
return function(path)
  local file, problem = io.open(path, "rb")
  if not file then return nil, problem end
  local text = file:read("*a")
  file:close()
  return text
end
