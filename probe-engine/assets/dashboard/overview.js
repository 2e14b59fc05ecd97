// The node at a glance: one figure a tile, with what belongs to it below, and the last minutes as a line.

import { byId, el, set, svg, text } from './dom.js';
import { age, bytes, count, digits, duration, part, percent } from './format.js';

/** Samples of a tile's line: two a second. Fewer than the least begin in its middle. */
const SAMPLES_MAX = 240;
const SAMPLES_MIN = 40;
/** Longer figures are set smaller. */
const LONG = 10;
const LINE = { width: 120, height: 26 };

/** Key, label, what of an overview is drawn as a line. */
const TILES = [
  ['rate', 'Probes / s', (o) => o.attemptsPerSecond],
  ['passive', 'Passive', (o) => o.passiveShare],
  ['failures', 'Failures / s', (o) => o.failuresPerSecond],
  ['lateness', 'Lateness p99', null],
  ['flight', 'In flight', (o) => o.inFlight],
  ['cpu', 'Engine CPU', (o) => o.cpuCores],
  ['pods', 'Pods ready', null],
];

const PHASES = ['Pending', 'Running', 'Succeeded', 'Failed'];

export class Overview {
  constructor() {
    this.samples = new Map();
    this.places = new Map(TILES.map(([key, label]) => {
      const value = el('div', 'value', '–');
      const below = el('div', 'below', ' ');
      const line = svg('svg', { class: 'spark', viewBox: `0 0 ${LINE.width} ${LINE.height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, svg('path'));
      const tile = el('div', 'tile', el('div', 'label', label), value, below, line);
      tile.dataset.tile = key;
      return [key, { tile, value, below, line }];
    }));
    set(byId('tiles'), ...[...this.places.values()].map((place) => place.tile));
  }

  show(o) {
    text(byId('node'), o.nodeName);
    text(byId('facts'), `v${o.version} · runtime ${o.runtime} · up ${age(o.uptimeNs / 1e6)}`);
    const pods = o.podsByPhase.reduce((sum, n) => sum + n, 0);
    const others = PHASES.map((phase, index) => [phase, o.podsByPhase[index]]).filter(([phase, n]) => n && phase !== 'Running');
    this.#tile('rate', digits(o.attemptsPerSecond), `${count(o.probes)} ${o.probes === 1 ? 'probe' : 'probes'}`);
    this.#tile('passive', percent(o.passiveShare), 'without a connection');
    this.#tile('failures', digits(o.failuresPerSecond), `${count(o.probesFailing)} ${o.probesFailing === 1 ? 'probe' : 'probes'} failing`, o.probesFailing > 0 ? 'bad' : '');
    this.#tile('lateness', o.lateness.count ? duration(o.lateness.p99Ns) : '–', 'after due, last minute');
    const busy = o.pool.filter((lane) => lane.inFlight || lane.queued);
    const pool = busy.map((lane) => `${lane.handler} ${part(lane.inFlight, lane.inFlightMax)}${lane.queued ? ` +${count(lane.queued)}` : ''}`);
    this.#tile('flight', count(o.inFlight), pool.length ? `pool: ${pool.join(', ')}` : `of ${count(o.inFlightMax)}`);
    this.#tile('cpu', `${digits(o.cpuCores)} cores`, `${bytes(o.memoryBytes)} of memory`);
    const waiting = pods - o.podsReady - o.podsByPhase[2];
    this.#tile('pods', part(o.podsReady, pods), others.map(([phase, n]) => `${count(n)} ${phase}`).join(' · ') || `${count(o.restarts)} ${o.restarts === 1 ? 'restart' : 'restarts'}`, waiting > 0 ? 'warn' : '');
    for (const [key, , sample] of TILES) if (sample) this.#line(key, sample(o));
  }

  #tile(key, value, below, state = '') {
    const place = this.places.get(key);
    text(place.value, value);
    text(place.below, below);
    place.value.classList.toggle('long', value.length > LONG);
    place.tile.dataset.state = state;
  }

  #line(key, sample) {
    const samples = this.samples.get(key) ?? [];
    this.samples.set(key, samples);
    samples.push(sample);
    if (samples.length > SAMPLES_MAX) samples.shift();
    const top = Math.max(...samples) || 1;
    const x = (index) => LINE.width - ((samples.length - 1 - index) * LINE.width) / (Math.max(SAMPLES_MIN, samples.length) - 1);
    const y = (value) => LINE.height - 1 - (value / top) * (LINE.height - 3);
    const points = samples.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
    this.places.get(key).line.firstChild.setAttribute('d', points.length > 1 ? `M${points.join('L')}` : '');
  }
}
