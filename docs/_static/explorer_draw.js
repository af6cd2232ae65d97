"use strict";
// What both parts of the explorer do with the page: colours, charts, lists of methods, tables, files.
(function () {
  const views = {};
  const unique = (values) => [...new Set(values)];

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

  function fill(select, options, chosen) {
    const kept = chosen ?? select.value;
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    if (options.some(([value]) => String(value) === String(kept))) select.value = kept;
  }

  // A tick per method; hidden: names, changed by the ticks.
  function ticks(list, methods, hidden, told, changed) {
    list.replaceChildren(...methods.map((method) => {
      const label = document.createElement("label"), tick = document.createElement("input"), swatch = document.createElement("span");
      tick.type = "checkbox";
      tick.checked = !hidden.has(method.name);
      tick.addEventListener("change", () => { tick.checked ? hidden.delete(method.name) : hidden.add(method.name); changed(); });
      swatch.className = "swatch";
      swatch.style.borderTop = `3px ${method.dash === "dashdot" ? "dashed" : method.dash} ${ink(method.colour)}`;
      label.append(tick, swatch, ` ${method.name}${told(method)}`);
      return label;
    }));
  }

  async function put(id, given, sets) {
    const text = getComputedStyle(document.body).getPropertyValue("--color-foreground-primary").trim() || "currentColor";
    const grid = dark() ? "#444" : "#ddd", spec = structuredClone(given);
    spec.datasets = { ...(spec.datasets ?? {}), ...sets };
    spec.config = { axis: { labelColor: text, titleColor: text, gridColor: grid, domainColor: text, tickColor: text }, view: { stroke: null }, font: "inherit" };
    views[id]?.finalize();
    views[id] = await window.vegaEmbed(`#${id}`, spec, { actions: false, renderer: "svg" });
  }

  // rows: texts; the first row holds the titles of the columns, the first column those of the rows.
  function table(id, caption, [heads, ...rows]) {
    const element = document.createElement("table"), head = element.createTHead().insertRow(), body = element.createTBody();
    element.createCaption().textContent = caption;
    const title = (row, scope, text) => {
      const th = document.createElement("th");
      th.scope = scope;
      th.textContent = text;
      row.append(th);
    };
    for (const text of heads) title(head, "col", text);
    for (const [name, ...cells] of rows) {
      const row = body.insertRow();
      title(row, "row", name);
      for (const text of cells) row.insertCell().textContent = text;
    }
    document.getElementById(id).replaceChildren(element);
  }

  // All rows of what is seen, as a table that is only made while it is open.
  function every(id, caption, rows) {
    const box = document.getElementById(id), shown = () => {
      if (box.parentElement.open) table(id, caption, [Object.keys(rows[0] ?? {}), ...rows.map((row) => Object.values(row).map((x) => (typeof x === "number" ? String(+x.toPrecision(6)) : String(x ?? ""))))]);
      else box.replaceChildren();
    };
    box.parentElement.ontoggle = shown;
    shown();
  }

  function save(name, kind, rows) {
    const text = kind === "json" ? JSON.stringify(rows, null, 1) : window.explorer.csv(rows);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/csv" }));
    link.download = `wavepos-${name}.${kind}`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function onTheme(changed) {
    new MutationObserver(changed).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  }

  window.explorerDraw = { unique, ink, fill, ticks, put, table, every, save, onTheme };
})();
