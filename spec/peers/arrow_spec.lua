-- Arrow files beside other programs: apache-arrow (JavaScript), polars (Rust) and, by way of apache-arrow, DuckDB, which reads no Arrow
-- files without an extension that it would download.
local node = require "spec.helper.node"
local process = require "spec.helper.process"

-- Every kind of column, with values that a number or a text of JavaScript can have.
local function kinds(n)
  local int, big, float, double = tarn.array("int32_t", n), tarn.array("int64_t", n), tarn.array("float", n), tarn.array("double", n)
  local byte, bit, text, binary, city, height, code = tarn.array("uint8_t", n), tarn.bits(n), {}, {}, {}, {}, {}
  for i = 1, n do
    int[i], big[i], float[i], double[i], byte[i], bit[i] = i - 3, i * 1000000007, i / 4, i / 8, i % 256, i % 3 == 0
    text[i] = i % 5 > 0 and ("t\195\188xt " .. i) or nil
    binary[i] = "\255" .. i
    city[i] = i % 7 > 0 and ({ "York", "Bath", "Ely" })[i % 3 + 1] or nil
    height[i] = i % 4 > 0 and i / 2 or nil
    code[i] = "code " .. i % 200
  end
  text.n, city.n, height.n = n, n, n
  return tarn.table { columns = {
    { "int", int }, { "big", big }, { "float", float }, { "double", double }, { "byte", byte }, { "bit", bit },
    { "text", tarn.strings(text) },
    { "binary", tarn.strings(binary) }, { "city", tarn.pooled(city) }, { "height", tarn.nullable("double", height) },
    { "code", tarn.pooled(code) },
  }, key = "int" }
end

local function saved(t, name)
  local path = process.tmpdir() .. "/" .. (name or "x.arrow")
  tarn.arrow.save(path, t)
  return path
end

-- Rows as lines, as the scripts print them.
local function lines(t, names)
  local list = {}
  for i = 1, #t do
    local parts = {}
    for k, name in ipairs(names) do
      local v = t:column(name)[i]
      if type(v) == "number" then v = ("%.14g"):format(v) end
      parts[k] = v == nil and "null" or tostring(v):gsub("U?LL$", "")
    end
    list[i] = table.concat(parts, "|")
  end
  return table.concat(list, "\n") .. "\n"
end

local NAMES = { "int", "big", "float", "double", "byte", "bit", "text", "city", "height", "code" }

local PRINT = [[
  const fs = require("fs");
  const arrow = require("apache-arrow");
  function print(table, names) {
    let out = "";
    for (let i = 0; i < table.numRows; i++) out += names.map((name) => String(table.getChild(name).get(i))).join("|") + "\n";
    process.stdout.write(out);
  }
]]

