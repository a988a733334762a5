// --- structures ------------------------------------------------------------------------------------

const shown = { chain: -1, sample: -1 };
const SIDES = 8, STEPS = 5, BROKEN = 4.6, WRONG = 8;
const RAMPS = {
  chain: { from: "N terminus", to: "C terminus", colours: [[0, "#3b528b"], [0.33, "#21918c"], [0.66, "#8fd744"], [1, "#fde725"]] },
  error: { from: "0 Å", to: `${WRONG} Å and more from the truth`, colours: [[0, "#0072b2"], [0.5, "#e6b400"], [1, "#d55e00"]] },
  factor: { from: "unsure", to: "sure", colours: [[0, "#d55e00"], [0.5, "#e6b400"], [1, "#0072b2"]] },
};

const library = once(async () => {
  const script = make("script", { textContent: await unpack("library") });
  document.head.append(script);
  if (!window.Plotly) throw new Error("The viewer's library did not start.");
  return window.Plotly;
});

function alphaCarbons(text) {
  const atoms = [], seen = new Set();
  for (const line of text.split("\n")) {
    if (line.startsWith("ENDMDL")) break;
    if (!line.startsWith("ATOM") || line.slice(12, 16).trim() !== "CA") continue;
    const residue = line.slice(22, 27);
    if (seen.has(residue)) continue;
    seen.add(residue);
    atoms.push({ number: parseInt(line.slice(22, 26), 10), name: line.slice(17, 20).trim(), factor: parseFloat(line.slice(60, 66)) || 0,
      at: [30, 38, 46].map((from) => parseFloat(line.slice(from, from + 8))) });
  }
  return atoms;
}
function moved(atoms, motion) {
  if (!motion.length) return atoms;
  return atoms.map((atom) => ({ ...atom, at: [0, 1, 2].map((k) =>
    motion[3 * k] * atom.at[0] + motion[3 * k + 1] * atom.at[1] + motion[3 * k + 2] * atom.at[2] + motion[9 + k]) }));
}

const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => { const size = Math.hypot(...a) || 1; return a.map((x) => x / size); };

