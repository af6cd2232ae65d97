"use strict";
// The controls and the drawing of the explorer; the numbers are explorer.js's and the build's.
(function () {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const { means, differences } = window.explorer;
  const box = document.getElementById("explorer"), form = box.querySelector("form"), views = {};
  const field = (name) => form.elements[name];
  const state = { hidden: new Set() };
  const study = () => data.studies[field("study").selectedIndex];
  const reading = () => study().readings.find((one) => one.text === field("text").value && one.kind === field("kind").value);

  function fill(name, options, chosen) {
    const select = field(name), kept = chosen ?? select.value;
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    if (options.some(([value]) => String(value) === String(kept))) select.value = kept;
  }
  const unique = (values) => [...new Set(values)];

  function newStudy() {
    const one = study();
    fill("text", unique(one.readings.map((r) => r.text)).map((text) => [text, text]));
    fill("baseline", one.methods.map((m) => [m.name, m.name]), one.baseline);
    state.hidden = new Set();
    choose(one.methods.length > 12 ? "ranked" : "all");
    newText();
  }
  function newText() {
    const found = study().readings.filter((r) => r.text === field("text").value);
    fill("kind", found.map((r) => [r.kind, r.protocol]), found.some((r) => r.kind === field("kind").value) ? field("kind").value : "whole");
    newReading();
  }
  function newReading() {
    const lengths = unique(reading().points.map((p) => p[2])).sort((a, b) => a - b);
    fill("tokens", lengths.map((n) => [n, `${n.toLocaleString("en")} (${n / study().train} × L_train)`]), lengths.includes(Number(field("tokens").value)) ? field("tokens").value : lengths[lengths.length - 1]);
    draw();
  }

  function choose(which) {
    const one = study(), seeds = new Map();
    for (const [name] of one.runs) seeds.set(name, (seeds.get(name) ?? 0) + 1);
    const few = (m) => (seeds.get(m.name) ?? 0) < data.fewest;
    const anyRanked = one.methods.some((m) => !few(m));
    state.hidden = new Set(one.methods.filter((m) => which === "none" || (which === "ranked" && anyRanked && few(m))).map((m) => m.name));
    const list = document.getElementById("explorer-methods");
    list.replaceChildren(...one.methods.map((m) => {
      const label = document.createElement("label"), tick = document.createElement("input"), swatch = document.createElement("span");
      tick.type = "checkbox";
      tick.checked = !state.hidden.has(m.name);
      tick.addEventListener("change", () => { tick.checked ? state.hidden.delete(m.name) : state.hidden.add(m.name); draw(); });
      swatch.className = "swatch";
      swatch.style.borderTop = `3px ${m.dash === "dashdot" ? "dashed" : m.dash} ${ink(m.colour)}`;
      label.append(tick, swatch, ` ${m.name} (${seeds.get(m.name) ?? 0})`);
      return label;
    }));
  }

  const dark = () => {
    const theme = document.body.dataset.theme;
    return theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  };
  // Colours are those of every figure; dark ones are lightened on a dark page.
  function ink(colour) {
    if (!dark()) return colour;
    const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    const light = (0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2]) / 255, share = light < 0.55 ? 0.45 + 0.35 * (0.55 - light) : 0;
    return `#${parts.map((p) => Math.round(p + (255 - p) * share).toString(16).padStart(2, "0")).join("")}`;
  }

  function shown() {
    const points = reading().points.filter((p) => !state.hidden.has(p[0]));
    const base = reading().points.filter((p) => p[0] === field("baseline").value && state.hidden.has(p[0]));
    return { points, differences: differences([...points, ...base], field("baseline").value, data.quantiles, data.fewest) };
  }

  async function draw() {
    const one = study(), now = reading(), style = new Map(one.methods.map((m) => [m.name, { colour: ink(m.colour), dash: m.dash }]));
    const runs = new Map(one.runs.map(([name, seed, command, commit]) => [JSON.stringify([name, seed]), { command, commit }]));
    const found = shown();
    const points = found.points.map(([method, seed, length, , value]) => ({ method, seed, length, value, ...style.get(method), ...runs.get(JSON.stringify([method, seed])) }));
    const styled = (rows) => rows.map((row) => ({ ...row, ...style.get(row.method) }));
    const paper = field("paper").value ? now.paper.filter(([name]) => !state.hidden.has(name)) : [];
    document.getElementById("explorer-sentence").textContent = now.sentences[field("tokens").value];
    document.getElementById("explorer-about").textContent = `${one.title}. ${one.panel}. Perplexity ${now.unit}.`;
    table(found);
    const ends = [Math.min(...points.map((p) => p.value)), Math.max(...points.map((p) => p.value))];
    for (const layer of data.specs.perplexity.layer) layer.encoding.y.scale.domain = [ends[0] * 0.97, ends[1] * 1.03]; // ghosts may leave it
    await put("perplexity", { points, means: styled(means(found.points)), paper: paper.map(([method, length, value, printed]) => ({ method, length, value, printed })) });
    await put("differences", { differences: styled(found.differences), zero: [{ value: 0 }] });
  }

  async function put(name, sets) {
    const text = getComputedStyle(document.body).getPropertyValue("--color-foreground-primary").trim() || "currentColor";
    const grid = dark() ? "#444" : "#ddd", spec = structuredClone(data.specs[name]);
    spec.datasets = { ...(spec.datasets ?? {}), ...sets };
    spec.config = { axis: { labelColor: text, titleColor: text, gridColor: grid, domainColor: text, tickColor: text }, view: { stroke: null }, font: "inherit" };
    views[name]?.finalize();
    views[name] = await window.vegaEmbed(`#explorer-${name}`, spec, { actions: false, renderer: "svg" });
  }

  function table({ points, differences: rows }) {
    const lengths = unique(points.map((p) => p[2])).sort((a, b) => a - b), names = unique(points.map((p) => p[0]));
    const by = new Map(means(points).map((m) => [JSON.stringify([m.method, m.length]), m]));
    const difference = new Map(rows.map((d) => [JSON.stringify([d.method, d.length]), d]));
    const cell = (name, n) => {
      const key = JSON.stringify([name, n]), m = by.get(key), d = difference.get(key);
      if (!m) return "–";
      const less = d ? `, ${d.mean < 0 ? "−" : "+"}${Math.abs(d.mean).toFixed(3)}${d.half === null ? "" : `±${d.half.toFixed(3)}`}` : "";
      return `${m.value.toPrecision(4)}${less}`;
    };
    const element = document.createElement("table"), head = element.createTHead().insertRow(), body = element.createTBody();
    for (const title of ["perplexity, difference", ...lengths]) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = title;
      head.append(th);
    }
    for (const name of names) {
      const row = body.insertRow();
      row.insertCell().textContent = name;
      for (const n of lengths) row.insertCell().textContent = cell(name, n);
    }
    document.getElementById("explorer-table").replaceChildren(element);
  }

  function save(kind) {
    const { points, differences: rows } = shown(), less = new Map(rows.map((d) => [JSON.stringify([d.method, d.length]), d]));
    const out = points.map(([method, seed, length, nats, value]) => {
      const d = less.get(JSON.stringify([method, length]));
      return { study: study().name, text: reading().text, protocol: reading().kind, method, seed, length, nats, perplexity: value, baseline: field("baseline").value, difference: d?.mean ?? "", half_interval: d?.half ?? "" };
    });
    const quoted = (x) => (/[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : x);
    const text = kind === "json" ? JSON.stringify(out, null, 1) : [Object.keys(out[0] ?? {}), ...out.map(Object.values)].map((row) => row.map(quoted).join(",")).join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/csv" }));
    link.download = `wavepos-${study().name}.${kind}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  const changed = { study: newStudy, text: newText, kind: newReading };
  form.addEventListener("change", (event) => (changed[event.target.name] ?? draw)());
  form.addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("click", (event) => {
    if (event.target.dataset.methods) { choose(event.target.dataset.methods); draw(); }
    if (event.target.dataset.save) save(event.target.dataset.save);
  });
  new MutationObserver(() => { choose_again(); draw(); }).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
  function choose_again() {
    const kept = state.hidden;
    choose("all");
    state.hidden = kept;
    document.querySelectorAll("#explorer-methods input").forEach((tick, i) => { tick.checked = !kept.has(study().methods[i].name); });
  }
  fill("study", data.studies.map((one) => [one.name, one.title]));
  newStudy();
})();
