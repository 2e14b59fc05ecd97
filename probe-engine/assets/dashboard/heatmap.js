// Latency over time: a column a second, a row per bucket of a log scale. Passive answers have no duration: they have a band of
// their own below, and so have failures.

import { byId, el, segments, set, text } from './dom.js';
import { drawing, heat } from './colours.js';
import { clock, count, duration } from './format.js';

const COLUMNS_MAX = 600;
/** Of a daemon that runs for a shorter time no more is drawn than one of these, in seconds. */
const WINDOWS_S = [120, 300, COLUMNS_MAX];
const HANDLERS = [['all', 'all'], ['tcp', 'tcp'], ['http', 'http'], ['https', 'https'], ['grpc', 'grpc'], ['exec', 'exec']];
const LEFT = 52;
const RIGHT = 8;
const TOP = 6;
/** Seconds that the daemon's clock may be set back by before it begins anew, and so does this. */
const BACK_S_MAX = 5;
/** Height of a band below the map, and the gap before it. */
const BAND = 9;
const GAP = 4;
const AXIS = 18;
const DECADES_NS = [1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

export class Heatmap {
  constructor() {
    this.canvas = byId('heatmap');
    this.columns = new Map();
    this.boundsNs = [];
    this.handler = 'all';
    this.cursor = null;
    segments(byId('heatmap-handlers'), HANDLERS, this.handler, (key) => { this.handler = key; this.draw(); });
    this.canvas.addEventListener('pointermove', (event) => { this.cursor = this.#cellAt(event.offsetX, event.offsetY); this.draw(); });
    this.canvas.addEventListener('pointerleave', () => { this.cursor = null; this.draw(); });
    this.canvas.addEventListener('blur', () => { this.cursor = null; this.draw(); });
    this.canvas.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** All that the daemon kept. */
  load({ boundsNs, columns }) {
    this.boundsNs = boundsNs;
    this.columns = new Map(columns.map((column) => [column.atS, column]));
    this.draw();
  }

  /** The newest columns. */
  add(columns) {
    if (columns.length && columns.at(-1).atS < this.newestS - BACK_S_MAX) this.columns.clear();
    for (const column of columns) this.columns.set(column.atS, column);
    const oldest = this.newestS - COLUMNS_MAX;
    for (const atS of this.columns.keys()) if (atS <= oldest) this.columns.delete(atS);
    this.draw();
  }

  get newestS() {
    let newest = 0;
    for (const atS of this.columns.keys()) newest = Math.max(newest, atS);
    return newest;
  }

  draw() {
    if (!this.boundsNs.length || !this.canvas.clientWidth) return;
    const plan = this.#plan();
    const context = this.canvas.getContext('2d');
    context.setTransform(plan.scale, 0, 0, plan.scale, 0, 0);
    context.clearRect(0, 0, plan.width, plan.height);
    const cells = this.#cells(plan);
    this.#frame(context, plan);
    for (const { x, bucket, n } of cells.real) {
      context.fillStyle = heat(cells.max > 1 ? Math.log(n) / Math.log(cells.max) : 1);
      const y = plan.y(bucket);
      context.fillRect(x, y, plan.cellWidth + 0.5, plan.y(bucket - 1) - y + 0.5);
    }
    const colours = drawing();
    for (const { x, n } of cells.passive) {
      const strength = 0.25 + 0.75 * (cells.passiveMax > 1 ? Math.log(n) / Math.log(cells.passiveMax) : 1);
      context.fillStyle = `rgba(${colours.passive.join(',')},${strength.toFixed(2)})`;
      context.fillRect(x, plan.passiveTop, plan.cellWidth + 0.5, BAND);
    }
    context.fillStyle = colours.failed;
    for (const { x } of cells.failed) context.fillRect(x, plan.failedTop, plan.cellWidth + 0.5, BAND);
    this.#cursor(context, plan);
    this.#legend(cells);
    Object.assign(this.canvas.dataset, {
      left: LEFT, cellWidth: plan.cellWidth, firstS: plan.firstS, top: TOP, cellHeight: plan.cellHeight, buckets: plan.buckets,
    });
  }

  #plan() {
    const scale = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const buckets = this.boundsNs.length + 1;
    const bottom = height - AXIS - 2 * (BAND + GAP);
    const cellHeight = (bottom - TOP) / buckets;
    // On a narrow page fewer seconds, each wide enough to be seen.
    const fits = Math.max(60, Math.floor((width - LEFT - RIGHT) / 1.25));
    const oldestS = Math.min(...this.columns.keys());
    const known = WINDOWS_S.find((window) => this.newestS - oldestS < window) ?? COLUMNS_MAX;
    const shown = Math.min(known, fits);
    const cellWidth = (width - LEFT - RIGHT) / shown;
    const firstS = this.newestS - shown + 1;
    return {
      scale, width, height, buckets, bottom, cellHeight, cellWidth, firstS, shown,
      passiveTop: bottom + GAP,
      failedTop: bottom + GAP + BAND + GAP,
      x: (atS) => LEFT + (atS - firstS) * cellWidth,
      /** Top of a bucket. */
      y: (bucket) => bottom - (bucket + 1) * cellHeight,
    };
  }

  #of(column) {
    return this.handler === 'all' ? column.handlers : column.handlers.filter((of) => of.handler === this.handler);
  }

  #cells(plan) {
    const cells = { real: [], passive: [], failed: [], max: 0, passiveMax: 0 };
    for (const column of this.columns.values()) {
      if (column.atS < plan.firstS) continue;
      const x = plan.x(column.atS);
      const counts = new Map();
      let [passive, failed] = [0, 0];
      for (const of of this.#of(column)) {
        for (const [bucket, n] of of.real) counts.set(bucket, (counts.get(bucket) ?? 0) + n);
        passive += of.passive;
        failed += of.failed;
      }
      for (const [bucket, n] of counts) {
        cells.real.push({ x, bucket, n });
        cells.max = Math.max(cells.max, n);
      }
      if (passive) cells.passive.push({ x, n: passive });
      if (failed) cells.failed.push({ x, n: failed });
      cells.passiveMax = Math.max(cells.passiveMax, passive);
    }
    return cells;
  }

  #frame(context, plan) {
    const colours = drawing();
    context.font = '11px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    context.lineWidth = 1;
    for (const ns of DECADES_NS) {
      const bucket = this.boundsNs.findIndex((bound) => bound >= ns * 0.999);
      if (bucket < 0) continue;
      const y = Math.round(plan.y(bucket)) + 0.5;
      context.strokeStyle = colours.line;
      context.beginPath();
      context.moveTo(LEFT, y);
      context.lineTo(plan.width - RIGHT, y);
      context.stroke();
      context.fillStyle = colours.text;
      context.fillText(duration(ns), LEFT - 6, y);
    }
    context.fillStyle = colours.text;
    context.fillText('passive', LEFT - 6, plan.passiveTop + BAND / 2);
    context.fillText('failed', LEFT - 6, plan.failedTop + BAND / 2);
    context.fillStyle = colours.line;
    context.fillRect(LEFT, plan.passiveTop, plan.width - LEFT - RIGHT, BAND);
    context.fillRect(LEFT, plan.failedTop, plan.width - LEFT - RIGHT, BAND);
    context.textAlign = 'center';
    context.fillStyle = colours.text;
    const step = [30, 60, 120, 300].find((step) => step * plan.cellWidth >= 70) ?? 600;
    for (let atS = Math.ceil(plan.firstS / step) * step; atS < plan.firstS + plan.shown; atS += step) {
      const x = plan.x(atS);
      if (x > LEFT + 18 && x < plan.width - RIGHT - 18) context.fillText(clock(atS * 1000).slice(0, step < 60 ? 8 : 5), x, plan.height - AXIS / 2 + 1);
    }
  }

  #cellAt(x, y) {
    const plan = this.#plan();
    const atS = plan.firstS + Math.floor((x - LEFT) / plan.cellWidth);
    const bucket = Math.floor((plan.bottom - y) / plan.cellHeight);
    if (x < LEFT || x > plan.width - RIGHT || y > plan.height - AXIS) return null;
    return { atS, bucket: Math.max(0, Math.min(plan.buckets - 1, bucket)) };
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key === 'Escape') this.cursor = null;
    else if (moves[event.key]) {
      const plan = this.#plan();
      const [right, up] = moves[event.key].map((step) => step * (event.shiftKey ? 10 : 1));
      const from = this.cursor ?? { atS: this.newestS - 1, bucket: Math.floor(plan.buckets / 2) };
      this.cursor = {
        atS: Math.max(plan.firstS, Math.min(plan.firstS + plan.shown - 1, from.atS + right)),
        bucket: Math.max(0, Math.min(plan.buckets - 1, from.bucket + up)),
      };
    } else return;
    event.preventDefault();
    this.draw();
  }

  #cursor(context, plan) {
    if (!this.cursor) {
      text(byId('heatmap-readout'), 'Point at a cell, or focus the map and use the arrow keys.');
      return;
    }
    const { atS, bucket } = this.cursor;
    context.strokeStyle = drawing().cursor;
    context.lineWidth = 1;
    context.strokeRect(plan.x(atS) - 0.5, plan.y(bucket) - 0.5, plan.cellWidth + 1, plan.cellHeight + 1);
    const column = this.columns.get(atS);
    const low = bucket ? this.boundsNs[bucket - 1] : 0;
    const range = bucket < this.boundsNs.length ? `${bucket ? duration(low) : '0'} – ${duration(this.boundsNs[bucket])}` : `over ${duration(low)}`;
    if (!column) {
      text(byId('heatmap-readout'), `${clock(atS * 1000)} · ${range}: nothing was told`);
      return;
    }
    const sum = (of) => this.#of(column).reduce((total, each) => total + of(each), 0);
    const n = sum((of) => of.real.find(([index]) => index === bucket)?.[1] ?? 0);
    const all = sum((of) => of.real.reduce((total, [, each]) => total + each, 0));
    text(byId('heatmap-readout'), `${clock(atS * 1000)} · ${range}: ${count(n)} of ${count(all)} attempts · ${count(sum((of) => of.passive))} passive · ${count(sum((of) => of.failed))} failed`);
  }

  #legend({ max }) {
    const place = byId('heatmap-legend');
    const key = `${max} ${document.documentElement.dataset.theme} ${drawing().panel}`;
    if (place.dataset.key === key) return;
    place.dataset.key = key;
    const bar = document.createElement('canvas');
    bar.width = 96;
    bar.height = 8;
    const context = bar.getContext('2d');
    for (let x = 0; x < 96; x += 1) {
      context.fillStyle = heat(x / 95);
      context.fillRect(x, 0, 1, 8);
    }
    set(place, el('span', '', '1'), bar, el('span', '', max > 1 ? count(max) : 'a cell'), el('span', 'hint', 'attempts'));
  }
}
