"use strict";
// Time and memory: the controls and the drawing; the numbers are the build's.
(function () {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const { least } = window.explorer, { unique, ink, fill, ticks, put, table, every, save, onTheme } = window.explorerDraw;
  const box = document.getElementById("costs"), form = box.querySelector("form"), element = (id) => document.getElementById(`costs-${id}`);
  const field = (name) => form.elements[name], RATIO = "the baseline's";
  let hidden = new Set();
  const bench = () => data.benchmarks[field("benchmark").selectedIndex], measure = () => field("measure").value;

  function newBenchmark() {
    const one = bench(), calls = unique(one.points.map((p) => p[1]));
    hidden = new Set();
    fill(field("call"), calls.map((call) => [call, call]), calls.find((call) => call.endsWith("+backward")));
    fill(field("measure"), unique(one.points.flatMap((p) => Object.keys(p[3]))).map((name) => [name, name.replace(RATIO, `that of ${one.baseline}`)]));
    list();
    newCall();
  }
  function newCall() {
    const lengths = unique(bench().points.filter((p) => p[1] === field("call").value).map((p) => p[2])).sort((a, b) => a - b), kept = Number(field("tokens").value);
    const measured = (n) => bench().points.filter((p) => p[1] === field("call").value && p[2] === n).length, most = Math.max(...lengths.map(measured));
    const longest = lengths.filter((n) => measured(n) > most / 2).pop(); // at which most methods still are
    fill(field("tokens"), lengths.map((n) => [n, `${n.toLocaleString("en")} (${measured(n)} methods)`]), lengths.includes(kept) ? kept : longest);
    draw();
  }
  const list = () => ticks(element("methods"), bench().methods, hidden, () => "", draw);

  // Of what is seen: a row per method and length.
  function shown() {
    const one = bench();
    return one.points.filter(([method, call, , found]) => !hidden.has(method) && call === field("call").value && measure() in found)
      .map(([method, call, length, found]) => ({ method, length, value: found[measure()][0], low: found[measure()][1], high: found[measure()][2], measure: measure(), call, benchmark: one.name, commit: one.commit, command: one.command }));
  }

  async function draw() {
    const one = bench(), rows = shown(), style = new Map(one.methods.map((m) => [m.name, { colour: ink(m.colour), dash: m.dash }]));
    const named = measure().replace(RATIO, `that of ${one.baseline}`), ratio = measure().endsWith(RATIO);
    const lengths = unique(rows.map((r) => r.length)).sort((a, b) => a - b), by = new Map(rows.map((r) => [JSON.stringify([r.method, r.length]), r.value]));
    const out = one.left_out.filter(([method, call]) => !hidden.has(method) && call === field("call").value);
    element("sentence").textContent = least(rows, Number(field("tokens").value), named);
    element("about").textContent = `${one.about} Beside ${one.baseline}. Made by ${one.command} at commit ${one.commit}.`;
    const left = new Map(); // method and reason to lengths
    for (const [method, , length, why] of out) { const key = `${method} (${why})`; left.set(key, [...(left.get(key) ?? []), length.toLocaleString("en")]); }
    element("left-out").textContent = left.size ? `Not measured: ${[...left].map(([key, all]) => `${key} at ${all.join(", ")}`).join("; ")}.` : "";
    table("costs-table", named, [["method", ...lengths], ...unique(rows.map((r) => r.method)).map((name) => [name, ...lengths.map((n) => { const value = by.get(JSON.stringify([name, n])); return value === undefined ? "–" : String(+value.toPrecision(4)); })])]);
    every("costs-every", `Medians and quartiles of what is shown: ${named}`, rows);
    const spec = structuredClone(data.specs.costs);
    for (const layer of spec.layer) if (layer.encoding.y.title !== undefined) layer.encoding.y.title = named;
    await put("costs-values", spec, { costs: rows.map((row) => ({ ...row, ...style.get(row.method) })), one: ratio ? [{ value: 1 }] : [] });
    box.dataset.drawn = one.name;
  }

  const changed = { benchmark: newBenchmark, call: newCall };
  form.addEventListener("change", (event) => (changed[event.target.name] ?? draw)());
  form.addEventListener("submit", (event) => event.preventDefault());
  box.addEventListener("click", (event) => {
    if (event.target.dataset.methods) { hidden = new Set(event.target.dataset.methods === "all" ? [] : bench().methods.map((m) => m.name)); list(); draw(); }
    if (event.target.dataset.save) save(bench().name, event.target.dataset.save, shown());
  });
  onTheme(() => { list(); draw(); });
  fill(field("benchmark"), data.benchmarks.map((one) => [one.name, one.title]));
  newBenchmark();
})();
