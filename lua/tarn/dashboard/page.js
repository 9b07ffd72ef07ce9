// The dashboard's page: listens to "events" and draws. Lines are Chart.js's; the task stream is drawn here.
"use strict";

const KEPT = 300;           // points of a line: five minutes
const WINDOW_MS = 30000;    // of the task stream
const ENDED_SHOWN = 12;
const CHARTS_MOST = 24;     // processes with a chart of their memory
const COLOURS = ["#1f77b4", "#e6a817", "#2a9d6f", "#8c5fbf", "#17a2b8", "#c2708f", "#7d8b2f", "#a0714f", "#5470c6", "#4d9de0"];

const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- text ----

function amount(n) {
  if (n === null || n === undefined) return "–";
  if (n < 999.5) return n.toFixed(0);
  let unit = -1;
  while (n >= 999.5 && unit < 5) { n /= 1000; unit++; }
  return (n < 9.95 ? n.toFixed(1) : n.toFixed(0)) + " " + "kMGTPE"[unit];
}
const limit = (n) => (n === null || n === undefined ? "no limit" : amount(n));
const percent = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(0) + " %");
function duration(seconds) {
  if (seconds < 0.001) return (seconds * 1e6).toFixed(0) + " µs";
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  return seconds < 7200 ? (seconds / 60).toFixed(0) + " min" : (seconds / 3600).toFixed(1) + " h";
}

