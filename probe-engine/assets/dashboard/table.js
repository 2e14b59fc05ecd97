// Pods and their probes as lines of one height, of which only those in sight are elements: ten thousand pods cost as much as forty.

import { byId, el, segments, set, text } from './dom.js';
import { age, count, duration } from './format.js';
import { STATES, condition } from './rows.js';

/** Height of a line, as in the style sheet. */
const LINE_PX = 30;
/** Lines beyond each edge that are ready to be scrolled to. */
const SPARE = 8;

/** Key to sort by, heading, class of its cells. */
const COLUMNS = [
  ['state', '', 'c-state'],
  ['name', 'Pod', 'c-name'],
  ['status', 'Status', 'c-status'],
  ['ready', 'Ready', 'c-ready'],
  ['restarts', 'Restarts', 'c-restarts'],
  ['probes', 'Probes', 'c-probes'],
  ['latency', 'Slowest probe', 'c-latency'],
  ['age', 'Age', 'c-age'],
];
const SORTABLE = { state: 'state', name: 'name', status: 'state', ready: 'ready', restarts: 'restarts', latency: 'latency', age: 'age' };

const WORDS = { failing: 'failing', 'not-ready': 'not ready', near: 'near miss', paused: 'paused', well: 'well', over: 'over' };
const VERDICTS = { Success: 'ok', Failure: 'fail', Unknown: 'unknown', '': 'none' };

/** `2 of 3`, as the command line tells runs. */
function run(probe) {
  const failed = probe.last === 'failure';
  const threshold = failed ? probe.failureThreshold : probe.successThreshold;
  if (!probe.run) return '';
  return `${Math.min(probe.run, threshold)} of ${threshold}`;
}

