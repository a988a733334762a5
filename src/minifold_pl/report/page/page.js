"use strict";
// Everything that is written into the page goes through textContent or attributes: names are data, never markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (name in node && name !== "style") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const number = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return String(value);
  return size >= 1000 || size < 0.0005 ? value.toPrecision(4) : value.toFixed(3);
};
const fixed = (value) => value.toFixed(3);

// --- what lies packed in the page ------------------------------------------------------------------

async function unpack(id) {
  if (!("DecompressionStream" in window)) throw new Error("This browser is too old for the viewer: it cannot unpack gzip (needs one of 2023 or later).");
  const text = atob(byId(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
const once = (make) => { let made; return () => (made ??= make()); };
const texts = once(async () => JSON.parse(await unpack("pack")));

// --- light and dark --------------------------------------------------------------------------------

const root = document.documentElement;
const themeListeners = [];
async function darkFigures() {
  const waiting = document.querySelectorAll("img.dark:not([src])");
  if (!waiting.length) return;
  const pack = await texts();
  for (const image of waiting)
    image.src = URL.createObjectURL(new Blob([pack["figure:" + image.dataset.dark]], { type: "image/svg+xml" }));
}
function setTheme(theme) {
  root.dataset.theme = theme;
  if (theme === "dark") darkFigures();
  for (const listener of themeListeners) listener();
}
byId("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
if (root.dataset.theme === "dark") darkFigures();

// --- scores as strips ------------------------------------------------------------------------------

const FEW_SCORES = 8;
let shownResult = 0, shownScore = null, everyScore = false;
function showStrips() {
  const result = DATA.results[shownResult];
  if (!result.scores.some((score) => score.name === shownScore)) shownScore = result.scores[0].name;
  const some = everyScore ? result.scores : result.scores.filter((score, k) => k < FEW_SCORES || score.name === shownScore);
  const chips = some.map((score) => make("button", {
    type: "button", textContent: score.label, "aria-pressed": String(score.name === shownScore), title: score.name,
    onclick: () => { shownScore = score.name; showStrips(); },
  }));
  const hidden = result.scores.length - some.length;
  if (hidden) chips.push(make("button", { type: "button", className: "more", textContent: `${hidden} more …`, onclick: () => { everyScore = true; showStrips(); } }));
  byId("score-choice").replaceChildren(...chips);
  const rows = result.rows.filter((row) => row.cells[shownScore]);
  const values = rows.flatMap((row) => row.cells[shownScore].slice(0, 3)).filter((value) => value !== null);
  const most = Math.max(...values, 0), least = Math.min(...values, 0);
  const top = most <= 1 && most > 0.25 ? 1 : niceAbove(most), low = least < 0 ? -niceAbove(-least) : 0;
  const place = (value) => 100 * (value - low) / (top - low || 1) + "%";
  const strips = rows.map((row) => {
    const [mean, from, to, n] = row.cells[shownScore];
    const track = make("div", { className: "track" });
    if (from !== null && to !== null && n > 1) track.append(make("i", { style: `left:${place(from)};width:calc(${place(to)} - ${place(from)})` }));
    track.append(make("u", { style: `left:${place(mean)}` }));
    const range = from === null || to === null || n < 2 ? "" : ` ${fixed(from)}–${fixed(to)}`;
    return make("div", { className: `strip ${row.kind}` },
      make("div", { className: "who" }, row.name, ...(row.kind === "answer" ? [make("span", { className: "dim", textContent: " · sees the answer" })] : [])),
      track, make("div", { className: "what", "data-value": String(mean) }, make("b", { textContent: fixed(mean) }), make("span", { className: "dim", textContent: range })));
  });
  const ticks = make("div");
  for (let k = 0; k <= 4; k++) {
    const value = low + (top - low) * k / 4;
    ticks.append(make("span", { textContent: String(+value.toPrecision(3)), style: `left:${25 * k}%` }));
  }
  const better = result.scores.find((score) => score.name === shownScore).higher;
  const way = better === null ? "" : better ? "higher is better →" : "← lower is better";
  byId("strips").replaceChildren(...strips, make("div", { className: "strip axis" }, make("div", { className: "who" }), ticks, make("span", { className: "what", textContent: way })));
}
function niceAbove(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 1.0001);
}
if (DATA.results.length) {
  showStrips();
  byId("result-choice")?.addEventListener("change", (event) => {
    shownResult = Number(event.target.value);
    for (const block of document.querySelectorAll(".result")) block.hidden = Number(block.dataset.result) !== shownResult;
    showStrips();
  });
}

// --- the table of chains ---------------------------------------------------------------------------

const MOST_ROWS = 3000;
const sorting = { table: 0, column: 0, descending: false };
let shownRows = [];
function matches(table, row, words) {
  return words.every((word) => {
    const found = /^(.+?)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?(?:e-?\d+)?)$/i.exec(word);
    const column = found ? table.columns.findIndex((one) => one.name.toLowerCase() === found[1].toLowerCase()) : -1;
    if (column < 0) return String(row[0]).toLowerCase().includes(word.toLowerCase());
    const value = row[column], limit = Number(found[3]);
    if (typeof value !== "number") return false;
    return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[found[2]];
  });
}
const inOrder = new Intl.Collator("en", { numeric: true });
function compare(a, b, descending) {
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : inOrder.compare(String(a), String(b));
  return descending ? -order : order;
}
function showTable() {
  const table = DATA.tables[sorting.table];
  const words = byId("row-filter").value.trim().split(/\s+/).filter(Boolean);
  shownRows = table.rows.filter((row) => matches(table, row, words))
    .sort((a, b) => compare(a[sorting.column], b[sorting.column], sorting.descending));
  const heads = table.columns.map((column, place) => make("th", {
    scope: "col", title: column.name, "data-column": column.name,
    "aria-sort": place === sorting.column ? (sorting.descending ? "descending" : "ascending") : "none",
    onclick: () => {
      // Of a score the best is wanted first, of a name the beginning of the alphabet.
      if (place === sorting.column) sorting.descending = !sorting.descending;
      else Object.assign(sorting, { column: place, descending: column.higher === true });
      showTable();
    },
  }, make("button", { type: "button", textContent: column.label })));
  byId("chain-table").tHead.replaceChildren(make("tr", {}, ...heads));
  byId("chain-table").tBodies[0].replaceChildren(...shownRows.slice(0, MOST_ROWS).map((row) => {
    const chain = chainPlaces.get(row[0]);
    const line = make("tr", { className: chain === undefined ? "" : "has" });
    row.forEach((value, place) => line.append(place
      ? make("td", typeof value === "number" ? { textContent: table.columns[place].whole ? String(value) : fixed(value), "data-value": String(value) } : { textContent: value ?? "–" })
      : make("th", { scope: "row", textContent: value })));
    if (chain !== undefined) line.onclick = () => { selectChain(chain); byId("structures").scrollIntoView(); };
    return line;
  }));
  const more = shownRows.length > MOST_ROWS ? `; the first ${MOST_ROWS} are drawn` : "";
  byId("row-count").textContent = `${shownRows.length} of ${table.rows.length}${more}`;
  byId("table-note").textContent = table.note;
}
const chainPlaces = new Map(DATA.chains.map((chain, place) => [chain.name, place]));
if (DATA.tables.length) {
  const quoted = (value) => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  byId("row-filter").addEventListener("input", showTable);
  byId("table-choice")?.addEventListener("change", (event) => {
    Object.assign(sorting, { table: Number(event.target.value), column: 0, descending: false });
    showTable();
  });
  byId("download-table").addEventListener("click", (event) => {
    const table = DATA.tables[sorting.table];
    const lines = [table.columns.map((column) => column.name), ...shownRows.map((row) => row.map((value) => value ?? ""))];
    event.currentTarget.href = URL.createObjectURL(new Blob([lines.map((line) => line.map((value) => quoted(String(value))).join(",")).join("\n") + "\n"], { type: "text/csv" }));
  });
  showTable();
}
byId("all-columns")?.addEventListener("change", (event) => document.querySelector(".epochs").classList.toggle("all", event.target.checked));