// "flights.lua:12" of a function's whole path.
const brief = (name) => name.replace(/^.*\//, "");

// ---- tables ----

// columns: [heading, text of a row, is it text?]. All is set as text: names come from the cluster.
function fill(id, columns, rows) {
  const table = $(id), head = table.tHead, body = table.tBodies[0];
  if (!head.rows.length) {
    const row = head.insertRow();
    for (const [title, , text] of columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = title;
      if (text) cell.className = "text";
      row.append(cell);
    }
  }
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((data, i) => {
    const row = body.rows[i] || body.insertRow();
    columns.forEach(([, show, text], c) => {
      const cell = row.cells[c] || row.insertCell();
      const shown = show(data);
      const value = Array.isArray(shown) ? shown[0] : shown;
      if (cell.textContent !== String(value)) cell.textContent = value;
      cell.className = (text ? "text " : "") + (Array.isArray(shown) ? shown[1] : "");
    });
  });
}

const either = (show) => (p) => (p.failure ? "" : show(p));
function connected(p) {
  const peers = new Set(), clients = p.connections.filter((c) => c[1]).length;
  for (const [pid, foreign] of p.connections) if (!foreign) peers.add(pid);
  const list = [...peers].sort((a, b) => a - b);
  if (clients > 0) list.push(clients + (clients === 1 ? " client" : " clients"));
  return list.join(", ");
}

const PROCESSES = [
  ["id", (p) => p.id],
  ["host", either((p) => p.host), true],
  ["pid", either((p) => p.os_pid)],
  ["state", (p) => (p.failure ? [p.failure, "failed"] : p.busy ? ["busy", "busy"] : "idle"), true],
  ["busy", either((p) => percent(p.busy_share))],
  ["CPU", either((p) => percent(p.cpu_share))],
  ["jobs", either((p) => p.jobs_running)],
  ["queued", either((p) => amount(p.queued))],
  ["done/s", either((p) => amount(p.jobs_s))],
  ["failed", either((p) => (p.jobs_failed > 0 ? [amount(p.jobs_failed), "failed"] : "0"))],
  ["used", either((p) => amount(p.used))],
  ["budget", either((p) => limit(p.max_memsize))],
  ["live", either((p) => amount(p.live_bytes))],
  ["resident", either((p) => amount(p.resident_bytes))],
  ["received", either((p) => amount(p.received_bytes))],
  ["in flight", either((p) => amount(p.inflight_bytes + p.queued_bytes))],
  ["Lua heap", either((p) => amount(p.lua_bytes))],
  ["shared", either((p) => amount(p.lent_bytes))],
  ["spilled", either((p) => amount(p.spilled_bytes))],
  ["disk free", either((p) => limit(p.disk_free_bytes))],
  ["sets/s", either((p) => amount(p.sets_s))],
  ["gets/s", either((p) => amount(p.gets_s))],
  ["TCP in/out", either((p) => amount(p.tcp_in_s) + " / " + amount(p.tcp_out_s))],
  ["mapped in/out", either((p) => amount(p.mapped_in_s) + " / " + amount(p.mapped_out_s))],
  ["connected", either(connected), true],
];

const OBJECTS = [
  ["object", (o) => o.key, true],
  ["owner", (o) => o.owner],
  ["size", (o) => amount(o.size)],
  ["type", (o) => (o.live ? "Lua value" : o.contents || "plain value"), true],
  ["age", (o) => duration(o.age_ns / 1e9)],
  ["where", (o) => (o.in_memory ? "memory" : "spill file"), true],
  ["held by", (o) => {
    const list = o.holders.map((pid) => "process " + pid);
    if (o.here) list.unshift("Lua of process " + o.owner);
    if (o.pins > 0) list.push(o.pins + " stored values, messages or clients");
    return list.join(", ") || "nobody that is known here";
  }, true],
];

// ---- lines over time ----

const charts = new Map();
let haveCharts = true;

function lineChart(canvas, names) {
  const style = getComputedStyle(document.body);
  Chart.defaults.font.family = style.fontFamily;
  Chart.defaults.color = css("--faint");
  Chart.defaults.borderColor = css("--line");
  return new Chart(canvas, {
    type: "line",
    data: { datasets: names.map(([label, colour, dash, filled]) => ({
      label, data: [], borderColor: colour, backgroundColor: colour + "33", borderDash: dash ? [5, 4] : [], fill: Boolean(filled),
      borderWidth: 1.5, pointRadius: 0, pointHitRadius: 6,
    })) },
    options: {
      animation: false, parsing: false, normalized: true, responsive: true, maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { type: "linear", min: -60, max: 0, ticks: { callback: (v) => (v === 0 ? "now" : v + " s"), maxTicksLimit: 6 } },
        y: { beginAtZero: true, ticks: { callback: (v) => amount(v), maxTicksLimit: 5 } },
      },
      plugins: {
        legend: { position: "bottom", labels: { boxWidth: 12, boxHeight: 2 } },
        tooltip: { callbacks: { title: (items) => duration(-items[0].parsed.x) + " ago", label: (i) => i.dataset.label + ": " + amount(i.parsed.y) } },
      },
    },
  });
}

// A chart and what it has been told: [time, value of each line].
function chartOf(key, make) {
  if (!charts.has(key)) charts.set(key, { chart: make(), points: [] });
  return charts.get(key);
}

function addPoint(entry, time, values) {
  entry.points.push([time, values]);
  if (entry.points.length > KEPT) entry.points.shift();
  entry.chart.data.datasets.forEach((set, i) => {
    set.data = entry.points.map(([t, v]) => ({ x: t - time, y: v[i] }));
  });
  entry.chart.options.scales.x.min = Math.min(-60, entry.points[0][0] - time);
  entry.chart.update("none");
}

function memoryChart(p) {
  return chartOf("memory " + p.id, () => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), box = document.createElement("div");
    const canvas = document.createElement("canvas");
    figure.id = "memory-" + p.id;
    caption.textContent = "process " + p.id;
    box.append(canvas);
    figure.append(caption, box);
    $("memory").append(figure);
    return lineChart(canvas, [["used", css("--accent"), false, true], ["system", css("--faint")], ["budget", css("--error"), true]]);
  });
}

const sum = (list, name) => list.reduce((all, p) => all + (p[name] || 0), 0);