// A tube along a smooth curve through the atoms (Catmull-Rom), broken where residues are missing, with
// `breaks` also where two neighbours are too far apart for a bond.
function tube(atoms, { radius, valueOf, labelOf, breaks = false }) {
  const mesh = { x: [], y: [], z: [], i: [], j: [], k: [], intensity: [], text: [] };
  let piece = [];
  const pieces = [];
  atoms.forEach((atom, place) => {
    const before = atoms[place - 1];
    if (before && (atom.number !== before.number + 1 || (breaks && Math.hypot(...add(atom.at, before.at, -1)) > BROKEN))) {
      pieces.push(piece);
      piece = [];
    }
    piece.push(atom);
  });
  pieces.push(piece);
  for (const part of pieces) if (part.length > 1) sweep(part, radius, valueOf, labelOf, mesh);
  return mesh;
}
function sweep(part, radius, valueOf, labelOf, mesh) {
  const points = [], owners = [];
  for (let k = 0; k + 1 < part.length; k++) {
    const [p0, p1, p2, p3] = [part[Math.max(k - 1, 0)], part[k], part[k + 1], part[Math.min(k + 2, part.length - 1)]].map((atom) => atom.at);
    for (let step = 0; step < STEPS; step++) {
      const t = step / STEPS;
      points.push([0, 1, 2].map((d) => 0.5 * (2 * p1[d] + (p2[d] - p0[d]) * t + (2 * p0[d] - 5 * p1[d] + 4 * p2[d] - p3[d]) * t * t + (3 * p1[d] - p0[d] - 3 * p2[d] + p3[d]) * t * t * t)));
      owners.push(t < 0.5 ? part[k] : part[k + 1]);
    }
  }
  points.push(part.at(-1).at);
  owners.push(part.at(-1));
  let normal = null;
  const base = mesh.x.length;
  points.forEach((point, place) => {
    const along = unit(add(points[Math.min(place + 1, points.length - 1)], points[Math.max(place - 1, 0)], -1));
    if (!normal) normal = unit(cross(along, Math.abs(along[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0]));
    // The ring goes along without twisting: the part of the last normal that is across.
    normal = unit(add(normal, along, -dot(normal, along)));
    const side = cross(along, normal), value = valueOf(owners[place]), label = labelOf(owners[place]);
    for (let s = 0; s < SIDES; s++) {
      const angle = 2 * Math.PI * s / SIDES;
      const at = add(add(point, normal, radius * Math.cos(angle)), side, radius * Math.sin(angle));
      mesh.x.push(at[0]); mesh.y.push(at[1]); mesh.z.push(at[2]);
      mesh.intensity.push(value); mesh.text.push(label);
    }
    if (place) for (let s = 0; s < SIDES; s++) {
      const a = base + (place - 1) * SIDES + s, b = base + (place - 1) * SIDES + (s + 1) % SIDES;
      mesh.i.push(a, b); mesh.j.push(b, b + SIDES); mesh.k.push(a + SIDES, a + SIDES);
    }
  });
  for (const [ring, turn] of [[base, 1], [base + (points.length - 1) * SIDES, 0]])
    for (let s = 1; s + 1 < SIDES; s++) { mesh.i.push(ring); mesh.j.push(ring + s + turn); mesh.k.push(ring + s + 1 - turn); }
}

const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
async function draw() {
  const chain = DATA.chains[shown.chain], sample = chain.samples[shown.sample];
  const pack = await texts(), Plotly = await library();
  if (DATA.chains[shown.chain] !== chain || chain.samples[shown.sample] !== sample) return;
  const truth = chain.truth ? alphaCarbons(pack[chain.truth]) : [];
  const atoms = moved(alphaCarbons(pack[sample.id]), sample.motion);
  const where = new Map(truth.map((atom) => [atom.number, atom.at]));
  const off = (atom) => where.has(atom.number) && sample.motion.length ? Math.hypot(...add(atom.at, where.get(atom.number), -1)) : null;
  let mode = byId("colour-choice").value;
  if (mode === "error" && !sample.motion.length) mode = "chain";
  const sure = Math.max(...atoms.map((atom) => atom.factor));
  const values = {
    chain: (atom) => (atom.number - atoms[0].number) / Math.max(atoms.at(-1).number - atoms[0].number, 1),
    error: (atom) => Math.min((off(atom) ?? WRONG) / WRONG, 1),
    factor: (atom) => atom.factor / (sure > 1 ? 100 : 1),
  };
  const label = (atom) => `${escaped(atom.name)} ${atom.number}${off(atom) === null ? "" : `, ${off(atom).toFixed(1)} Å from the truth`}`;
  const light = { ambient: 0.62, diffuse: 0.75, specular: 0.12, roughness: 0.6, fresnel: 0.05 };
  const common = { type: "mesh3d", hoverinfo: "text", flatshading: false, lighting: light, lightposition: { x: 1000, y: 2000, z: 3000 }, showscale: false };
  const ramp = RAMPS[mode];
  const traces = [{ ...common, ...tube(atoms, { radius: 0.62, valueOf: values[mode], labelOf: label }), colorscale: ramp.colours, cmin: 0, cmax: 1, name: "sample" }];
  if (truth.length && byId("truth-choice")?.checked) {
    const own = { radius: 0.34, valueOf: () => 0, labelOf: (atom) => `truth: ${escaped(atom.name)} ${atom.number}`, breaks: true };
    const grey = root.dataset.theme === "dark" ? "#a9b1bb" : "#8d939b";
    traces.push({ ...common, ...tube(truth, own), colorscale: [[0, grey], [1, grey]], cmin: 0, cmax: 1, name: "truth" });
  }
  const style = getComputedStyle(root), hidden = { visible: false, showspikes: false };
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false, uirevision: chain.name,
    hoverlabel: { bgcolor: style.getPropertyValue("--card").trim(), bordercolor: style.getPropertyValue("--line").trim(), font: { color: style.getPropertyValue("--ink").trim() } },
    scene: { aspectmode: "data", dragmode: "orbit", uirevision: chain.name, xaxis: hidden, yaxis: hidden, zaxis: hidden, bgcolor: "rgba(0,0,0,0)",
      camera: { eye: vector(chain.view[0].map((x) => 1.75 * x)), up: vector(chain.view[1]), center: { x: 0, y: 0, z: 0 } } },
  };
  byId("stage-note")?.remove();
  await Plotly.react("stage", traces, layout, { displayModeBar: false, responsive: true, scrollZoom: true });
  byId("stage").dataset.shown = sample.id;
  const bar = ramp.colours.map(([at, colour]) => `${colour} ${100 * at}%`).join(",");
  byId("legend").replaceChildren(
    make("span", {}, ramp.from, make("span", { className: "ramp", style: `background:linear-gradient(90deg,${bar})` }), ramp.to),
    ...(truth.length ? [make("span", {}, make("span", { className: "dot" }), "truth")] : [make("span", { textContent: "The truth is not at hand: the sample alone is drawn." })]));
}
const vector = ([x, y, z]) => ({ x, y, z });
function drawOrTell() {
  draw().catch((error) => {
    byId("stage").replaceChildren(make("p", { className: "stage-note", id: "stage-note", textContent: `${error.message || error}` }));
  });
}

