-- Four workers, a budget well below the data, one question: how late are flights, by origin and by route?
--
--   tarn examples/flights.lua [FILE] [--workers N] [--memory SIZE] [--repeat N] [--min-flights N]
--
-- FILE is a CSV with the columns date, delay, distance, origin and destination (in any order, others are ignored). Each
-- worker reads its share of the lines into columns, chunk by chunk, and puts them into its pool, which spills what does not fit its
-- budget. Then every worker answers for chunks that *other* workers hold: it gets their columns by reference and reads them in place.
local tarn = require "tarn"
local ffi = require "ffi"

local COLUMNS = { "date", "delay", "distance", "origin", "destination" }
local ROW_BYTES = 4 + 4 + 4 + (4 + 3) + (4 + 3) -- three int32, two codes of three letters with their offsets
local LOADED_BYTES = 64 * 2 ^ 20               -- a small file is loaded as often as it takes to make this much
local PIECE_BYTES = 2 ^ 20                     -- what a worker reads from the file at a time

---------------------------------------------------------------------------------------------------- command line

local function fail(status, fmt, ...)
  io.stderr:write("flights: ", fmt:format(...), "\n")
  os.exit(status)
end

local function positive(name, text)
  local n = tonumber(text)
  if not n or n < 1 or n % 1 ~= 0 then fail(2, "--%s wants a whole number above 0, not '%s'", name, tostring(text)) end
  return n
end

local function options(args)
  local here = args[0]:match("^(.*)/[^/]*$") or "."
  local o = { file = nil, workers = 4, min_flights = 10 }
  local i = 1
  while args[i] do
    local name = args[i]:match("^%-%-(.+)$")
    if not name then
      if o.file then fail(2, "one file at a time: '%s' is the second", args[i]) end
      o.file = args[i]
      i = i + 1
    else
      local value = args[i + 1]
      if name == "workers" then
        o.workers = positive(name, value)
      elseif name == "repeat" then
        o.copies = positive(name, value)
      elseif name == "min-flights" then
        o.min_flights = positive(name, value)
      elseif name == "memory" and value then
        o.memory = value
      else
        fail(2, "unknown option or missing value: '%s'", args[i])
      end
      i = i + 2
    end
  end
  o.file = o.file or here .. "/data/flights-20k.csv"
  return o
end

---------------------------------------------------------------------------------------------------- the file, seen from the driver