function drawLines(time, processes) {
  if (!haveCharts) return;
  const alive = processes.filter((p) => !p.failure);
  for (const p of alive.slice(0, CHARTS_MOST)) {
    addPoint(memoryChart(p), time, [p.used, p.anonymous_bytes + p.memory_file_bytes, p.max_memsize]);
  }
  for (const [key, entry] of charts) { // whose process is gone
    const id = key.startsWith("memory ") && Number(key.slice(7));
    if (id && !processes.some((p) => p.id === id)) {
      entry.chart.destroy();
      charts.delete(key);
      $("memory-" + id).remove();
    }
  }
  const spill = chartOf("spill", () => lineChart($("spill"), [["written", "#c2708f"], ["read back by mapping", "#2a9d6f"]]));
  addPoint(spill, time, [sum(alive, "spill_written_s"), sum(alive, "mapped_back_s")]);
  const network = chartOf("network", () => lineChart($("network"), [["TCP", "#8c5fbf"], ["mapped", "#e6a817"]]));
  addPoint(network, time, [sum(alive, "tcp_in_s"), sum(alive, "mapped_in_s")]);
}

// ---- the task stream ----

const tasks = new Map();    // process:number -> {process, name, begin, end (undefined: it runs), ok}; times as performance.now()
const colours = new Map();  // name -> colour
let lanes = [];
let boxes = [];             // what was drawn, for the pointer

function colourOf(name) {
  if (!colours.has(name)) {
    colours.set(name, COLOURS[colours.size % COLOURS.length]);
    const item = document.createElement("li"), patch = document.createElement("canvas");
    patch.width = patch.height = 12;
    const pen = patch.getContext("2d");
    pen.fillStyle = colours.get(name);
    pen.fillRect(0, 0, 12, 12);
    item.append(patch, brief(name));
    item.title = name;
    if (colours.size <= 30) $("legend").append(item);
  }
  return colours.get(name);
}

function takeJobs(list) {
  const now = performance.now();
  for (const { id, jobs } of list) {
    const at = (ns) => now - (jobs.now_ns - ns) / 1e6;
    const running = new Set();
    for (const [number, name, begin, from] of jobs.running) {
      running.add(number);
      tasks.set(id + ":" + number, { process: id, number, name, from, begin: at(begin) });
    }
    for (const [number, name, begin, end, ok, from] of jobs.ended) {
      tasks.set(id + ":" + number, { process: id, number, name, from, begin: at(begin), end: at(end), ok });
    }
    for (const [key, task] of tasks) { // its end has been forgotten there: it was one of very many
      if (task.process === id && task.end === undefined && !running.has(task.number)) tasks.delete(key);
    }
  }
  for (const [key, task] of tasks) if (task.end !== undefined && task.end < now - 2 * WINDOW_MS) tasks.delete(key);
  const ended = [...tasks.values()].filter((t) => t.end !== undefined).sort((a, b) => b.end - a.end).slice(0, ENDED_SHOWN);
  fill("ended", [
    ["function", (t) => brief(t.name), true],
    ["process", (t) => t.process],
    ["sent by", (t) => t.from || "–"],
    ["took", (t) => duration((t.end - t.begin) / 1000)],
    ["ago", (t) => duration(Math.max(now - t.end, 0) / 1000)],
    ["result", (t) => (t.ok ? "done" : ["error", "failed"]), true],
  ], ended);
  drawTasks();
}

// Jobs of one process that run at the same time lie below each other.
function arrange(list) {
  const ends = [];
  for (const task of list.sort((a, b) => a.begin - b.begin)) {
    let row = ends.findIndex((end) => end <= task.begin);
    if (row < 0) row = ends.length < 8 ? ends.length : 7;
    ends[row] = task.end === undefined ? Infinity : task.end;
    task.row = row;
  }
  return Math.max(ends.length, 1);
}

