"use strict";
// The table p(δ) of wavepos.Wavelet in plain JavaScript; tests/test_site.py holds it to Wavelet.table.
(function (root) {
  const BAND_TOLERANCE = 1e-7, DEAD_BELOW = 0.01, RANK_TOLERANCE = 0.01, RANK_LENGTH = 512;
  const RECENCY_HEIGHT = 6, RECENCY_PENALTY = 10, PAPER_LENGTH = 512;

  const gaussianRadius = (tolerance) => Math.sqrt(Math.max(0, -Math.log(tolerance)));
  const WAVELETS = {
    ricker: {
      value: (x, a) => { const s = (x / a) ** 2; return (1 - s) * Math.exp(-0.5 * s); },
      support: (a, tolerance) => {
        const r = a * lastCrossing((u) => Math.abs(1 - u * u) * Math.exp(-0.5 * u * u), Math.sqrt(3), tolerance);
        return [-r, r];
      },
    },
    gaussian: {
      value: (x, a) => Math.exp(-((x / a) ** 2)),
      support: (a, tolerance) => [-a * gaussianRadius(tolerance), a * gaussianRadius(tolerance)],
    },
    haar: {
      value: (x, a) => { const u = x / a; return u >= -0.5 && u < 0 ? 1 : u >= -1 && u < -0.5 ? -1 : 0; },
      support: (a, tolerance) => (tolerance < 1 ? [-a, 0] : [0, 0]),
    },
    morlet: {
      value: (x, a) => Math.exp(-((x / a) ** 2)) * Math.cos(x),
      support: (a, tolerance) => [-a * gaussianRadius(tolerance), a * gaussianRadius(tolerance)],
    },
    true_morlet: {
      value: (x, a) => Math.exp(-0.5 * (x / a) ** 2) * Math.cos((5 * x) / a),
      support: (a, tolerance) => {
        const r = a * Math.sqrt(Math.max(0, -2 * Math.log(tolerance)));
        return [-r, r];
      },
    },
  };

  function lastCrossing(envelope, start, tolerance) {
    if (tolerance >= 1) return 0;
    let low = start, high = start;
    while (envelope(high) > tolerance) { low = high; high *= 2; }
    if (high === start) return start;
    for (let i = 0; i < 200; i++) {
      const middle = 0.5 * (low + high);
      if (envelope(middle) > tolerance) low = middle; else high = middle;
    }
    return high;
  }

  // config: {wavelet, scales, shifts, direction, amplitude}
  function grid(config) {
    const mother = WAVELETS[config.wavelet], past = config.direction === "past";
    const mirrored = (a) => {
      const [low, high] = mother.support(a, BAND_TOLERANCE);
      return past ? high <= 0 && 0 < -low : low >= 0 && 0 < high;
    };
    const amplitude = (a) => {
      if (config.amplitude === "inverse_sqrt") return 1 / Math.sqrt(a);
      if (config.amplitude !== "unit_peak") return 1;
      const [low, high] = mother.support(a, BAND_TOLERANCE), reach = 65536;
      let peak = 0;
      for (let x = Math.floor(Math.max(low, -reach)); x < Math.min(high, reach) + 1; x++) {
        peak = Math.max(peak, Math.abs(mother.value(x, a)));
      }
      return peak > 0 ? 1 / peak : 1;
    };
    const cells = [];
    for (const a of config.scales) {
      const turn = mirrored(a), factor = amplitude(a);
      for (const b of config.shifts) cells.push({ a, b, turn, factor });
    }
    const value = (cell, delta) => {
      const x = past ? delta - cell.b : -delta - cell.b;
      return mother.value(cell.turn ? -x : x, cell.a) * cell.factor;
    };
    const reach = (tolerance = BAND_TOLERANCE) => {
      let farthest = 0;
      for (const cell of cells) {
        if (cell.factor <= tolerance * 1e-3) continue;
        let [low, high] = mother.support(cell.a, tolerance / cell.factor);
        if (cell.turn === past) [low, high] = [-high, -low];
        farthest = Math.max(farthest, Math.floor((past ? cell.b : -cell.b) + high));
      }
      return farthest + 1;
    };
    const table = (length) =>
      Array.from({ length }, (_, delta) => Float64Array.from(cells, (cell) => value(cell, delta)));
    return { cells, table, reach };
  }

  function gram(rows) {
    const width = rows[0].length, found = Array.from({ length: width }, () => new Float64Array(width));
    for (const row of rows) {
      for (let i = 0; i < width; i++) {
        if (row[i] === 0) continue;
        for (let j = i; j < width; j++) found[i][j] += row[i] * row[j];
      }
    }
    for (let i = 0; i < width; i++) for (let j = 0; j < i; j++) found[i][j] = found[j][i];
    return found;
  }

  // Singular values by one-sided Jacobi rotations of the columns, which keeps small ones exact.
  function singularValues(rows) {
    const width = rows[0].length;
    const columns = Array.from({ length: width }, (_, j) => Float64Array.from(rows, (row) => row[j]));
    for (let sweep = 0; sweep < 30; sweep++) {
      let rotated = false;
      for (let p = 0; p < width; p++) {
        for (let q = p + 1; q < width; q++) {
          const x = columns[p], y = columns[q];
          let xx = 0, yy = 0, xy = 0;
          for (let i = 0; i < x.length; i++) { xx += x[i] * x[i]; yy += y[i] * y[i]; xy += x[i] * y[i]; }
          if (Math.abs(xy) <= 1e-9 * Math.sqrt(xx * yy) || xy === 0) continue;
          rotated = true;
          const zeta = (yy - xx) / (2 * xy), t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
          const c = 1 / Math.hypot(1, t), s = c * t;
          for (let i = 0; i < x.length; i++) { const u = x[i]; x[i] = c * u - s * y[i]; y[i] = s * u + c * y[i]; }
        }
      }
      if (!rotated) break;
    }
    return columns.map((column) => Math.hypot(...column)).sort((a, b) => b - a);
  }

  function statistics(config) {
    const rows = grid(config).table(RANK_LENGTH), width = rows[0].length;
    let dead = 0;
    for (let j = 0; j < width; j++) if (rows.every((row) => Math.abs(row[j]) < DEAD_BELOW)) dead++;
    const singular = singularValues(rows);
    return { dead, rank: singular.filter((s) => s > RANK_TOLERANCE * singular[0]).length };
  }

  function alibiSlopes(heads) {
    const power = 2 ** Math.floor(Math.log2(heads));
    const geometric = (n) => Array.from({ length: n }, (_, h) => 2 ** ((-8 * (h + 1)) / n));
    return [...geometric(power), ...geometric(2 * power).filter((_, i) => i % 2 === 0).slice(0, heads - power)];
  }

  // v of min_v Σ_δ (v·p(δ) − √d·max(0, 6 − slope·δ))² + 10‖v‖², by Cholesky's decomposition.
  function recencyStart(config, slope) {
    const { table, reach } = grid(config), rows = table(reach()), width = rows[0].length;
    const matrix = gram(rows), right = new Float64Array(width);
    rows.forEach((row, delta) => {
      const wanted = Math.sqrt(width) * Math.max(0, RECENCY_HEIGHT - slope * delta);
      if (wanted > 0) for (let i = 0; i < width; i++) right[i] += wanted * row[i];
    });
    for (let i = 0; i < width; i++) matrix[i][i] += RECENCY_PENALTY;
    for (let i = 0; i < width; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = matrix[i][j];
        for (let k = 0; k < j; k++) sum -= matrix[i][k] * matrix[j][k];
        matrix[i][j] = i === j ? Math.sqrt(sum) : sum / matrix[j][j];
      }
    }
    for (let i = 0; i < width; i++) {
      for (let k = 0; k < i; k++) right[i] -= matrix[i][k] * right[k];
      right[i] /= matrix[i][i];
    }
    for (let i = width - 1; i >= 0; i--) {
      for (let k = i + 1; k < width; k++) right[i] -= matrix[k][i] * right[k];
      right[i] /= matrix[i][i];
    }
    return right;
  }

  function asJson(config) {
    const shown = { method: "wavelet", wavelet: config.wavelet, scales: config.scales, shifts: config.shifts };
    shown.direction = config.direction;
    shown.amplitude = config.amplitude;
    if (config.query_bias) shown.query_bias = config.query_bias;
    return JSON.stringify(shown);
  }

  function asPython(config) {
    const width = config.scales.length * config.shifts.length;
    const more = config.query_bias ? `, query_bias="${config.query_bias}", num_heads=8` : "";
    return (
      `Wavelet(${width}, "${config.wavelet}", scales=${JSON.stringify(config.scales)}, ` +
      `shifts=${JSON.stringify(config.shifts)}, direction="${config.direction}", amplitude="${config.amplitude}"${more})`
    );
  }

  root.playground = {
    WAVELETS, PAPER_LENGTH, grid, statistics, singularValues, alibiSlopes, recencyStart, asJson, asPython,
  };
})(typeof module === "object" ? module.exports : window);
