"use strict";
// Means and paired differences of the explorer; tests/test_site.py holds them to wavepos.experiments.tables.
(function (root) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // points: [method, seed, length, nats, shown]; by method and length: mean, lowest and highest of what is shown.
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

  // Nats per token of each method less the baseline's, paired by seed, with half of the 95% interval (null: one seed).
  function differences(points, baseline, quantiles, fewest) {
    const nats = new Map(points.map(([method, seed, length, value]) => [JSON.stringify([method, seed, length]), value]));
    const pairs = new Map();
    for (const [method, seed, length, value] of points) {
      const base = nats.get(JSON.stringify([baseline, seed, length]));
      if (method === baseline || base === undefined) continue;
      const key = JSON.stringify([method, length]);
      if (!pairs.has(key)) pairs.set(key, []);
      pairs.get(key).push(value - base);
    }
    return [...pairs].map(([key, values]) => {
      const [method, length] = JSON.parse(key), count = values.length, centre = mean(values);
      let half = null;
      if (count > 1) {
        const variance = values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (count - 1);
        half = quantiles[count] * Math.sqrt(variance / count);
      }
      const told = half !== null && count >= fewest && Math.abs(centre) > half;
      const said = told ? (centre < 0 ? "better" : "worse") : "cannot be told";
      return { method, length, mean: centre, half, low: centre - (half ?? 0), high: centre + (half ?? 0), seeds: count, said };
    });
  }

  root.explorer = { means, differences };
})(typeof module === "object" ? module.exports : window);
