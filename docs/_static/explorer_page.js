"use strict";
// Perplexity and recall: the controls and the drawing; the numbers are explorer.js's and the build's.
(function () {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const { means, differences } = window.explorer, { unique, ink, fill, ticks, put, table, every, save, onTheme } = window.explorerDraw;
  const box = document.getElementById("explorer"), form = box.querySelector("form"), element = (id) => document.getElementById(`explorer-${id}`);
  const field = (name) => form.elements[name];
  let hidden = new Set();
  const study = () => data.studies[field("study").selectedIndex];
  const reading = () => study().readings.find((one) => one.text === field("text").value && one.kind === field("kind").value);

  function newStudy() {
    const one = study();
    fill(field("text"), unique(one.readings.map((r) => r.text)).map((text) => [text, text]));
    fill(field("baseline"), one.methods.map((m) => [m.name, m.name]), one.baseline);
    choose(one.methods.length > 12 ? "ranked" : "all");
    newText();
  }
  function newText() {
    const found = study().readings.filter((r) => r.text === field("text").value);
    fill(field("kind"), found.map((r) => [r.kind, r.protocol]), found.some((r) => r.kind === field("kind").value) ? field("kind").value : "whole");
    newReading();
  }
  function newReading() {
    const lengths = unique(reading().points.map((p) => p[2])).sort((a, b) => a - b), kept = Number(field("tokens").value);
    fill(field("tokens"), lengths.map((n) => [n, `${n.toLocaleString("en")} (${n / study().train} × L_train)`]), lengths.includes(kept) ? kept : lengths[lengths.length - 1]);
    draw();
  }

  const runs = () => new Map(study().runs.map(([name, seed, command, commit]) => [JSON.stringify([name, seed]), { commit, command }]));
  function seeds() {
    const found = new Map();
    for (const [name] of study().runs) found.set(name, (found.get(name) ?? 0) + 1);
    return found;
  }
  function choose(which) {
    const one = study(), counts = seeds(), few = (m) => (counts.get(m.name) ?? 0) < data.fewest;
    const anyRanked = one.methods.some((m) => !few(m));
    hidden = new Set(one.methods.filter((m) => which === "none" || (which === "ranked" && anyRanked && few(m))).map((m) => m.name));
    list();
  }
  function list() {
    const counts = seeds();
    ticks(element("methods"), study().methods, hidden, (m) => ` (${counts.get(m.name) ?? 0})`, draw);
  }

  function shown() {
    const all = reading().points, baseline = field("baseline").value, points = all.filter((p) => !hidden.has(p[0]));
    const base = hidden.has(baseline) ? all.filter((p) => p[0] === baseline) : [];
    return { points, rows: differences([...points, ...base], baseline, { ...data, better: study().measure === "accuracy" ? 1 : -1 }) };
  }

  async function draw() {
    const one = study(), now = reading(), { points: found, rows } = shown(), measure = one.measure;
    const style = new Map(one.methods.map((m) => [m.name, { colour: ink(m.colour), dash: m.dash }]));
    const made = runs();
    const points = found.map(([method, seed, length, , value]) => ({ method, seed, length, value, ...style.get(method), ...made.get(JSON.stringify([method, seed])) }));
    const styled = (all) => all.map((row) => ({ ...row, ...style.get(row.method) }));
    const paper = field("paper").value ? now.paper.filter(([name]) => !hidden.has(name)) : [];
    element("sentence").textContent = now.sentences[field("tokens").value];
    element("about").textContent = `${one.title}. ${one.about} ${now.about}`;
    element("title").textContent = measure[0].toUpperCase() + measure.slice(1);
    numbers(found, rows);
    every("explorer-every", `Every seed of what is shown, read as: ${now.protocol}`, flat());
    if (measure === "perplexity") {
      const values = points.map((p) => p.value);
      for (const layer of data.specs.perplexity.layer) layer.encoding.y.scale.domain = [Math.min(...values) * 0.97, Math.max(...values) * 1.03]; // ghosts may leave it
    }
    await put("explorer-values", data.specs[measure], { points, means: styled(means(found)), chance: now.chance ? [{ value: now.chance }] : [], paper: paper.map(([method, length, value, printed]) => ({ method, length, value, printed })) });
    await put("explorer-differences", data.specs[`${measure} differences`], { differences: styled(rows), zero: [{ value: 0 }] });
    box.dataset.drawn = one.name;
  }

  function numbers(points, rows) {
    const lengths = unique(points.map((p) => p[2])).sort((a, b) => a - b), key = (row) => JSON.stringify([row.method, row.length]);
    const by = new Map(means(points).map((m) => [key(m), m])), less = new Map(rows.map((d) => [key(d), d]));
    const cell = (method, length) => {
      const m = by.get(key({ method, length })), d = less.get(key({ method, length }));
      if (!m) return "–";
      return `${m.value.toPrecision(4)}${d ? `, ${d.mean < 0 ? "−" : "+"}${Math.abs(d.mean).toFixed(3)}${d.half === null ? "" : `±${d.half.toFixed(3)}`}` : ""}`;
    };
    table("explorer-table", `Mean ${study().measure}, and the difference to ${field("baseline").value} with its 95% interval`, [["method", ...lengths], ...unique(points.map((p) => p[0])).map((name) => [name, ...lengths.map((n) => cell(name, n))])]);
  }

  // Of what is seen: a row per method, seed and length.
  function flat() {
    const { points, rows } = shown(), less = new Map(rows.map((d) => [JSON.stringify([d.method, d.length]), d])), accuracy = study().measure === "accuracy";
    const made = runs();
    return points.map(([method, seed, length, value, seen]) => {
      const d = less.get(JSON.stringify([method, length])), said = accuracy ? { distance: length, accuracy: seen } : { length, nats: value, perplexity: seen };
      return { method, seed, ...said, baseline: field("baseline").value, difference: d?.mean ?? "", half_interval: d?.half ?? "", study: study().name, text: reading().text, read: reading().kind, ...made.get(JSON.stringify([method, seed])) };
    });
  }

  const changed = { study: newStudy, text: newText, kind: newReading };
  form.addEventListener("change", (event) => (changed[event.target.name] ?? draw)());
  form.addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("click", (event) => {
    if (event.target.dataset.methods) { choose(event.target.dataset.methods); draw(); }
    if (event.target.dataset.save) save(study().name, event.target.dataset.save, flat());
  });
  onTheme(() => { list(); draw(); });
  fill(field("study"), data.studies.map((one) => [one.name, one.title]));
  newStudy();
})();
