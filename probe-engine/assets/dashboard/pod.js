// One pod: what `probe-engine describe` tells, kept up to date, with a timeline of verdicts, restarts and events.

import { byId, el, set, svg } from './dom.js';
import { age, clock, count, date, duration } from './format.js';
import { read } from './stream.js';

const EVERY_MS = 1000;
const SPANS = [['10 min', 600e3], ['1 h', 3600e3], ['all', Infinity]];
const BOX = { widthMin: 320, left: 150, right: 14, lane: 22, bar: 10, barFailed: 16 };
/** Below this width a timeline has less room for names, and fewer times. */
const NARROW_PX = 640;
/** Probes of a container get their first verdicts within so long after it was started. */
const START_MS = 300;
/** What scrolls on its own. */
const SCROLLED = ['.said', '.scroll-x', '.events'];
const VERDICTS = { Success: 'ok', Failure: 'fail', Unknown: 'unknown', True: 'ok', False: 'fail', '': 'none' };

export class PodPage {
  constructor() {
    this.view = byId('pod-view');
    this.span = SPANS[0][1];
    document.addEventListener('visibilitychange', () => this.#soon(0));
    this.view.addEventListener('pointerdown', (event) => { this.isPressed = event.button === 0; });
    for (const end of ['pointerup', 'pointercancel', 'contextmenu', 'blur']) addEventListener(end, () => this.#released());
    // Where the end was not told: a scroll bar, or another window.
    addEventListener('pointermove', (event) => { if (!event.buttons) this.#released(); });
  }

  /** Shows the pod of this name until `close`. */
  open(namespace, name) {
    Object.assign(this, { namespace, name, isOpen: true, pod: null, draw: null, isPressed: false, key: '' });
    this.#tell('loading', () => [el('p', 'nothing', 'loading')]);
    this.#soon(0);
  }

  close() {
    this.isOpen = false;
    this.draw = null;
    clearTimeout(this.timer);
  }

  /** Reads it anew at once. */
  refresh() {
    if (this.isOpen) this.#soon(0);
  }

  #soon(after) {
    clearTimeout(this.timer);
    if (this.isOpen && !document.hidden) this.timer = setTimeout(() => this.#load(), after);
  }

  async #load() {
    const [namespace, name] = [this.namespace, this.name];
    const isStill = () => this.isOpen && this.namespace === namespace && this.name === name;
    try {
      const pod = await read(`/api/v1/pods/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`);
      if (isStill()) {
        const isFirst = !this.pod;
        this.pod = pod;
        // What somebody has marked, to copy it, stays marked.
        if (isFirst || !this.#isMarked()) this.#unpressed(() => this.#show());
      }
    } catch (error) {
      if (isStill() && error.status === 404) this.#unpressed(() => this.#missing(error.message));
      else if (isStill() && !this.pod) this.#unpressed(() => this.#unread(error));
    }
    if (isStill()) this.#soon(EVERY_MS);
  }

  /** Draws now, or when the pointer is up again: pressed on one element and let go on another, nothing is clicked. */
  #unpressed(draw) {
    this.draw = this.isPressed ? draw : null;
    if (!this.draw) draw();
  }

  #released() {
    if (!this.isPressed) return;
    this.isPressed = false;
    // The click that this makes comes first.
    setTimeout(() => {
      const { draw } = this;
      if (!draw || this.isPressed) return;
      this.draw = null;
      if (!this.#isMarked()) draw();
    });
  }

  #isMarked() {
    const marked = getSelection();
    return !marked.isCollapsed && this.view.contains(marked.anchorNode);
  }

  #missing(words) {
    const was = this.pod ? el('p', '', `It was here until a moment ago, with the UID ${this.pod.uid}.`) : null;
    this.#tell(`missing: ${words}`, () => [el('section', 'panel empty', el('strong', '', `There is no pod ${this.namespace}/${this.name}.`), was,
      el('p', '', `The daemon says: ${words}. When one of that name comes it shows here.`))]);
  }

  #unread(error) {
    const words = error.status ? error.message : 'The daemon cannot be reached; trying again.';
    this.#tell(`unread: ${words}`, () => [el('p', 'nothing', words)]);
  }

  /** Something instead of a pod. What is told already stays as it is. */
  #tell(key, made) {
    if (this.key === key) return;
    this.key = key;
    const isBack = this.#focused()?.matches('.back');
    set(this.view, this.#back(), ...made());
    if (isBack) this.view.querySelector('.back').focus({ preventScroll: true });
  }

  /** What has the keyboard, where that is on this page. */
  #focused() {
    const element = document.activeElement;
    return element && element !== this.view && this.view.contains(element) ? element : null;
  }

  #back() {
    const link = el('a', 'back', '← all pods');
    link.href = '/';
    link.dataset.route = '';
    link.dataset.keep = 'back';
    return link;
  }

  #show() {
    const { pod } = this;
    this.key = 'pod';
    const restore = this.#places();
    const ready = pod.conditions.find((condition) => condition.type === 'Ready')?.status ?? 'Unknown';
    const status = pod.deleting ? 'Terminating' : pod.phase;
    const head = el('div', 'pod-head', el('h1', '', el('span', 'namespace', `${pod.namespace}/`), pod.name),
      badge(status, status === 'Running' || status === 'Succeeded' ? 'ok' : status === 'Failed' ? 'fail' : 'unknown'),
      badge(ready === 'True' ? 'Ready' : 'not Ready', VERDICTS[ready]));
    set(this.view, this.#back(), head, el('div', 'pod-grid', this.#facts(), this.#conditions()), this.#timeline(),
      ...pod.containers.map((container) => this.#container(container)), this.#events());
    restore();
  }

  /** What is scrolled how far, and what has the keyboard; gives what puts it back once all is drawn anew. */
  #places() {
    const focused = this.#focused();
    const keep = focused?.dataset.keep;
    const places = SCROLLED.map((selector) => [...this.view.querySelectorAll(selector)].map((element) => [element.scrollTop, element.scrollLeft, element === focused]));
    return () => {
      SCROLLED.forEach((selector, kind) => this.view.querySelectorAll(selector).forEach((element, index) => {
        const [top, left, isFocused] = places[kind][index] ?? [0, 0, false];
        if (top) element.scrollTop = top;
        if (left) element.scrollLeft = left;
        if (isFocused) element.focus({ preventScroll: true });
      }));
      // The page stays where it is, wherever on it the keyboard is.
      if (keep) this.view.querySelector(`[data-keep="${CSS.escape(keep)}"]`)?.focus({ preventScroll: true });
    };
  }

  #facts() {
    const { pod } = this;
    const labels = Object.entries(pod.labels).sort().map(([key, value]) => el('span', 'label-chip', `${key}=${value}`));
    return panel('Pod', pairs([
      ['UID', el('code', '', pod.uid)],
      ['IP', pod.podIP || '–'],
      ['Since', `${date(pod.createdAtMs)} (${age(pod.nowMs - pod.createdAtMs)})`],
      ['Restart policy', `${pod.restartPolicy}, grace period ${pod.terminationGracePeriodS} s`],
      ['Source', pod.source || null],
      ['Labels', labels.length ? el('span', 'labels', ...labels) : '–'],
      ['Ignored fields', pod.ignoredFields.length ? el('span', '', ...pod.ignoredFields.map((field) => el('div', '', field))) : null],
    ]));
  }

  #conditions() {
    const { pod } = this;
    const rows = pod.conditions.map((condition) => el('tr', '', el('td', '', condition.type), el('td', '', badge(condition.status, VERDICTS[condition.status] ?? 'unknown')),
      el('td', '', condition.sinceMs ? age(pod.nowMs - condition.sinceMs) : '–'), el('td', 'wrap', [condition.reason, condition.message].filter(Boolean).join(': '))));
    return panel('Conditions', table(['Type', 'Status', 'Since', 'Why'], rows));
  }

  #container(of) {
    const { pod } = this;
    const facts = [
      ['State', stateOf(of.state, pod.nowMs)],
      ['Last end', of.lastTermination ? endOf(of.lastTermination, pod.nowMs) : null],
      ['Instance', of.id ? el('code', '', of.id) : 'never started'],
      ['Image', of.image || null],
      ['Restarts', count(of.restartCount)],
      ['Started, ready', `${of.started ? 'started' : 'not started'}, ${of.ready ? 'ready' : 'not ready'}`],
    ];
    const kind = of.kind === 'regular' ? '' : ` (${of.kind})`;
    const made = panel(`Container ${of.name}${kind}`, pairs(facts), el('div', 'probes', ...of.probes.map((probe) => this.#probe(probe))));
    if (!of.probes.length) made.append(el('p', 'nothing', 'It has no probes.'));
    return made;
  }

  #probe(probe) {
    const { nowMs } = this.pod;
    const share = probe.lastDurationNs / (probe.timeoutS * 1e9);
    const bar = el('i', share >= 0.8 ? 'near' : '');
    bar.style.width = `${Math.min(100, share * 100).toFixed(1)}%`;
    const durations = probe.durations?.count ? `p50 about ${duration(probe.durations.p50Ns)}, p99 about ${duration(probe.durations.p99Ns)}, longest ${duration(probe.durations.maxNs)} (${count(probe.durations.count)} attempts)` : null;
    const near = [probe.near & 1 ? 'An attempt of the last 10 minutes took most of its timeout.' : '', probe.near & 2 ? 'One failure more makes the verdict.' : ''].filter(Boolean).join(' ');
    const card = el('article', 'probe-card',
      el('h3', '', probe.type, ' ', badge(probe.verdict || 'no verdict', VERDICTS[probe.verdict]), probe.pausedUntilMs ? badge(`paused until ${clock(probe.pausedUntilMs)}`, 'unknown') : null, probe.onHold ? badge('on hold', 'unknown') : null),
      el('p', 'asks', el('code', '', `${probe.handler} ${probe.target}`)),
      pairs([
        ['Asks', `every ${probe.periodS} s, after ${probe.initialDelayS} s; timeout ${probe.timeoutS} s; ${probe.successThreshold} × success, ${probe.failureThreshold} × failure`],
        ['Verdict since', probe.verdictSinceMs ? `${clock(probe.verdictSinceMs)} (${age(nowMs - probe.verdictSinceMs)})` : null],
        ['Run', probe.threshold ? `${Math.min(probe.run, probe.threshold)} of ${probe.threshold}${probe.run > probe.threshold ? ` (${count(probe.run)})` : ''}` : null],
        ['Newest', probe.last ? `${probe.last}, ${age(nowMs - probe.lastAtMs)} ago` : 'no attempt yet'],
        ['Said', probe.lastMessage ? el('pre', 'said', probe.lastMessage) : null],
        ['Took', probe.last ? el('span', 'took-line', `${probe.lastDurationNs ? duration(probe.lastDurationNs) : 'no time'} of ${probe.timeoutS} s`, el('span', 'bar', bar)) : null],
        ['Durations', durations],
        ['Attempts', `${count(probe.successful)} succeeded, ${count(probe.failed)} failed`],
        ['Answered', probe.answer ? `${probe.answer} (${count(probe.passive)} passive, ${count(probe.real)} real${probe.answerReal && probe.answerReal !== probe.answer ? `; last ${probe.answerReal}` : ''})` : null],
        ['Detection', probe.worstCaseDetectionS ? `${probe.worstCaseDetectionS} s at worst` : null],
        ['Next', probe.dueAtMs ? `in ${age(probe.dueAtMs - nowMs)}` : null],
        ['Near miss', near || null],
      ]));
    if (probe.near) card.classList.add('near');
    if (probe.verdict === 'Failure') card.classList.add('failing');
    return card;
  }

  #events() {
    const { pod } = this;
    const rows = [...pod.events].reverse().map((event) => el('tr', event.type === 'Warning' ? 'warning' : '',
      el('td', 'time', clock(event.atMs)), el('td', '', event.reason), el('td', '', event.container ?? ''),
      el('td', '', event.threshold ? `${event.run} of ${event.threshold}` : ''), el('td', '', event.count > 1 ? `× ${count(event.count)}` : ''), el('td', 'wrap', event.message)));
    const body = rows.length ? el('div', 'events', table(['Time', 'Reason', 'Container', 'Run', 'Count', 'Message'], rows)) : el('p', 'nothing', 'Nothing has happened that an event tells of.');
    return panel('Events', body);
  }

  #timeline() {
    const { pod } = this;
    const fromMs = Math.max(pod.createdAtMs, pod.nowMs - this.span, Number.isFinite(this.span) ? 0 : Math.min(pod.createdAtMs, ...pod.timeline.changes.map((change) => change.atMs)));
    const lanes = this.#lanes(fromMs);
    const height = 8 + (lanes.length + 2) * BOX.lane + 22;
    const width = Math.max(BOX.widthMin, this.view.clientWidth - 4);
    const [left, steps] = width < NARROW_PX ? [96, 2] : [BOX.left, 4];
    const x = (ms) => left + ((Math.max(ms, fromMs) - fromMs) / Math.max(1000, pod.nowMs - fromMs)) * (width - left - BOX.right);
    const plot = svg('svg', { class: 'timeline', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': 'Verdicts, restarts and events over time; the events are listed below' });
    lanes.forEach((lane, index) => {
      const y = 8 + index * BOX.lane;
      plot.append(svg('text', { class: 'axis', x: left - 10, y: y + 12, 'text-anchor': 'end' }, lane.name));
      for (const span of lane.spans) {
        // A failure is higher besides: colours are not everybody's.
        const bar = VERDICTS[span.verdict] === 'fail' ? BOX.barFailed : BOX.bar;
        plot.append(svg('rect', { class: `span v-${VERDICTS[span.verdict]}`, x: x(span.fromMs), y: y + 8 - bar / 2, width: Math.max(1.5, x(span.toMs) - x(span.fromMs)), height: bar, rx: 2 },
          svg('title', {}, `${lane.name}: ${span.verdict || 'no verdict'}, ${clock(span.fromMs)} to ${clock(span.toMs)}`)));
      }
    });
    const lane = (index, name) => {
      const y = 8 + (lanes.length + index) * BOX.lane;
      plot.append(svg('text', { class: 'axis', x: left - 10, y: y + 12, 'text-anchor': 'end' }, name));
      return y + 8;
    };
    let y = lane(0, 'Starts');
    for (const start of starts(pod.timeline.changes).filter((start) => start.atMs >= fromMs)) {
      plot.append(svg('path', { class: 'mark life', d: `M${x(start.atMs)} ${y - 7}l6 7l-6 7l-6 -7z` }, svg('title', {}, `${clock(start.atMs)} ${start.container} was started`)));
    }
    y = lane(1, 'Events');
    for (const event of pod.events) {
      const className = `mark ${event.type === 'Warning' ? 'warning' : ''}`;
      // Of a series that repeats, its first and its newest occurrence are known.
      for (const atMs of new Set([event.firstAtMs, event.atMs])) {
        if (atMs < fromMs) continue;
        const of = event.count > 1 ? ` (${atMs === event.atMs ? 'newest' : 'first'} of ${count(event.count)})` : '';
        plot.append(svg('circle', { class: className, cx: x(atMs), cy: y, r: 4 }, svg('title', {}, `${clock(atMs)} ${event.reason}${of}: ${event.message}`)));
      }
    }
    for (let step = 0; step <= steps; step += 1) {
      const at = fromMs + ((pod.nowMs - fromMs) * step) / steps;
      plot.append(svg('text', { class: 'axis', x: x(at), y: height - 4, 'text-anchor': step === 0 ? 'start' : step === steps ? 'end' : 'middle' }, clock(at)));
    }
    const choices = el('div', 'segments', ...SPANS.map(([label, span]) => {
      const button = el('button', '', label);
      button.type = 'button';
      button.dataset.keep = `span ${label}`;
      button.setAttribute('aria-pressed', String(span === this.span));
      button.addEventListener('click', () => { this.span = span; this.#show(); });
      return button;
    }));
    const made = panel('Timeline', el('div', 'scroll-x', plot));
    made.firstChild.append(el('span', 'grow'), choices);
    const { completeSinceMs } = pod.timeline;
    if (completeSinceMs && completeSinceMs > fromMs) made.append(el('p', 'hint pad', `A bounded number of changes is kept and shown: what was before ${clock(completeSinceMs)} is not told here.`));
    return made;
  }

  /** A lane for Ready and one for each probe: what held from when to when. */
  #lanes(fromMs) {
    const { pod } = this;
    const changes = pod.timeline.changes;
    const ready = pod.conditions.find((condition) => condition.type === 'Ready');
    const lanes = [{ name: 'Ready', spans: spans(changes.filter((change) => 'ready' in change).map((change) => [change.atMs, change.ready ? 'True' : 'False']), [ready?.sinceMs, ready?.status ?? ''], fromMs, pod.nowMs) }];
    for (const container of pod.containers) {
      for (const probe of container.probes) {
        const own = changes.filter((change) => change.container === container.name && change.probeType === probe.type).map((change) => [change.atMs, change.verdict]);
        const name = pod.containers.length > 1 ? `${probe.type} · ${container.name}` : probe.type;
        lanes.push({ name, spans: spans(own, [probe.verdictSinceMs, probe.verdict], fromMs, pod.nowMs) });
      }
    }
    return lanes;
  }
}

/** `changes`: pairs of time and verdict, rising. `now`: what holds, since when. */
function spans(changes, [sinceMs, verdict], fromMs, nowMs) {
  const known = changes.length ? changes : sinceMs ? [[sinceMs, verdict]] : [];
  const found = [];
  known.forEach(([atMs, of], index) => {
    const toMs = known[index + 1]?.[0] ?? nowMs;
    if (toMs > fromMs && of !== '') found.push({ fromMs: Math.max(atMs, fromMs), toMs, verdict: of });
  });
  return found;
}

/** When containers were started: with each instance its probes get their first verdicts anew. */
function starts(changes) {
  const found = [];
  for (const change of changes) {
    if (change.cause !== 'Initial') continue;
    const before = found.findLast((start) => start.container === change.container);
    if (!before || change.atMs - before.atMs > START_MS) found.push({ atMs: change.atMs, container: change.container });
  }
  return found;
}

function stateOf(state, nowMs) {
  if (!state) return 'not told yet';
  if (state.is === 'Running') return `Running since ${clock(state.startedAtMs)} (${age(nowMs - state.startedAtMs)})`;
  if (state.is === 'Waiting') return ['Waiting', state.reason, state.message].filter(Boolean).join(': ');
  return `Terminated: ${endOf(state, nowMs)}`;
}

function endOf(how, nowMs) {
  const signal = how.signal ? `, signal ${how.signal}` : '';
  const at = how.finishedAtMs ? `, ${age(nowMs - how.finishedAtMs)} ago` : '';
  return `${how.reason || 'ended'}, exit code ${how.exitCode}${signal}${at}`;
}

const badge = (word, verdict) => el('span', `badge-v v-${verdict}`, word);

function panel(title, ...children) {
  return el('section', 'panel', el('div', 'panel-head', el('h2', '', title)), ...children);
}

function pairs(rows) {
  return el('dl', 'pairs', ...rows.filter(([, value]) => value !== null).flatMap(([name, value]) => [el('dt', '', name), el('dd', '', value)]));
}

function table(names, rows) {
  const head = el('tr', '', ...names.map((name) => {
    const cell = el('th', '', name);
    cell.scope = 'col';
    return cell;
  }));
  return el('div', 'scroll-x', el('table', 'figures left', el('thead', '', head), el('tbody', '', ...rows)));
}