export class Table {
  /** `open`: shows a pod's page. `changed`: what is searched for, sorted by or in sight is another. */
  constructor(rows, { open, changed }) {
    Object.assign(this, { rows, open, changed });
    this.choice = { search: '', state: 'all', sort: 'state', descending: false };
    this.opened = new Set();
    this.lines = [];
    this.at = 0;
    this.pool = [];
    this.grid = byId('grid');
    this.body = byId('grid-body');
    this.states = segments(byId('states'), STATES.map(([key, label]) => [key, label]), 'all', (state) => this.choose({ state }));
    this.#head();
    this.grid.addEventListener('scroll', () => this.#soon(), { passive: true });
    this.grid.addEventListener('keydown', (event) => this.#key(event));
    this.body.addEventListener('click', (event) => this.#click(event));
    this.search = byId('search');
    this.search.addEventListener('input', () => this.choose({ search: this.search.value }));
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') { this.search.value = ''; this.choose({ search: '' }); }
      if (event.key === 'ArrowDown' || event.key === 'Enter') { event.preventDefault(); this.grid.focus(); }
    });
    new ResizeObserver(() => this.#soon()).observe(this.grid);
  }

  /** Narrows or sorts otherwise. */
  choose(choice) {
    Object.assign(this.choice, choice);
    if (this.search.value !== this.choice.search) this.search.value = this.choice.search;
    this.states.press(this.choice.state);
    this.at = 0;
    this.grid.scrollTop = 0;
    this.update();
    this.changed();
  }

  /** Takes in what the rows are now. */
  update() {
    const { pods, counts } = this.rows.chosen(this.choice);
    const before = this.lines[this.at];
    this.lines = [];
    for (const pod of pods) {
      this.lines.push({ key: pod.uid, pod });
      if (this.opened.has(pod.uid)) for (const probe of pod.probes) this.lines.push({ key: `${pod.uid} ${probe.container} ${probe.type}`, pod, probe });
    }
    // The cursor stays with its pod, wherever that has gone.
    const place = before ? this.lines.findIndex((line) => line.key === before.key) : -1;
    this.at = place >= 0 ? place : Math.min(this.at, Math.max(0, this.lines.length - 1));
    for (const [key] of STATES) this.states.count(key, this.rows.isLoaded ? counts[key] : undefined);
    this.#tell(pods.length);
    this.render();
  }

  /** UIDs of the pods in sight. */
  inSight() {
    const [first, last] = this.#range(0);
    return [...new Set(this.lines.slice(first, last).map((line) => line.pod.uid))];
  }

  /** Writes the lines in sight. */
  render() {
    const [first, last] = this.#range(SPARE);
    this.body.style.height = `${this.lines.length * LINE_PX}px`;
    this.grid.style.setProperty('--lines', this.lines.length);
    this.grid.setAttribute('aria-rowcount', this.lines.length + 1);
    while (this.pool.length < last - first) {
      const line = made();
      this.pool.push(line);
      this.body.append(line.element);
    }
    // A line of the table keeps its element as long as it is in sight, so that scrolling writes only what comes in.
    this.pool.forEach((line, slot) => {
      const size = this.pool.length;
      const index = first + ((((slot - first) % size) + size) % size);
      const shown = index < last ? this.lines[index] : null;
      line.element.hidden = !shown;
      if (shown) this.#write(line, shown, index);
    });
    const active = this.lines[this.at] && this.at >= first && this.at < last ? `line-${this.at}` : '';
    if (active) this.grid.setAttribute('aria-activedescendant', active);
    else this.grid.removeAttribute('aria-activedescendant');
  }

  #range(spare) {
    const first = Math.floor(this.grid.scrollTop / LINE_PX) - spare;
    const visible = Math.ceil(this.grid.clientHeight / LINE_PX) + 1;
    return [Math.max(0, first), Math.min(this.lines.length, first + visible + 2 * spare)];
  }

  #soon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      // Only the newest is kept, for who observes.
      performance.clearMeasures('table');
      const start = performance.now();
      this.render();
      performance.measure('table', { start });
    });
  }

  #head() {
    const head = byId('grid-head');
    set(head, ...COLUMNS.map(([key, label, className]) => {
      const cell = el('span', className);
      cell.setAttribute('role', 'columnheader');
      const sort = SORTABLE[key];
      if (!sort || !label) {
        set(cell, label);
        return cell;
      }
      const button = el('button', '', label);
      button.type = 'button';
      button.dataset.sort = sort;
      button.addEventListener('click', () => {
        this.choose({ sort, descending: this.choice.sort === sort && !this.choice.descending });
        this.#marks();
      });
      set(cell, button);
      return cell;
    }));
    this.#marks();
  }

  #marks() {
    const marked = new Set();
    for (const button of byId('grid-head').querySelectorAll('button')) {
      const is = button.dataset.sort === this.choice.sort && !marked.has(this.choice.sort) && (button.dataset.sort !== 'state' || button.textContent.startsWith('Status'));
      if (is) marked.add(this.choice.sort);
      const order = is ? (this.choice.descending ? 'descending' : 'ascending') : 'none';
      button.parentElement.setAttribute('aria-sort', order);
    }
  }

  /** Marks the column again after a choice that did not come from it. */
  mark() {
    this.#marks();
  }

  #tell(shown) {
    const { podsCount, pods, isLoaded } = this.rows;
    const all = podsCount > pods.size ? `${count(pods.size)} of ${count(podsCount)} pods of this node are in this table` : `${count(podsCount)} ${podsCount === 1 ? 'pod' : 'pods'}`;
    text(byId('pods-count'), !isLoaded ? 'loading' : shown === pods.size ? all : `${count(shown)} of ${all}`);
    const empty = byId('empty');
    empty.hidden = !isLoaded || shown > 0;
    this.grid.hidden = isLoaded && shown === 0;
    if (empty.hidden) return;
    const words = pods.size
      ? ['No pod is like that.', 'Nothing matches the search and the state that are chosen above.']
      : ['This node has no pods yet.', 'The daemon probes the pods of the manifests that it was started with (--manifests), and those that come through its API. As soon as there is one it shows here.'];
    if (empty.dataset.key === words[0]) return;
    empty.dataset.key = words[0];
    set(empty, el('strong', '', words[0]), el('p', '', words[1]), pods.size ? null : el('code', '', 'probe-engine run --runtime process --manifests pods/'));
  }

  #write(line, { pod, probe, key }, index) {
    const { element } = line;
    if (line.index !== index) {
      line.index = index;
      element.id = `line-${index}`;
      element.setAttribute('aria-rowindex', index + 2);
      element.style.transform = `translateY(${index * LINE_PX}px)`;
    }
    element.classList.toggle('active', index === this.at);
    element.setAttribute('aria-selected', String(index === this.at));
    // The same state of the same line is written already, its ages apart.
    const state = probe ?? pod;
    if (line.key !== key || line.state !== state) {
      Object.assign(line, { key, state });
      element.classList.toggle('probe', Boolean(probe));
      element.setAttribute('aria-level', probe ? 2 : 1);
      if (probe) this.#writeProbe(line, pod, probe);
      else this.#writePod(line, pod);
    }
    if (!probe) element.setAttribute('aria-expanded', String(this.opened.has(pod.uid)));
    const at = probe ? probe.lastAtMs : pod.addedAtMs;
    text(line.cells.age, at ? age(this.rows.nowMs - at) : '–');
  }

  #writePod({ element, cells }, pod) {
    element.removeAttribute('aria-label');
    element.dataset.state = condition(pod);
    cells.state.title = WORDS[condition(pod)];
    text(cells.stateWord, WORDS[condition(pod)]);
    text(cells.namespace, pod.namespace);
    text(cells.name, pod.name);
    cells.name.setAttribute('href', path(pod));
    cells.name.title = pod.key;
    text(cells.status, pod.status);
    text(cells.ready, `${pod.containersReady}/${pod.containers}`);
    text(cells.restarts, String(pod.restarts));
    set(cells.probes, ...pod.probes.slice(0, 9).map((probe) => {
      const chip = el('i', `chip v-${VERDICTS[probe.verdict]}`, probe.type[0]);
      chip.title = `${probe.type} of ${probe.container}: ${probe.verdict || 'no verdict'}`;
      if (probe.near) chip.classList.add('near');
      if (probe.isPaused) chip.classList.add('paused');
      return chip;
    }));
    latency(cells, pod.worst);
  }

  #writeProbe({ element, cells }, pod, probe) {
    element.dataset.state = probe.verdict === 'Failure' ? 'failing' : probe.isPaused ? 'paused' : probe.near ? 'near' : probe.verdict ? 'well' : 'over';
    cells.state.title = probe.verdict || 'no verdict';
    text(cells.stateWord, probe.verdict || 'no verdict');
    text(cells.namespace, `${probe.type} · ${probe.container}`);
    text(cells.name, `${probe.handler} ${probe.target}`);
    cells.name.setAttribute('href', path(pod));
    cells.name.title = `${probe.handler} ${probe.target}`;
    text(cells.status, probe.isPaused ? 'paused' : probe.verdict || 'no verdict');
    text(cells.ready, run(probe));
    text(cells.restarts, `${probe.periodS}s`);
    const said = probe.message ? `${probe.last}: ${probe.message}` : probe.passive && probe.last === 'success' ? 'success, passive' : probe.last || 'no attempt yet';
    set(cells.probes, said);
    cells.probes.title = said;
    latency(cells, probe);
  }

  #click(event) {
    const element = event.target.closest('.line');
    if (!element) return;
    const index = Number(element.id.slice('line-'.length));
    const line = this.lines[index];
    if (!line) return;
    this.at = index;
    const link = event.target.closest('a');
    if (link) {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(line.pod);
    } else if (!line.probe) this.#toggle(line.pod);
    else this.render();
  }

  #toggle(pod, open = !this.opened.has(pod.uid)) {
    if (open) this.opened.add(pod.uid);
    else this.opened.delete(pod.uid);
    this.update();
  }

  #key(event) {
    if (event.target !== this.grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / LINE_PX) - 2);
    const line = this.lines[this.at];
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.lines.length, End: this.lines.length };
    if (event.key in moves) this.#move(this.at + moves[event.key]);
    else if (!line) return;
    else if (event.key === 'ArrowRight') this.#toggle(line.pod, true);
    else if (event.key === 'ArrowLeft') {
      const podAt = this.lines.findIndex((of) => of.pod === line.pod);
      this.at = podAt;
      this.#toggle(line.pod, false);
      this.#move(this.at);
    } else if (event.key === ' ') this.#toggle(line.pod);
    else if (event.key === 'Enter') this.open(line.pod);
    else return;
    event.preventDefault();
  }

  #move(to) {
    this.at = Math.max(0, Math.min(this.lines.length - 1, to));
    const top = this.at * LINE_PX;
    const room = this.grid.clientHeight - LINE_PX;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top + LINE_PX > this.grid.scrollTop + room) this.grid.scrollTop = top + LINE_PX - room;
    this.render();
  }
}

