// Quantiles per handler, both axes on a log scale: to the right each step is a nine more.

import { byId, el, segments, set, svg } from './dom.js';
import { handler as colourOf } from './colours.js';
import { count, duration } from './format.js';

const QUANTILES = [[0.5, 'p50'], [0.9, 'p90'], [0.99, 'p99'], [0.999, 'p99.9'], [0.9999, 'p99.99']];
const HANDLERS = ['tcp', 'http', 'https', 'grpc', 'exec'];
const KINDS = ['success', 'warning', 'failure'];
/** As the daemon names them. */
const WINDOWS = ['1m', '5m', '1h', '24h', 'start'];
const BOX = { width: 460, height: 220, left: 52, right: 12, top: 10, bottom: 24 };

/** Sums of pairs of value and count, by rising value. */
function merged(parts) {
  const sums = new Map();
  for (const [value, n] of parts.flat()) sums.set(value, (sums.get(value) ?? 0) + n);
  return [...sums].sort(([a], [b]) => a - b);
}

/** The value that a part `q` of all is at most, in the unit of the values. */
function quantile(counts, q) {
  const total = counts.reduce((sum, [, n]) => sum + n, 0);
  let seen = 0;
  for (const [value, n] of counts) {
    seen += n;
    if (seen >= q * total) return value;
  }
  return 0;
}

export class Quantiles {
  /** `chosen`: called when another window is to be shown. */
  constructor(chosen) {
    this.window = WINDOWS.at(-1);
    segments(byId('quantiles-windows'), WINDOWS.map((key) => [key, key]), this.window, (key) => {
      this.window = key;
      // What is shown is another window's.
      this.newest = null;
      byId('quantiles-table').hidden = true;
      set(byId('quantiles'), el('p', 'nothing', 'Not known yet.'));
      chosen();
    });
  }

  /** `latency`: `/api/v1/latency?window=..`; an answer of another window is not the one that is waited for. */
  show(latency) {
    if (latency.window !== this.window) return;
    this.newest = latency;
    const handlers = HANDLERS.filter((name) => latency.latency[name]).map((name) => {
      const byOutcome = latency.latency[name];
      const counts = merged(KINDS.map((kind) => byOutcome[kind]?.counts ?? []));
      const total = counts.reduce((sum, [, n]) => sum + n, 0);
      // A quantile that fewer than one attempt lies beyond says nothing.
      const values = QUANTILES.map(([q]) => (total * (1 - q) >= 0.999 ? quantile(counts, q) * 1000 : 0));
      return { name, total, values, max: (counts.at(-1)?.[0] ?? 0) * 1000 };
    }).filter((of) => of.total > 0);
    byId('quantiles-table').hidden = !handlers.length;
    this.#plot(handlers);
    this.#table(handlers);
  }

  redraw() {
    if (this.newest) this.show(this.newest);
  }

  #plot(handlers) {
    const place = byId('quantiles');
    if (!handlers.length) {
      const when = this.window === 'start' ? 'since the daemon started' : `in the last ${this.window}`;
      set(place, el('p', 'nothing', `No attempt has connected, asked or run anything ${when}.`));
      return;
    }
    const values = handlers.flatMap((of) => [...of.values, of.max]).filter((ns) => ns > 0);
    const low = Math.floor(Math.log10(Math.min(...values)));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
    const x = (q) => BOX.left + ((-Math.log10(1 - q) - 0.301) / (4 - 0.301)) * (BOX.width - BOX.left - BOX.right);
    const y = (ns) => BOX.height - BOX.bottom - ((Math.log10(ns) - low) / (high - low)) * (BOX.height - BOX.top - BOX.bottom);
    const plot = svg('svg', { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: 'img', 'aria-label': 'Quantiles of latency per handler; the table below has the figures' });
    for (let decade = low; decade <= high; decade += 1) {
      const at = y(10 ** decade);
      plot.append(svg('line', { class: 'rule', x1: BOX.left, x2: BOX.width - BOX.right, y1: at, y2: at }));
      plot.append(svg('text', { class: 'axis', x: BOX.left - 6, y: at + 4, 'text-anchor': 'end' }, duration(10 ** decade)));
    }
    for (const [q, name] of QUANTILES) {
      plot.append(svg('line', { class: 'rule', x1: x(q), x2: x(q), y1: BOX.top, y2: BOX.height - BOX.bottom }));
      const anchor = q === 0.5 ? 'start' : q === 0.9999 ? 'end' : 'middle';
      plot.append(svg('text', { class: 'axis', x: x(q), y: BOX.height - 8, 'text-anchor': anchor }, name));
    }
    for (const of of handlers) {
      const { colour, dashes } = colourOf(of.name);
      const points = of.values.map((ns, index) => [ns, QUANTILES[index][0]]).filter(([ns]) => ns > 0);
      const line = points.map(([ns, q]) => `${x(q).toFixed(1)},${y(ns).toFixed(1)}`);
      if (!line.length) continue;
      plot.append(svg('path', { class: 'curve', d: `M${line.join('L')}`, stroke: colour, 'stroke-dasharray': dashes }));
      for (const [ns, q] of points) {
        plot.append(svg('circle', { cx: x(q), cy: y(ns), r: 3, fill: colour }, svg('title', {}, `${of.name}: ${duration(ns)}`)));
      }
    }
    set(place, plot);
  }

  #table(handlers) {
    const head = el('tr', '', ...['handler', 'attempts', ...QUANTILES.map(([, name]) => name), 'max'].map((name) => {
      const cell = el('th', '', name);
      cell.scope = 'col';
      return cell;
    }));
    const rows = handlers.map((of) => {
      const { colour, dashes } = colourOf(of.name);
      const key = svg('svg', { class: 'key', viewBox: '0 0 22 8', 'aria-hidden': 'true' }, svg('path', { class: 'curve', d: 'M1 4H21', stroke: colour, 'stroke-dasharray': dashes }));
      const name = el('th', '', key, of.name);
      name.scope = 'row';
      return el('tr', '', name, ...[count(of.total), ...of.values.map(duration), duration(of.max)].map((value) => el('td', '', value)));
    });
    set(byId('quantiles-table'), el('thead', '', head), el('tbody', '', ...rows));
  }
}
