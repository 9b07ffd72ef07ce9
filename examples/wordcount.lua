-- The words of any files, counted:  tarn -p 4 examples/wordcount.lua [-n HOW_MANY] FILE...
--
-- Files are cut into pieces; workers count the words of one at a time, and the driver adds up. The functions that a job uses are its
-- upvalues and travel with it.
local tarn = require "tarn"

local PIECE_BYTES = 4e6
local LETTERS = "[%w\128-\255]" -- every byte of a letter that is not ASCII's

-- The bytes of the words that begin in a piece. One that goes on behind it is read to its end; one that began before is not ours.
local function words_of(piece)
  local file = assert(io.open(piece.path, "rb"))
  local from = math.max(piece.from - 1, 0)
  file:seek("set", from)
  local text = file:read(piece.to - from) or ""
  if piece.from > 0 then text = text:match("[^%w\128-\255](.*)$") or "" end
  local goes_on = text:find(LETTERS .. "$")
  while goes_on do
    local more = file:read(256) or ""
    local rest = more:match("^" .. LETTERS .. "*")
    text, goes_on = text .. rest, #rest == 256
  end
  file:close()
  return text
end

local function count(piece) -- on a worker
  local counts = {}
  for word in words_of(piece):gmatch(LETTERS .. "+") do
    word = word:lower()
    counts[word] = (counts[word] or 0) + 1
  end
  return counts
end

local function pieces_of(path, pieces)
  local file = assert(io.open(path, "rb"))
  local size = assert(file:seek("end"))
  file:close()
  for from = 0, size - 1, PIECE_BYTES do pieces[#pieces + 1] = { path = path, from = from, to = math.min(from + PIECE_BYTES, size) } end
end

local how_many, first = 10, 1
if arg[1] == "-n" then how_many, first = assert(tonumber(arg[2]), "-n is followed by a number"), 3 end
assert(arg[first], "usage: tarn -p 4 examples/wordcount.lua [-n HOW_MANY] FILE...")

local pieces = {}
for i = first, #arg do pieces_of(arg[i], pieces) end
local totals, words, all = {}, {}, 0
for _, counts in ipairs(tarn.pmap(count, pieces)) do
  for word, n in pairs(counts) do
    if not totals[word] then words[#words + 1] = word end
    totals[word] = (totals[word] or 0) + n
    all = all + n
  end
end
table.sort(words, function(a, b)
  if totals[a] ~= totals[b] then return totals[a] > totals[b] end
  return a < b
end)
for i = 1, math.min(how_many, #words) do print(("%8d  %s"):format(totals[words[i]], words[i])) end
print(("%d words, %d of them different, in %d pieces"):format(all, #words, #pieces))
