-- The cases of bench/tables.lua, ours and with plain Lua tables: each side has a process of its own, since a large Lua heap slows down
-- whoever shares it. Data are the same for both, from one formula, and made when they are first asked for.
local tarn = require "tarn"

local table_cases = { ROWS = 1000000, SMALL = 100000, GROUPS = 1000, LOOKUPS = 100000 }
local ROWS, SMALL, GROUPS, LOOKUPS = table_cases.ROWS, table_cases.SMALL, table_cases.GROUPS, table_cases.LOOKUPS

local kept -- so that nothing is left out as unused

local function group_name(i) return "group " .. i * 31 % GROUPS end

local function ours()
  local id, v, g, text = tarn.array("int32_t", ROWS), tarn.array("double", ROWS), tarn.pooled.builder(), tarn.strings.builder()
  for i = 0, ROWS - 1 do
    id[i + 1], v[i + 1] = i * 7919 % ROWS, i * 0.5
    g:add(group_name(i))
    text:add(("%07d"):format(i))
  end
  local t = tarn.table { columns = { { "id", id }, { "g", g:finish() }, { "v", v } } }
  local other_id, w = tarn.array("int32_t", SMALL), tarn.array("double", SMALL)
  for i = 0, SMALL - 1 do other_id[i + 1], w[i + 1] = i * 10, i * 2 end
  local u = tarn.table { columns = { { "id", other_id }, { "w", w } }, key = "id" }
  local sorted, texts = t:sort("id"), tarn.table { columns = { { "k", text:finish() } }, key = "k" }
  return {
    sort = function() kept = t:sort("id") end,
    groupreduce = function()
      kept = t:groupreduce("g", { { "n", "count" }, { "sum", "sum", "v" }, { "mean", "mean", "v" }, { "max", "max", "v" } })
    end,
    ["join, hashed"] = function() kept = t:join(u, { on = "id" }) end,
    ["join, merged"] = function() kept = sorted:join(u, { on = "id" }) end,
    ["select by a function"] = function() kept = t:select(function(row) return row.v > 250000 end) end,
    ["sum over rows"] = function()
      local sum = 0
      for _, row in ipairs(t) do sum = sum + row.v end
      kept = sum
    end,
    ["lookups by number"] = function()
      for i = 1, LOOKUPS do kept = sorted:lookup(i * 7919 % ROWS).v end
    end,
    ["lookups by text"] = function()
      for i = 1, LOOKUPS do kept = select(2, texts:lookup(("%07d"):format(i * 6007 % ROWS))) end
    end,
  }
end

local function plain()
  local records, others, by_id, by_text = {}, {}, {}, {}
  for i = 0, ROWS - 1 do
    records[i + 1] = { id = i * 7919 % ROWS, g = group_name(i), v = i * 0.5 }
    by_id[i * 7919 % ROWS] = records[i + 1]
    by_text[("%07d"):format(i)] = i + 1
  end
  for i = 0, SMALL - 1 do others[i + 1] = { id = i * 10, w = i * 2 } end
  return {
    sort = function()
      local list = {}
      for i, record in ipairs(records) do list[i] = record end
      table.sort(list, function(a, b) return a.id < b.id end)
      kept = list
    end,
    groupreduce = function()
      local groups = {}
      for _, record in ipairs(records) do
        local group = groups[record.g]
        if not group then
          group = { n = 0, sum = 0, max = record.v }
          groups[record.g] = group
        end
        group.n, group.sum = group.n + 1, group.sum + record.v
        if record.v > group.max then group.max = record.v end
      end
      for _, group in pairs(groups) do group.mean = group.sum / group.n end
      kept = groups
    end,
    ["join, hashed"] = function()
      local index, list = {}, {}
      for _, other in ipairs(others) do index[other.id] = other end
      for _, record in ipairs(records) do
        local other = index[record.id]
        if other then list[#list + 1] = { id = record.id, g = record.g, v = record.v, w = other.w } end
      end
      kept = list
    end,
    ["select by a function"] = function()
      local list = {}
      for _, record in ipairs(records) do
        if record.v > 250000 then list[#list + 1] = record end
      end
      kept = list
    end,
    ["sum over rows"] = function()
      local sum = 0
      for _, record in ipairs(records) do sum = sum + record.v end
      kept = sum
    end,
    ["lookups by number"] = function()
      for i = 1, LOOKUPS do kept = by_id[i * 7919 % ROWS].v end
    end,
    ["lookups by text"] = function()
      for i = 1, LOOKUPS do kept = by_text[("%07d"):format(i * 6007 % ROWS)] end
    end,
  }
end

local sides, made = { ours = ours, plain = plain }, {}

-- How many ms of processor time one run of a case takes here.
function table_cases.ms(side, name)
  made[side] = made[side] or sides[side]()
  kept = nil
  collectgarbage()
  local start = os.clock()
  made[side][name]()
  local ms = (os.clock() - start) * 1e3
  return kept ~= nil and ms or nil
end

return table_cases
