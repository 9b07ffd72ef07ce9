-- The form of ~/.aws/config and ~/.aws/credentials: [sections] with name = value; lines that are indented below a name without a value are
-- a table of its own.

local function trim(text) return text:match("^%s*(.-)%s*$") end

-- (text) -> section -> name -> value, or a table of such
return function(text)
  local sections, section, nested = {}, nil, nil
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    local header = line:match("^%s*%[([^%]]*)%]")
    local name, value = line:match("^%s*([^=%s][^=]-)%s*=%s*(.-)%s*$")
    local is_comment = line:find("^%s*[#;]")
    if header and not is_comment then
      local title = trim(header):gsub("%s+", " ")
      sections[title] = sections[title] or {}
      section, nested = sections[title], nil
    elseif name and section and not is_comment then
      value = trim((value .. " "):gsub("%s[#;].*$", ""))
      if line:find("^%s") and nested then
        nested[name] = value
      elseif value == "" then
        nested = {}
        section[name] = nested
      else
        section[name], nested = value, nil
      end
    end
  end
  return sections
end