const SCORES = [["tm_score", "TM"], ["lddt_ca", "lDDT"], ["gdt_ts", "GDT-TS"], ["rmsd", "RMSD"]];
function selectSample(place) {
  shown.sample = place;
  const chain = DATA.chains[shown.chain], sample = chain.samples[place];
  const scores = SCORES.filter(([name]) => name in sample.scores).map(([name, label]) => `${label} ${number(sample.scores[name])}${name === "rmsd" ? " Å" : ""}`);
  byId("shown-about").textContent = [`${chain.length} residues`, ...scores].join(" · ");
  byId("sample-choice").value = String(place);
  if (viewing) drawOrTell();
  download("download-sample", sample.id, sample.file);
  download("download-truth", chain.truth, `${chain.file}_truth.pdb`);
}
const links = {};
async function download(id, key, file) {
  const link = byId(id);
  if (!link) return;
  link.setAttribute("aria-disabled", "true");
  link.removeAttribute("href");
  if (!key) return;
  const text = (await texts())[key];
  if (links[id]) URL.revokeObjectURL(links[id]);
  links[id] = link.href = URL.createObjectURL(new Blob([text], { type: "chemical/x-pdb" }));
  link.download = file;
  link.removeAttribute("aria-disabled");
}
function selectChain(place) {
  shown.chain = place;
  const chain = DATA.chains[place];
  byId("shown-name").textContent = chain.name;
  byId("sample-choice").replaceChildren(...chain.samples.map((sample, k) => make("option", { value: String(k), textContent: sample.made })));
  byId("sample-label").hidden = chain.samples.length < 2;
  const noFactor = byId("colour-choice").querySelector("[value=factor]");
  noFactor.hidden = noFactor.disabled = !chain.factors;
  if (!chain.factors && byId("colour-choice").value === "factor") byId("colour-choice").value = "chain";
  for (const button of byId("chain-list").children) {
    button.setAttribute("aria-selected", String(Number(button.dataset.place) === place));
  }
  selectSample(chain.samples.length - 1);
}
function listChains() {
  const wanted = byId("chain-filter").value.trim().toLowerCase();
  byId("chain-list").replaceChildren(...DATA.chains.flatMap((chain, place) => {
    if (!chain.name.toLowerCase().includes(wanted)) return [];
    const tm = chain.samples.at(-1).scores.tm_score;
    const button = make("button", { type: "button", role: "option", "data-place": String(place), "aria-selected": String(place === shown.chain), title: chain.name, onclick: () => selectChain(place) },
      make("span", { className: "n", textContent: chain.name }), make("span", { className: "v dim", textContent: tm === undefined ? `${chain.length}` : `TM ${tm.toFixed(2)}` }));
    if (tm !== undefined) button.append(make("span", { className: "b" }, make("i", { style: `width:${100 * tm}%` })));
    return [button];
  }));
}
let viewing = false;
if (DATA.chains.length) {
  listChains();
  selectChain(0);
  byId("chain-filter").addEventListener("input", listChains);
  byId("sample-choice").addEventListener("change", (event) => selectSample(Number(event.target.value)));
  byId("colour-choice").addEventListener("change", drawOrTell);
  byId("truth-choice")?.addEventListener("change", drawOrTell);
  themeListeners.push(() => { if (viewing) drawOrTell(); });
  // Its library is the largest part of the page: it starts when it is about to be seen.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    viewing = true;
    drawOrTell();
  }, { rootMargin: "300px" }).observe(byId("stage"));
}