/** The page of a pod. */
export function path(pod) {
  return `/pods/${encodeURIComponent(pod.namespace)}/${encodeURIComponent(pod.name)}`;
}

/** How long the newest attempt took, against its timeout. */
function latency(cells, probe) {
  const took = probe && probe.last ? (probe.lastDurationUs ? duration(probe.lastDurationUs * 1000) : 'instant') : '–';
  text(cells.took, took);
  const share = probe ? Math.min(1, probe.share) : 0;
  cells.bar.style.width = `${(share * 100).toFixed(1)}%`;
  cells.bar.parentElement.hidden = !probe || !probe.last;
  cells.bar.classList.toggle('near', share >= 0.8);
  cells.latency.title = probe ? `${took} of a timeout of ${probe.timeoutS} s (${probe.type} of ${probe.container})` : '';
}

/** An empty line. */
function made() {
  const cells = {
    state: el('span', 'c-state'), stateWord: el('span', 'sr'), namespace: el('span', 'namespace'), name: el('a', 'name'),
    status: el('span', 'c-status'), ready: el('span', 'c-ready'), restarts: el('span', 'c-restarts'), probes: el('span', 'c-probes'),
    latency: el('span', 'c-latency'), took: el('span', 'took'), bar: el('i', ''), age: el('span', 'c-age'),
  };
  cells.name.tabIndex = -1;
  cells.state.append(el('i', 'dot'), cells.stateWord);
  cells.latency.append(cells.took, el('span', 'bar', cells.bar));
  const name = el('span', 'c-name', el('i', 'twist'), cells.namespace, cells.name);
  const element = el('div', 'line', cells.state, name, cells.status, cells.ready, cells.restarts, cells.probes, cells.latency, cells.age);
  element.setAttribute('role', 'row');
  for (const cell of element.children) cell.setAttribute('role', 'gridcell');
  return { element, cells };
}