function drawTasks() {
  const canvas = $("tasks"), width = $("stream").clientWidth, now = performance.now(), ratio = window.devicePixelRatio || 1;
  const LABEL = 40, ROW = 14, GAP = 8;
  const byLane = lanes.map((id) => ({ id, list: [...tasks.values()].filter((t) => t.process === id) }));
  for (const lane of byLane) lane.rows = arrange(lane.list);
  const height = byLane.reduce((all, lane) => all + lane.rows * ROW + GAP, 18);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const x = (t) => LABEL + (width - LABEL) * (1 - (now - t) / WINDOW_MS);
  boxes = [];
  let y = 0;
  for (const lane of byLane) {
    pen.fillStyle = css("--faint");
    pen.fillText(String(lane.id), 4, y + ROW / 2);
    pen.fillStyle = css("--line");
    pen.fillRect(LABEL, y + lane.rows * ROW + GAP / 2, width - LABEL, 1);
    for (const task of lane.list) {
      const end = task.end === undefined ? now : task.end;
      if (end < now - WINDOW_MS) continue;
      const left = Math.max(x(task.begin), LABEL), w = Math.max(x(end) - left, 1.5), top = y + task.row * ROW;
      const colour = colourOf(task.name);
      pen.fillStyle = task.ok === false ? css("--error") : colour;
      pen.globalAlpha = task.end === undefined ? 0.55 : 1;
      pen.fillRect(left, top + 1, w, ROW - 3);
      pen.globalAlpha = 1;
      boxes.push({ left, right: left + w, top, bottom: top + ROW, task });
    }
    y += lane.rows * ROW + GAP;
  }
  pen.fillStyle = css("--faint");
  for (let s = 0; s <= 30; s += 10) pen.fillText(s === 0 ? "now" : "−" + s + " s", Math.min(x(now - s * 1000), width - 28), y + 8);
}

$("tasks").addEventListener("mousemove", (event) => {
  const box = boxes.find((b) => event.offsetX >= b.left - 1 && event.offsetX <= b.right + 1 && event.offsetY >= b.top && event.offsetY <= b.bottom);
  $("tip").hidden = !box;
  if (!box) return;
  const t = box.task, took = ((t.end === undefined ? performance.now() : t.end) - t.begin) / 1000;
  $("tip").textContent = t.name + (t.end === undefined ? ", runs for " : t.ok ? ", took " : ", failed after ") + duration(took);
  $("tip").style.left = Math.min(event.offsetX + 12, $("stream").clientWidth - 260) + "px";
  $("tip").style.top = event.offsetY + 14 + "px";
});
$("tasks").addEventListener("mouseleave", () => { $("tip").hidden = true; });
window.addEventListener("resize", drawTasks);

// ---- what is told ----

function takeProcesses({ time, processes }) {
  lanes = processes.map((p) => p.id);
  fill("processes", PROCESSES, processes);
  const alive = processes.filter((p) => !p.failure);
  $("summary").textContent = `${processes.length} processes, ${alive.filter((p) => p.busy).length} busy; ` +
    `${sum(alive, "jobs_running")} jobs run, ${amount(sum(alive, "jobs_s"))}/s done; ${amount(sum(alive, "objects"))} objects, ` +
    `${amount(sum(alive, "used"))} in memory, ${amount(sum(alive, "spilled_bytes"))} spilled`;
  drawLines(time, processes);
}

function state(text, gone) {
  $("state").textContent = text;
  $("state").className = gone ? "gone" : "";
}

if (typeof Chart === "undefined") {
  haveCharts = false;
  $("notice").hidden = false;
  $("notice").textContent = "Lines over time are missing: Chart.js is not installed (Debian: libjs-chart.js) where this page is served. All else is here.";
}

const source = new EventSource("events");
source.addEventListener("processes", (event) => { takeProcesses(JSON.parse(event.data)); });
source.addEventListener("jobs", (event) => { takeJobs(JSON.parse(event.data)); });
source.addEventListener("objects", (event) => { fill("objects", OBJECTS, JSON.parse(event.data)); });
source.addEventListener("ended", (event) => {
  source.close();
  state(JSON.parse(event.data), true);
});
source.onopen = () => state("live", false);
source.onerror = () => state("no connection to the dashboard; trying again", true);
