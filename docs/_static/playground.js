"use strict";
// The table p(δ) of wavepos.Wavelet in plain JavaScript; tests/test_playground.py holds it to Wavelet.table.
(function (root) {
  const BAND_TOLERANCE = 1e-7, DEAD_BELOW = 0.01, RANK_TOLERANCE = 0.01, RANK_LENGTH = 512;
  const RECENCY_HEIGHT = 6, RECENCY_PENALTY = 10, PAPER_LENGTH = 512;
  const FACTORS_LENGTH = 1024, FACTORS_MULTIPLE = 8, WORTHWHILE = 0.75, FLOAT32 = 2 ** -23;

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

  // The columns of R in the decomposition QR of the rows, by Householder's reflections: as many rows as columns are left.
  function triangular(rows) {
    const width = rows[0].length, height = Math.max(rows.length, width);
    const columns = Array.from({ length: width }, (_, j) => Float64Array.from({ length: height }, (_, i) => rows[i]?.[j] ?? 0));
    for (let p = 0; p < width; p++) {
      const mirror = columns[p].slice(p);
      let squares = 0;
      for (const x of mirror) squares += x * x;
      if (squares === 0) continue;
      mirror[0] += (mirror[0] < 0 ? -1 : 1) * Math.sqrt(squares);
      let length = 0;
      for (const x of mirror) length += x * x;
      for (let q = p; q < width; q++) {
        const column = columns[q];
        let sum = 0;
        for (let i = 0; i < mirror.length; i++) sum += mirror[i] * column[p + i];
        sum *= 2 / length;
        for (let i = 0; i < mirror.length; i++) column[p + i] -= sum * mirror[i];
      }
    }
    return columns.map((column) => column.slice(0, width));
  }

  // Singular values, the largest first, with their right singular vectors, by one-sided Jacobi rotations.
  function singular(rows) {
    const width = rows[0].length, columns = triangular(rows);
    const turned = Array.from({ length: width }, (_, j) => Float64Array.from({ length: width }, (_, i) => (i === j ? 1 : 0)));
    const rotate = (x, y, c, s) => { for (let i = 0; i < width; i++) { const u = x[i]; x[i] = c * u - s * y[i]; y[i] = s * u + c * y[i]; } };
    const square = (x) => { let sum = 0; for (let i = 0; i < width; i++) sum += x[i] * x[i]; return sum; };
    const nothing = 1e-30 * columns.reduce((sum, x) => sum + square(x), 0);
    for (let sweep = 0; sweep < 30; sweep++) {
      let rotated = false;
      for (let p = 0; p < width; p++) {
        for (let q = p + 1; q < width; q++) {
          const x = columns[p], y = columns[q], xx = square(x), yy = square(y);
          let xy = 0;
          for (let i = 0; i < width; i++) xy += x[i] * y[i];
          if (xx < nothing || yy < nothing || Math.abs(xy) <= 1e-9 * Math.sqrt(xx * yy)) continue;
          rotated = true;
          const zeta = (yy - xx) / (2 * xy), t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
          const c = 1 / Math.hypot(1, t), s = c * t;
          rotate(x, y, c, s);
          rotate(turned[p], turned[q], c, s);
        }
      }
      if (!rotated) break;
    }
    return columns.map((column, j) => ({ value: Math.sqrt(square(column)), vector: turned[j] })).sort((a, b) => b.value - a.value);
  }

  function statistics(config) {
    const rows = grid(config).table(RANK_LENGTH), width = rows[0].length;
    let dead = 0;
    for (let j = 0; j < width; j++) if (rows.every((row) => Math.abs(row[j]) < DEAD_BELOW)) dead++;
    const values = singular(rows).map((one) => one.value);
    return { dead, rank: values.filter((s) => s > RANK_TOLERANCE * values[0]).length };
  }

  // Columns of the thin factor that attention multiplies by in place of the table, float32; its width where none is thin.
  function factors(config) {
    const { cells, table, reach } = grid(config), rows = table(Math.min(reach(), FACTORS_LENGTH)), width = cells.length;
    const largest = rows.reduce((most, row) => row.reduce((m, x) => Math.max(m, Math.abs(x)), most), 0);
    const vectors = singular(rows).map((one) => one.vector), left = new Float64Array(rows.length); // of each row, left out
    let count = width;
    for (; count > 0; count--) {
      const vector = vectors[count - 1];
      rows.forEach((row, i) => { left[i] += row.reduce((sum, x, j) => sum + x * vector[j], 0) ** 2; });
      if (Math.sqrt(left.reduce((most, x) => Math.max(most, x), 0)) > 2 * FLOAT32 * largest) break;
    }
    const thin = Math.ceil(Math.max(count, 1) / FACTORS_MULTIPLE) * FACTORS_MULTIPLE;
    return thin > WORTHWHILE * width || thin > rows.length ? width : thin;
  }

  // Multiply-adds of a forward pass over length tokens beside RoPE's: q·k and the values for all pairs; for the pairs
  // within the reach a product with the table, or with its thin factor, to which each query is projected first.
  function arithmetic(config, length, thin) {
    const { cells, reach } = grid(config), width = cells.length, near = Math.min(reach(), length);
    const pairs = (length * (length + 1)) / 2, band = near * length - (near * (near - 1)) / 2;
    return 1 + (band * thin + (thin < width ? length * width * thin : 0)) / (2 * width * pairs);
  }

  // What a gate is per key where its projection says nothing: as it starts, log σ(0), or with the f that makes it a
  // constant, minus that slope.
  const gateStart = () => -Math.log(2);
  const gateLogit = (slope) => -Math.log(Math.expm1(slope));

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
    if (config.gate) shown.gate = config.gate;
    return JSON.stringify(shown);
  }

  function asPython(config) {
    const width = config.scales.length * config.shifts.length;
    const more = (config.query_bias ? `, query_bias="${config.query_bias}"` : "") + (config.gate ? `, gate="${config.gate}"` : "");
    const heads = more && ", num_heads=8";
    return (
      `Wavelet(${width}, "${config.wavelet}", scales=${JSON.stringify(config.scales)}, ` +
      `shifts=${JSON.stringify(config.shifts)}, direction="${config.direction}", amplitude="${config.amplitude}"${more}${heads})`
    );
  }

  root.playground = {
    WAVELETS, PAPER_LENGTH, grid, statistics, factors, arithmetic, alibiSlopes, recencyStart, gateStart, gateLogit,
    asJson, asPython,
  };
})(typeof module === "object" ? module.exports : window);