-- Cut the file at ends of lines into pieces of about PIECE_BYTES: {first (offset), size, line (number of its first line)}. Also
-- gives the header's columns, and the count of rows. One pass; only newlines are looked at.
local function survey(path)
  local file, problem = io.open(path, "rb")
  if not file then fail(1, "cannot open %s", problem) end
  local header = file:read("*l")
  if not header then fail(1, "%s: line 1, column '%s': the file is empty", path, COLUMNS[1]) end

  local names, place = {}, {}
  for name in (header:gsub("^\239\187\191", ""):gsub("\r$", "") .. ","):gmatch("([^,]*),") do
    names[#names + 1] = name:match('^"(.*)"$') or name
    place[names[#names]] = #names
  end
  for _, name in ipairs(COLUMNS) do
    if not place[name] then
      fail(1, "%s: line 1, column '%s': missing; the header has: %s", path, name, table.concat(names, ", "))
    end
  end

  local pieces, first, line, rows = {}, #header + 1, 2, 0
  while true do
    file:seek("set", first)
    local bytes = file:read(PIECE_BYTES)
    if not bytes then break end
    local rest = file:read("*L") -- up to the end of a line
    if rest then bytes = bytes .. rest end
    local size = #bytes
    if not file:read(0) then bytes = bytes:match("^(.-)%s*$") .. "\n" end -- blank lines at the very end do not count
    local lines, at = 0, 0
    while true do
      at = bytes:find("\n", at + 1, true)
      if not at then break end
      lines = lines + 1
    end
    if #bytes > 1 then
      pieces[#pieces + 1] = { first = first, size = math.min(size, #bytes), line = line }
      rows = rows + lines
    end
    first, line = first + size, line + lines
  end
  file:close()
  if rows == 0 then fail(1, "%s: line 2, column '%s': there are no flights after the header", path, COLUMNS[1]) end
  return { path = path, place = place, width = #names, pieces = pieces, rows = rows }
end

---------------------------------------------------------------------------------------------------- loading, on the workers

-- Days from 1970-01-01, Gregorian.
local function days(y, m, d)
  if m <= 2 then y = y - 1 end
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * (m + (m > 2 and -3 or 9)) + 2) / 5) + d - 1
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end

-- The number of two digits at p[at], below 0 when it is none.
local function two(p, at)
  local a, b = p[at] - 48, p[at + 1] - 48
  if a < 0 or a > 9 or b < 0 or b > 9 then return -1 end
  return a * 10 + b
end

-- Minutes from 1970 of "2001/01/01 00:47" or "2001-01-01 00:47:00" at p[from..to), nil when it is neither.
local function minutes(p, from, to)
  local size = to - from
  if size ~= 16 and size ~= 19 then return nil end
  local century, year, month, day = two(p, from), two(p, from + 2), two(p, from + 5), two(p, from + 8)
  local hour, minute = two(p, from + 11), two(p, from + 14)
  local mark = p[from + 4]
  if (mark ~= 47 and mark ~= 45) or p[from + 7] ~= mark or p[from + 10] ~= 32 or p[from + 13] ~= 58 then return nil end
  if size == 19 and (p[from + 16] ~= 58 or two(p, from + 17) < 0) then return nil end
  if century < 0 or year < 0 or month < 1 or month > 12 or day < 1 or day > 31 or hour < 0 or hour > 23
    or minute < 0 or minute > 59 then
    return nil
  end
  return days(century * 100 + year, month, day) * 1440 + hour * 60 + minute
end

-- The whole number at p[from..to), nil when it is none.
local function integer(p, from, to)
  local at, sign, n = from, 1, 0
  if p[at] == 45 then at, sign = at + 1, -1 end
  if at == to or to - at > 9 then return nil end
  for i = at, to - 1 do
    local digit = p[i] - 48
    if digit < 0 or digit > 9 then return nil end
    n = n * 10 + digit
  end
  return sign * n
end

-- Read this worker's pieces (a list of indices into file.pieces, with repetitions) into columns of chunk_rows rows each, and put them
-- into the pool. Returns a list of chunks {rows, bytes, date = DRef, ...}, or nil and {line, text} for a line that cannot be read.
local function load_share(file, share, chunk_rows)
  local input = assert(io.open(file.path, "rb"))
  local place, width = file.place, file.width
  local date_at, delay_at, distance_at = place.date, place.delay, place.distance
  local origin_at, destination_at = place.origin, place.destination
  local dates, delays = ffi.new("int32_t[?]", chunk_rows), ffi.new("int32_t[?]", chunk_rows)
  local distances = ffi.new("int32_t[?]", chunk_rows)
  local origins, destinations = {}, {}
  local chunks, rows = {}, 0

  local function numbers(from)
    local column = tarn.array("int32_t", rows)
    ffi.copy(column:ptr(), from, rows * 4)
    return tarn.poolset(column)
  end
  local function texts(from)
    from.n = rows
    for i = #from, rows + 1, -1 do from[i] = nil end
    return tarn.poolset(tarn.strings(from))
  end
  local function put_chunk()
    if rows == 0 then return end
    local chunk = { rows = rows, date = numbers(dates), delay = numbers(delays), distance = numbers(distances),
      origin = texts(origins), destination = texts(destinations) }
    chunk.bytes = 0
    for _, name in ipairs(COLUMNS) do chunk.bytes = chunk.bytes + chunk[name].size end
    chunks[#chunks + 1] = chunk
    rows = 0
  end

  local starts, stops = ffi.new("int32_t[?]", width + 1), ffi.new("int32_t[?]", width + 1)
  -- One line from p[at] on, into row number `rows`: where the next one starts, or nil, the column's index and what is wrong.
  local function read_line(p, at, size)
    local column = 1
    starts[1] = at
    while true do
      local byte = at < size and p[at] or 10
      if byte == 44 or byte == 10 then
        if column <= width then stops[column] = at end
        if byte == 10 then break end
        column = column + 1
        if column <= width then starts[column] = at + 1 end
      end
      at = at + 1
    end
    if column > width then return nil, width, ("the line has %d fields, the header %d"):format(column, width) end
    if at > 0 and p[at - 1] == 13 and stops[column] > starts[column] then stops[column] = stops[column] - 1 end
    if column < width then return nil, column + 1, ("the line ends after %d of %d columns"):format(column, width) end
    local date = minutes(p, starts[date_at], stops[date_at])
    if not date then return nil, date_at, "not a date" end
    local delay = integer(p, starts[delay_at], stops[delay_at])
    if not delay then return nil, delay_at, "not a whole number" end
    local distance = integer(p, starts[distance_at], stops[distance_at])
    if not distance then return nil, distance_at, "not a whole number" end
    dates[rows], delays[rows], distances[rows] = date, delay, distance
    rows = rows + 1
    origins[rows] = ffi.string(p + starts[origin_at], stops[origin_at] - starts[origin_at])
    destinations[rows] = ffi.string(p + starts[destination_at], stops[destination_at] - starts[destination_at])
    return at + 1
  end

  local function explain(column, what, p, line)
    for name, index in pairs(place) do
      if index == column then
        if what:match("^not") then
          what = ("%s: '%s'"):format(what, ffi.string(p + starts[column], math.min(40, stops[column] - starts[column])))
        end
        return { line = line, text = ("line %d, column '%s': %s"):format(line, name, what) }
      end
    end
  end

  for _, index in ipairs(share) do
    local piece = file.pieces[index]
    input:seek("set", piece.first)
    local bytes = input:read(piece.size)
    local p, at, line = ffi.cast("const uint8_t *", bytes), 0, piece.line
    while at < #bytes do
      local after, column, what = read_line(p, at, #bytes)
      if not after then
        input:close()
        return nil, explain(column, what, p, line)
      end
      at, line = after, line + 1
      if rows == chunk_rows then put_chunk() end
    end
  end
  put_chunk()
  input:close()
  return chunks
end

---------------------------------------------------------------------------------------------------- the questions, on the workers

-- By origin: {[origin] = {flights, sum of delays, sum of distances}}; and the first and last minute.
local function by_origin(chunks)
  local sums, first, last = {}, math.huge, -math.huge
  for _, chunk in ipairs(chunks) do
    local origin, date = tarn.poolget(chunk.origin), tarn.poolget(chunk.date)
    local delay, distance = tarn.poolget(chunk.delay), tarn.poolget(chunk.distance)
    for i = 1, chunk.rows do
      local name, minute = origin[i], date[i]
      local sum = sums[name]
      if not sum then
        sum = { 0, 0, 0 }
        sums[name] = sum
      end
      sum[1], sum[2], sum[3] = sum[1] + 1, sum[2] + delay[i], sum[3] + distance[i]
      if minute < first then first = minute end
      if minute > last then last = minute end
    end
  end
  return { sums = sums, first = first, last = last }
end

-- By route: {[origin] = {[destination] = {flights, sum of delays}}}.
local function by_route(chunks)
  local sums = {}
  for _, chunk in ipairs(chunks) do
    local origin, destination, delay = tarn.poolget(chunk.origin), tarn.poolget(chunk.destination), tarn.poolget(chunk.delay)
    for i = 1, chunk.rows do
      local from, to = origin[i], destination[i]
      local row = sums[from]
      if not row then
        row = {}
        sums[from] = row
      end
      local sum = row[to]
      if not sum then
        sum = { 0, 0 }
        row[to] = sum
      end
      sum[1], sum[2] = sum[1] + 1, sum[2] + delay[i]
    end
  end
  return sums
end

---------------------------------------------------------------------------------------------------- the driver

local function add(into, from)
  for i, n in ipairs(from) do into[i] = (into[i] or 0) + n end
end

-- Run job on every worker, each with the chunks of the worker `shift` places on: never its own, where there are two workers or more.
local function ask_others(job, workers, chunks_of, shift)
  local futures = {}
  for i, id in ipairs(workers) do
    local owner = workers[(i - 1 + shift) % #workers + 1]
    futures[i] = tarn.remotecall(id, job, chunks_of[owner])
  end
  local results = {}
  for i, future in ipairs(futures) do results[i] = future:fetch() end
  return results
end

-- Print rows of texts in columns: the first to the left, the others to the right.
local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, text in ipairs(row) do cells[i] = ("%" .. (i == 1 and "-" or "") .. widths[i] .. "s"):format(text) end
    print((table.concat(cells, "  "):gsub("%s+$", "")))
  end
end

local function megabytes(bytes) return ("%.1f MB"):format(bytes / 1e6) end

local function date_text(minute)
  return os.date("!%Y-%m-%d", minute * 60)
end

local function print_origins(results, copies)
  local totals, names, first, last = {}, {}, math.huge, -math.huge
  for _, result in ipairs(results) do
    for name, sum in pairs(result.sums) do
      if not totals[name] then
        totals[name] = {}
        names[#names + 1] = name
      end
      add(totals[name], sum)
    end
    first, last = math.min(first, result.first), math.max(last, result.last)
  end
  table.sort(names, function(a, b)
    if totals[a][1] ~= totals[b][1] then return totals[a][1] > totals[b][1] end
    return a < b
  end)
  local rows, flights = { { "origin", "flights", "mean delay", "mean distance" } }, 0
  for _, name in ipairs(names) do
    local n, delay, distance = unpack(totals[name])
    rows[#rows + 1] = { name, ("%d"):format(n / copies), ("%.2f"):format(delay / n), ("%.2f"):format(distance / n) }
    flights = flights + n / copies
  end
  print()
  print_table(rows)
  print(("\n%d flights from %d origins, %s to %s"):format(flights, #names, date_text(first), date_text(last)))
end

local function print_routes(results, copies, min_flights)
  local totals, routes = {}, {}
  for _, result in ipairs(results) do
    for from, row in pairs(result) do
      for to, sum in pairs(row) do
        local name = from .. " to " .. to
        if not totals[name] then
          totals[name] = {}
          routes[#routes + 1] = name
        end
        add(totals[name], sum)
      end
    end
  end
  local candidates = {}
  for _, name in ipairs(routes) do
    local n, delay = unpack(totals[name])
    if n / copies >= min_flights then candidates[#candidates + 1] = { name = name, flights = n / copies, delay = delay / n } end
  end
  table.sort(candidates, function(a, b)
    if a.delay ~= b.delay then return a.delay > b.delay end
    return a.name < b.name
  end)
  local rows = { { "worst routes", "flights", "mean delay" } }
  for i = 1, math.min(10, #candidates) do
    local c = candidates[i]
    rows[#rows + 1] = { c.name, ("%d"):format(c.flights), ("%.2f"):format(c.delay) }
  end
  print()
  print_table(rows)
  print(("(of %d routes with %d flights or more)"):format(#candidates, min_flights))
end

local function print_pool(workers, chunks_of)
  local rows = { { "pool", "budget", "objects", "set", "spilled", "mapped back", "mapped in", "over TCP" } }
  local sum = {}
  local function row(name, budget, figures)
    local cells = { name, budget, ("%d"):format(figures[1]) }
    for i = 2, #figures do cells[#cells + 1] = megabytes(figures[i]) end
    rows[#rows + 1] = cells
  end
  for _, id in ipairs(workers) do
    local stats, set = tarn.poolstats(id), 0
    for _, chunk in ipairs(chunks_of[id]) do set = set + chunk.bytes end
    local figures = { stats.objects, set, stats.spill_written_bytes, stats.mapped_back_bytes, stats.mapped_in_bytes,
      stats.tcp_in_bytes }
    row("worker " .. id, megabytes(stats.max_memsize), figures)
    add(sum, figures)
  end
  row("all", "", sum)
  print()
  print_table(rows)
end

-- What a worker may hold: a third of its share of the data, so that most of it must go to disk; and the rows of a chunk, so
-- that a column is a small part of that.
local function start_workers(o, loaded_bytes)
  local memory = o.memory or math.max(2e6, math.floor(loaded_bytes / o.workers / 3))
  local ok, workers = pcall(tarn.addprocs, o.workers, { memory = memory })
  if not ok then
    if tarn.iserror(workers, "ArgumentError") then fail(2, "%s", workers.message) end
    error(workers, 0)
  end
  local budget = tarn.max_memsize(nil, workers[1])
  local chunk_rows = 65536
  while chunk_rows > 4096 and chunk_rows * ROW_BYTES > budget / 6 do chunk_rows = chunk_rows / 2 end
  return workers, budget, chunk_rows
end

local function load_all(o, file, workers, chunk_rows)
  local shares, count = {}, 0
  for i = 1, #workers do shares[i] = {} end
  for _ = 1, o.copies do
    for piece = 1, #file.pieces do
      local share = shares[count % #workers + 1]
      share[#share + 1] = piece
      count = count + 1
    end
  end
  local futures, chunks_of, problem = {}, {}, nil
  for i, id in ipairs(workers) do futures[i] = tarn.remotecall(id, load_share, file, shares[i], chunk_rows) end
  for i, id in ipairs(workers) do
    local chunks, wrong = futures[i]:fetch()
    chunks_of[id] = chunks
    if wrong and (not problem or wrong.line < problem.line) then problem = wrong end
  end
  if problem then fail(1, "%s: %s", o.file, problem.text) end
  return chunks_of
end

local function main(args)
  local clock = require("luv").hrtime
  local steps, since = { { "step", "seconds" } }, clock()
  local function step(name)
    local now = clock()
    steps[#steps + 1] = { name, ("%.3f"):format((now - since) / 1e9) }
    since = now
  end

  local o = options(args)
  local file = survey(o.file)
  o.copies = o.copies or math.max(1, math.ceil(LOADED_BYTES / (file.rows * ROW_BYTES)))
  local rows = file.rows * o.copies
  step("survey the file")
  local workers, budget, chunk_rows = start_workers(o, rows * ROW_BYTES)
  step(("start %d workers"):format(#workers))
  local chunks_of = load_all(o, file, workers, chunk_rows)
  step("load")
  local bytes = 0
  for _, chunks in pairs(chunks_of) do
    for _, chunk in ipairs(chunks) do bytes = bytes + chunk.bytes end
  end
  print(("%s: %d flights, loaded %d times: %s in columns, on %d workers that may hold %s each"):format(o.file, file.rows,
    o.copies, megabytes(bytes), #workers, megabytes(budget)))

  local origins = ask_others(by_origin, workers, chunks_of, 1)
  step("delays by origin")
  local routes = ask_others(by_route, workers, chunks_of, #workers > 2 and 2 or 1)
  step("delays by route")

  print_origins(origins, o.copies)
  print_routes(routes, o.copies, o.min_flights)
  print_pool(workers, chunks_of)
  print()
  print_table(steps)
end

main(arg)
