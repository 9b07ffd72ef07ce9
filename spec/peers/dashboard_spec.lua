-- The dashboard in a real browser: headless Chromium, driven by puppeteer-core. TARN_KEEP_SCREENSHOT=1 writes its picture to
-- docs/dashboard.png.
local node = require "spec.helper.node"
local process = require "spec.helper.process"

local CHROMIUM = "/usr/bin/chromium"

-- A cluster under load: work that spills, values that travel, a function that fails now and then.
local LOAD = [[
  tarn.addprocs(4, { memory = "96MB" })
  print(tarn.dashboard { port = 0 })
  io.stdout:flush()
  local uv, ended = require "luv", false
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(_, bytes) ended = ended or bytes == nil end)
  local function make(i)
    local a = tarn.array("double", 200000 + 40000 * (i % 7))
    for j = 1, #a do a[j] = j * i end
    return tarn.poolset(a)
  end
  local function mean(ref)
    local a, sum = tarn.poolget(ref), 0
    for _ = 1, 5 do for j = 1, #a do sum = sum + a[j] end end
    return sum / #a
  end
  local function check(i)
    tarn.sleep(0.02)
    if i % 5 == 0 then error("planned") end
  end
  local kept, round = {}, 0
  while not ended do
    round = round + 1
    local items = {}
    for i = 1, 24 do items[i] = i end
    local refs = tarn.pmap(make, items, { batch = 1 })
    tarn.pmap(mean, refs, { batch = 1 })
    tarn.pmap(check, items, { batch = 1, on_error = function() return false end })
    kept[round % 12 + 1] = refs
    tarn.remotecall(2, check, 5):wait()
  end
]]

local PAGE = [[
const puppeteer = require("puppeteer-core");
(async () => {
  const [url, picture, chromium] = process.argv.slice(2);
  const browser = await puppeteer.launch({ executablePath: chromium, headless: true, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const complaints = [];
  try {
    const page = await browser.newPage();
    await page.setViewport({ width: 1800, height: 1400 });
    page.on("console", (m) => { if (["error", "warn"].includes(m.type())) complaints.push(m.type() + ": " + m.text()); });
    page.on("pageerror", (e) => complaints.push("exception: " + e.message));
    page.on("requestfailed", (r) => complaints.push("failed: " + r.url()));
    page.on("request", (r) => { if (!r.url().startsWith(url) && !r.url().startsWith("data:")) complaints.push("elsewhere: " + r.url()); });
    await page.goto(url);
    const rows = (id) => page.$$eval(`#${id} tbody tr`, (list) => list.map((row) => [...row.cells].map((cell) => cell.textContent)));
    const until = (condition) => page.waitForFunction(condition, { timeout: 60000 });
    await until(() => document.querySelectorAll("#processes tbody tr").length === 5);
    await until(() => [...document.querySelectorAll("#ended tbody tr")].some((row) => row.textContent.endsWith("done")));
    await until(() => document.querySelectorAll("#objects tbody tr").length > 3);
    await until(() => document.querySelectorAll("#memory figure canvas").length === 5);
    await until(() => [...document.querySelectorAll("#processes tbody tr")].some((row) => Number(row.cells[9].textContent) > 0));
    // Lines need some points, and the lanes some boxes: what is drawn is asked of the page.
    await until(() => charts.get("memory 2").points.length >= 12 && boxes.length > 20);
    const drawn = await page.evaluate(() => {
      const canvas = document.getElementById("tasks"), { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const seen = new Set();
      for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.add(data[i] + "," + data[i + 1] + "," + data[i + 2]);
      return { lanes: [...new Set(boxes.map((b) => b.task.process))].sort(), failed: boxes.some((b) => b.task.ok === false),
        error: seen.has("198,40,40"), functions: document.querySelectorAll("#legend li").length,
        notice: document.getElementById("notice").hidden, state: document.getElementById("state").textContent };
    });
    await page.screenshot({ path: picture, fullPage: true });
    const [processes, ended, objects] = [await rows("processes"), await rows("ended"), await rows("objects")];
    process.stdout.write(JSON.stringify({ processes, ended, objects, drawn, complaints }));
  } finally {
    await browser.close();
  }
})().catch((e) => { console.error(e); process.exit(1); });
]]

describe("the dashboard in Chromium", function()
  it("shows the processes, a finished task, failures and the largest objects of a cluster under load; its console is empty", function()
    if not process.read_file(CHROMIUM) then return pending "needs chromium" end
    local driver = process.start_script(LOAD)
    local url = driver:line()
    local picture = process.tmpdir() .. "/dashboard.png"
    if os.getenv "TARN_KEEP_SCREENSHOT" then picture = process.root .. "/docs/dashboard.png" end
    local out = node.run(PAGE, { args = { url, picture, CHROMIUM }, timeout_s = 150 })
    assert.truthy(out:find('"complaints":[]', 1, true), out:match '"complaints":.*')
    for id = 1, 5 do assert.truthy(out:find(('["%d","'):format(id), 1, true), out) end
    assert.truthy(out:find('"done"]', 1, true), out)
    assert.truthy(out:find('"failed":true,', 1, true), out:match '"drawn":.*')
    assert.truthy(out:find('"error":true,', 1, true), out:match '"drawn":.*')
    assert.truthy(out:find('"lanes":[2,3,4,5]', 1, true), out:match '"drawn":.*')
    assert.truthy(out:find('"functions":3,', 1, true), out:match '"drawn":.*')
    assert.truthy(out:find('"notice":true,"state":"live"', 1, true), out:match '"drawn":.*')
    assert.truthy(out:find('"array","', 1, true), out:match '"objects":.*')
    assert.truthy(out:find('"process 1', 1, true), out:match '"objects":.*')
    local bytes = process.read_file(picture)
    assert.equal("\137PNG\r\n\26\n", bytes:sub(1, 8))
    assert.is_true(#bytes > 20000)
    driver:close_stdin()
    assert.equal(0, driver:wait(30).code)
  end)
end)