describe("Arrow beside apache-arrow", function()
  it("reads what tarn writes: every kind of column, slices, no rows at all", function()
    local t = kinds(1000)
    for _, part in ipairs { t, t:slice(14, 700), t:slice(5, 4) } do
      local out = node.run(PRINT .. [[print(arrow.tableFromIPC(fs.readFileSync(process.argv[2])), process.argv.slice(3));]],
        { args = { saved(part), unpack(NAMES) } })
      assert.are.equal(lines(part, NAMES), out == "" and "\n" or out)
    end
    local out = node.run(PRINT .. [[
      const table = arrow.tableFromIPC(fs.readFileSync(process.argv[2]));
      console.log(table.schema.fields.map((f) => f.name + ":" + f.type).join(" "), [...table.schema.metadata].join(";"));
      console.log(Buffer.from(table.getChild("binary").get(9)).toString("latin1"));
    ]], { args = { saved(t) } })
    assert.are.equal("int:Int32 big:Int64 float:Float32 double:Float64 byte:Uint8 bit:Bool text:Utf8 binary:Binary "
      .. "city:Dictionary<Int8, Utf8> height:Float64 code:Dictionary<Int16, Utf8> tarn.key.1,int\n\195\191" .. "10\n", out)
  end)

  it("writes what tarn reads: files and streams, of one batch and of several, with dictionaries", function()
    local dir = process.tmpdir()
    local out = node.run(PRINT .. [[
      const { vectorFromArray: v } = arrow;
      function batch(from, n) {
        const each = (f) => Array.from({ length: n }, (_, i) => f(from + i));
        return new arrow.Table({
          int: v(each((i) => i - 50), new arrow.Int32()), big: v(each((i) => BigInt(i) * 10000000000n), new arrow.Int64()),
          u16: v(each((i) => i % 7 ? i : null), new arrow.Uint16()), float: v(each((i) => i / 4), new arrow.Float32()),
          bit: v(each((i) => i % 5 ? i % 3 == 0 : null), new arrow.Bool()),
          text: v(each((i) => i % 4 ? "t\u00fcxt " + i : null), new arrow.Utf8()),
          large: v(each((i) => "l" + i), new arrow.LargeUtf8()),
          city: v(each((i) => i % 6 ? ["York", "Bath"][i % 2] : null), new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32(), 1)),
          date: v(each((i) => new Date(86400000 * i)), new arrow.DateDay()),
        });
      }
      const one = batch(0, 3000), several = batch(0, 11).concat(batch(11, 100)).concat(batch(111, 1));
      const names = one.schema.fields.map((f) => f.name);
      const save = (table, name, form) => fs.writeFileSync(`${process.argv[2]}/${name}.${form}`, arrow.tableToIPC(table, form));
      save(one, "one", "file");
      save(one, "one", "stream");
      save(several, "several", "stream"); // in which each batch has a dictionary of its own; a file may not have that
      save(several.select(names.filter((name) => name != "city")), "several", "file");
      for (const table of [one, several]) print(table, names.filter((name) => name != "date"));
    ]], { args = { dir } })
    local names = { "int", "big", "u16", "float", "bit", "text", "large", "city" }
    local found = {}
    for _, name in ipairs { "one", "several" } do
      local stream, file = tarn.arrow.load(("%s/%s.stream"):format(dir, name)), tarn.arrow.load(("%s/%s.file"):format(dir, name))
      assert.are.equal("pooled", stream.city.kind)
      assert.are.equal(5, stream.date[6])
      local shared = { "int", "big", "u16", "float", "bit", "text", "large", "date" }
      assert.are.equal(lines(stream, shared), lines(file, shared))
      found[#found + 1] = lines(stream, names)
    end
    assert.are.equal(out, table.concat(found))
  end)

  it("round trips: theirs of ours of theirs", function()
    local path = saved(kinds(300))
    node.run(PRINT .. [[
      fs.writeFileSync(process.argv[2], arrow.tableToIPC(arrow.tableFromIPC(fs.readFileSync(process.argv[2])), "file"));
    ]], { args = { path } })
    local t = tarn.arrow.load(path)
    assert.are.equal(lines(kinds(300), NAMES), lines(t, NAMES))
    assert.are.same({ "int" }, t.key)
    assert.are.equal("\255" .. "10", t[10].binary)
  end)
end)

