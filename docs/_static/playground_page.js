"use strict";
// The form and the drawings of the playground; the numbers are playground.js's.
(function () {
  const { grid, statistics, factors, arithmetic, alibiSlopes, recencyStart, gateStart, gateLogit, asJson, asPython, PAPER_LENGTH } = window.playground;
  const form = document.getElementById("playground-form"), HEADS = 8, MOST = 256;
  const show = (id, text) => { document.getElementById(id).textContent = text; };

  function settings() {
    const given = new FormData(form);
    const scales = given.get("scales").split(/[\s,;]+/).filter(Boolean).map(Number);
    const count = Number(given.get("shifts"));
    if (!scales.length || scales.some((a) => !(a > 0 && a <= 1e6))) {
      throw new Error("Scales take positive numbers of at most 1,000,000, with commas between.");
    }
    if (!Number.isInteger(count) || count < 1 || scales.length * count > MOST) {
      throw new Error(`Shifts take a whole number such that scales × shifts, the head_dim, is at most ${MOST}.`);
    }
    return {
      wavelet: given.get("wavelet"), scales, shifts: Array.from({ length: count }, (_, b) => b),
      direction: given.get("direction"), amplitude: given.get("amplitude"), query_bias: given.get("query_bias"),
      gate: given.get("gate"), gate_as: given.get("gate_as"), length: Number(given.get("length")),
      head: Number(given.get("head")), shown: 2 ** Number(given.get("shown")),
    };
  }

  const colour = (i, n) => `hsl(${Math.round((300 * i) / Math.max(1, n))} 65% 52%)`;

  function draw(id, lines, length, low, high) {
    const left = 44, right = 616, top = 8, bottom = 208, parts = [];
    const x = (delta) => left + ((right - left) * delta) / (length - 1);
    const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low || 1);
    for (let i = 0; i <= 4; i++) {
      const value = low + ((high - low) * i) / 4, delta = Math.round(((length - 1) * i) / 4);
      parts.push(`<line class="grid" x1="${left}" x2="${right}" y1="${y(value)}" y2="${y(value)}"/>`);
      parts.push(`<text x="${left - 6}" y="${y(value) + 4}" text-anchor="end">${+value.toPrecision(2)}</text>`);
      parts.push(`<text x="${x(delta)}" y="${bottom + 19}" text-anchor="middle">${delta}</text>`);
    }
    for (const line of lines) {
      const step = Math.max(1, Math.floor(length / 640)), points = [];
      for (let delta = 0; delta < length; delta += step) {
        const value = Math.min(high, Math.max(low, line.values[delta]));
        points.push(`${x(delta).toFixed(1)},${y(value).toFixed(1)}`);
      }
      const title = line.name ? `<title>${line.name}</title>` : "";
      parts.push(`<polyline points="${points.join(" ")}" stroke="${line.stroke}" ${line.dashed ? 'stroke-dasharray="5 4"' : ""}>${title}</polyline>`);
    }
    parts.push(`<text x="${(left + right) / 2}" y="248" text-anchor="middle">displacement δ, tokens</text>`);
    document.getElementById(id).innerHTML = parts.join("");
  }

  function key(id, lines) {
    document.getElementById(id).replaceChildren(...lines.map((line) => {
      const item = document.createElement("li"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.borderTop = `3px ${line.dashed ? "dashed" : "solid"} ${line.stroke}`;
      item.append(swatch, ` ${line.name}`);
      return item;
    }));
  }

  let pending = 0;
  function update() {
    let config;
    try { config = settings(); } catch (error) { show("playground-error", error.message); return; }
    show("playground-error", "");
    const found = grid(config), rows = found.table(config.shown), width = found.cells.length;
    show("playground-width", width);
    show("playground-reach", `${found.reach().toLocaleString("en")} tokens`);
    show("playground-dead", "…");
    for (const id of ["rank", "cost", "factors"]) show(`playground-${id}`, "…");
    const count = config.shifts.length, middle = Math.floor(count / 2);
    const lines = config.scales.map((a, i) => ({
      name: `a = ${a}, b = ${middle}`, stroke: colour(i, config.scales.length),
      values: rows.map((row) => row[i * count + middle]),
    }));
    const peak = Math.max(1e-9, ...lines.flatMap((line) => line.values.map(Math.abs)));
    draw("playground-table", lines, config.shown, -peak, peak);
    key("playground-table-key", lines);
    const slope = alibiSlopes(HEADS)[config.head - 1], parts = [], sum = new Float64Array(config.shown);
    const add = (name, stroke, values) => { parts.push({ name, stroke, values }); values.forEach((x, delta) => { sum[delta] += x; }); };
    if (config.query_bias) {
      if (found.reach() > 65536) { show("playground-error", "A recency start is shown for reaches up to 65,536 tokens."); return; }
      const v = recencyStart(config, slope);
      add("v·p(δ)/√d of an untrained recency start", "var(--color-brand-primary)", rows.map((row) => row.reduce((total, p, i) => total + v[i] * p, 0) / Math.sqrt(width)));
    }
    if (config.gate) {
      const gate = config.gate_as === "slope" ? -slope : gateStart(), logit = (config.gate === "cable" ? -1 : 1) * (config.gate_as === "slope" ? gateLogit(slope) : 0);
      add(`the gates between, ${+gate.toPrecision(3)} for every key (their logit ${+logit.toPrecision(3)})`, "#d35400", rows.map((_, delta) => gate * delta));
    }
    if (parts.length > 1) parts.push({ name: "their sum", stroke: "#2e8b57", values: sum });
    const line = { name: `6 − ALiBi's slope ${+slope.toPrecision(3)} · δ (dashed)`, stroke: "currentColor", dashed: true, values: rows.map((_, delta) => 6 - slope * delta) };
    draw("playground-bias", [line, ...parts], config.shown, -10, 8);
    key("playground-bias-key", [line, ...parts]);
    show("playground-bias-caption", `What head ${config.head} of ${HEADS} adds to the score of a key δ tokens back, with q·k and q·p(δ) left out` + (parts.length ? "" : ": nothing; choose a query bias or a gate"));
    document.getElementById("playground-json").value = asJson(config);
    document.getElementById("playground-python").value = asPython(config);
    clearTimeout(pending);
    pending = setTimeout(() => {
      const { dead, rank } = statistics(config);
      show("playground-dead", `${dead} of ${width}`);
      show("playground-rank", rank);
      const thin = factors(config);
      show("playground-cost", `× ${arithmetic(config, config.length, thin).toFixed(3)}`);
      show("playground-factors", thin < width ? `${thin} of ${width} columns` : `all ${width} columns`);
    }, 150);
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "fit" && event.target.value > 0) {
      form.elements.scales.value = Array.from({ length: 8 }, (_, i) => (2 ** i * event.target.value) / PAPER_LENGTH).join(", ");
    }
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const area = document.getElementById(button.dataset.copy);
      area.select();
      try { await navigator.clipboard.writeText(area.value); } catch { document.execCommand("copy"); }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = button.dataset.copy.endsWith("json") ? "Copy JSON" : "Copy Python"; }, 1500);
    });
  }
  update();
})();
