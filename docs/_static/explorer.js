"use strict";
// What the explorer computes of its points; tests/test_explorer.py holds it to wavepos.experiments.tables.
(function (root) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // points: [method, seed, length, nats or accuracy, shown]; by method and length: mean, lowest and highest of what is shown.
  function means(points) {
    const groups = new Map();
    for (const [method, , length, , shown] of points) {
      const key = JSON.stringify([method, length]);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(shown);
    }
    return [...groups].map(([key, values]) => {
      const [method, length] = JSON.parse(key);
      return { method, length, value: mean(values), low: Math.min(...values), high: Math.max(...values), seeds: values.length };
    });
  }

  // Each method less the baseline, paired by seed, with half of the 95% interval (null: one seed). better: −1 or 1,
  // the sign of a difference that is an improvement.
  function differences(points, baseline, { quantiles, fewest, better = -1 }) {
    const values = new Map(points.map(([method, seed, length, value]) => [JSON.stringify([method, seed, length]), value]));
    const pairs = new Map();
    for (const [method, seed, length, value] of points) {
      const base = values.get(JSON.stringify([baseline, seed, length]));
      if (method === baseline || base === undefined) continue;
      const key = JSON.stringify([method, length]);
      if (!pairs.has(key)) pairs.set(key, []);
      pairs.get(key).push(value - base);
    }
    return [...pairs].map(([key, found]) => {
      const [method, length] = JSON.parse(key), count = found.length, centre = mean(found);
      let half = null;
      if (count > 1) {
        const variance = found.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (count - 1);
        half = quantiles[count] * Math.sqrt(variance / count);
      }
      const told = half !== null && count >= fewest && Math.abs(centre) > half;
      const said = told ? (Math.sign(centre) === better ? "better" : "worse") : "cannot be told";
      return { method, length, mean: centre, half, low: centre - (half ?? 0), high: centre + (half ?? 0), seeds: count, said };
    });
  }

  // rows: {method, length, value, low, high} of one kind of call; the sentence of a length.
  function least(rows, length, measure) {
    const most = measure.endsWith("per second"), found = rows.filter((row) => row.length === length);
    found.sort((a, b) => (most ? b.value - a.value : a.value - b.value));
    const place = `${length.toLocaleString("en")} tokens`;
    if (!found.length) return `Nothing of this was measured at ${place}.`;
    const [first, ...others] = found, number = (value) => String(+value.toPrecision(3));
    const unclear = others.filter((row) => row.low <= first.high && first.low <= row.high).map((row) => row.method);
    const beside = unclear.length ? `; not told apart from it (quartiles overlap): ${unclear.join("; ")}` : "";
    const others_said = others.filter((row) => !unclear.includes(row.method)).map((row) => `${row.method} ${number(row.value)}`);
    return `${first.method} has the ${most ? "highest" : "lowest"} ${measure} at ${place}, ${number(first.value)}${beside}${others_said.length ? `. Then: ${others_said.join(", ")}` : ""}.`;
  }

  const quoted = (x) => (/[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : String(x ?? ""));
  const csv = (rows) => [Object.keys(rows[0] ?? {}), ...rows.map(Object.values)].map((row) => row.map(quoted).join(",")).join("\n") + "\n";

  root.explorer = { means, differences, least, csv };
})(typeof module === "object" ? module.exports : window);