describe("Arrow beside DuckDB", function()
  it("takes what tarn writes, by way of apache-arrow, and finds the same in it", function()
    local t = kinds(2000)
    local out = node.run(PRINT .. [[
      const { DuckDBInstance } = require("@duckdb/node-api");
      (async () => {
        const table = arrow.tableFromIPC(fs.readFileSync(process.argv[2]));
        const c = await (await DuckDBInstance.create(":memory:")).connect();
        await c.run("create table t (int integer, city varchar, height double, text varchar)");
        const appender = await c.createAppender("t");
        const [int, city, height, text] = ["int", "city", "height", "text"].map((name) => table.getChild(name));
        for (let i = 0; i < table.numRows; i++) {
          appender.appendInteger(int.get(i));
          city.get(i) === null ? appender.appendNull() : appender.appendVarchar(city.get(i));
          height.get(i) === null ? appender.appendNull() : appender.appendDouble(height.get(i));
          text.get(i) === null ? appender.appendNull() : appender.appendVarchar(text.get(i));
          appender.endRow();
        }
        appender.closeSync();
        const result = await c.runAndReadAll(`select city, count(*)::double, sum(height), avg(height), min(text), max(int),
          count(text)::double from t group by city order by city nulls last`);
        process.stdout.write(result.getRows().map((row) => row.map(String).join("|")).join("\n") + "\n");
        // And back: what DuckDB gives, by apache-arrow, to tarn.
        const back = await c.runAndReadAll("select int, city, height from t where int % 10 = 3 order by int desc");
        const columns = back.getColumnsObject();
        fs.writeFileSync(process.argv[2], arrow.tableToIPC(new arrow.Table({
          int: arrow.vectorFromArray(columns.int, new arrow.Int32()), city: arrow.vectorFromArray(columns.city, new arrow.Utf8()),
          height: arrow.vectorFromArray(columns.height, new arrow.Float64()) }), "file"));
      })();
    ]], { args = { saved(t, "x.arrow") } })
    local g = t:groupreduce("city", { { "n", "count" }, { "sum", "sum", "height" }, { "mean", "mean", "height" }, { "low", "min", "text" },
      { "high", "max", "int" }, { "texts", "count", "text" } })
    assert.are.equal(lines(g, { "city", "n", "sum", "mean", "low", "high", "texts" }):gsub("(%d+%.%d%d%d%d%d%d)%d*", "%1"),
      (out:gsub("(%d+%.%d%d%d%d%d%d)%d*", "%1")))
  end)

  it("gives what tarn reads, by way of apache-arrow", function()
    local path = process.tmpdir() .. "/x.arrow"
    node.run(PRINT .. [[
      const { DuckDBInstance } = require("@duckdb/node-api");
      (async () => {
        const c = await (await DuckDBInstance.create(":memory:")).connect();
        const result = await c.runAndReadAll(`select i::integer as id, case when i % 3 = 0 then null else 'text ' || i end as text,
          i / 8 as v from range(500) r(i) order by i desc`);
        const { id, text, v } = result.getColumnsObject();
        fs.writeFileSync(process.argv[2], arrow.tableToIPC(new arrow.Table({ id: arrow.vectorFromArray(id, new arrow.Int32()),
          text: arrow.vectorFromArray(text, new arrow.Utf8()), v: arrow.vectorFromArray(v, new arrow.Float64()) }), "file"));
      })();
    ]], { args = { path } })
    local t = tarn.arrow.load(path, { key = "id" })
    assert.are.equal(500, #t)
    for i, row in ipairs(t) do
      assert.are.equal(i - 1, row.id)
      assert.are.equal((i - 1) % 3 > 0 and "text " .. i - 1 or nil, row.text)
      assert.are.equal((i - 1) / 8, row.v)
    end
  end)
end)

describe("Arrow beside polars", function()
  it("reads what tarn writes", function()
    local t = kinds(1000)
    local names = { "int", "float", "double", "byte", "bit", "text", "city", "height", "code" }
    local out = node.run([[
      const pl = require("nodejs-polars");
      const frame = pl.readIPC(process.argv[2]);
      const names = process.argv.slice(3);
      process.stdout.write(frame.select(...names).rows().map((row) => row.map(String).join("|")).join("\n") + "\n");
    ]], { args = { saved(t, "x.ipc"), unpack(names) } })
    assert.are.equal(lines(t, names), out)
  end)

  it("writes what tarn reads: views of texts, categories, compressed by LZ4 and Zstandard or not", function()
    local dir = process.tmpdir()
    local out = node.run([[
      const pl = require("nodejs-polars");
      const each = (f) => Array.from({ length: 5000 }, (_, i) => f(i));
      let frame = pl.DataFrame({ n: each((i) => i * 1.5), text: each((i) => (i % 3 ? "text " + "x".repeat(i % 40) + i : null)),
        bit: each((i) => (i % 4 ? i % 2 == 0 : null)), kind: each((i) => "kind " + (i % 9)) });
      frame = frame.withColumn(pl.col("kind").cast(pl.Categorical).alias("kind"));
      for (const compression of ["uncompressed", "lz4", "zstd"]) frame.writeIPC(`${process.argv[2]}/${compression}.ipc`, { compression });
      process.stdout.write(frame.rows().map((row) => row.map(String).join("|")).join("\n") + "\n");
    ]], { args = { dir } })
    for _, compression in ipairs { "uncompressed", "lz4", "zstd" } do
      local t = tarn.arrow.load(("%s/%s.ipc"):format(dir, compression))
      assert.are.equal("strings", t.text.kind)
      assert.are.equal("pooled", t.kind.kind)
      assert.are.equal(out, lines(t, { "n", "text", "bit", "kind" }))
    end
  end)
end)
