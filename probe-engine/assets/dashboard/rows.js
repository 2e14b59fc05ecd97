// The table's rows as objects, kept up to date by the frames' changes, and which of them are wanted in which order.

/** States that the table can be narrowed to. */
export const STATES = [
  ['all', 'all', () => true],
  ['not-ready', 'not ready', (pod) => pod.isNotReady],
  ['failing', 'failing', (pod) => pod.isFailing],
  ['paused', 'paused', (pod) => pod.isPaused],
  ['near', 'near miss', (pod) => pod.isNear],
];

const compareText = new Intl.Collator('en', { numeric: true }).compare;

/** What a column sorts by; of what is equal the name decides. */
const SORTS = {
  name: (a, b) => compareText(a.key, b.key),
  state: (a, b) => a.rank - b.rank,
  ready: (a, b) => Number(b.isNotReady) - Number(a.isNotReady) || a.containersReady / a.containers - b.containersReady / b.containers,
  restarts: (a, b) => b.restarts - a.restarts,
  latency: (a, b) => b.worstShare - a.worstShare,
  age: (a, b) => b.addedAtMs - a.addedAtMs,
};

export class Rows {
  constructor() {
    this.pods = new Map();
    this.version = -1;
    this.podsCount = 0;
    this.isLoaded = false;
    /** What the daemon that is there now has told. */
    this.isCurrent = false;
    this.columns = [];
    this.probeColumns = [];
    /** The daemon's clock less this one. */
    this.aheadMs = 0;
    this.kept = null;
  }

  /** Now, by the clock that all times here are of. */
  get nowMs() {
    return Date.now() + this.aheadMs;
  }

  /** All rows are asked for: changes that come before the answer are kept, to be laid over it. */
  expect() {
    this.kept = { from: null, version: null, podsCount: 0, pods: new Map() };
  }

  /** All rows, as the daemon gave them, and what came meanwhile. Without an answer: none will come. */
  load(all) {
    const { kept } = this;
    this.kept = null;
    if (!all) return;
    const { version, podsCount, columns, probeColumns, rows } = all;
    Object.assign(this, { version, podsCount, columns, probeColumns, isLoaded: true, isCurrent: true });
    this.pods = new Map();
    this.merge(rows);
    if (!kept || kept.from === null || kept.version <= version) return;
    // Something between the rows and the changes was missed: they are shown, and asked for anew with the next frame.
    this.isCurrent = kept.from <= version;
    for (const [uid, [since, row]] of kept.pods) {
      // What is older than the rows is in them.
      if (since <= version) continue;
      if (row) this.merge([row]);
      else this.pods.delete(uid);
    }
    this.podsCount = kept.podsCount;
    this.version = kept.version;
  }

  /** Rows of some pods. */
  merge(rows) {
    for (const row of rows) {
      const pod = this.#pod(row);
      this.pods.set(pod.uid, pod);
    }
  }

  /** Rows that were asked for when these pods were known (by UID). What went or changed since then is newer than the answer. */
  refresh(rows, known) {
    for (const row of rows) {
      const before = known.get(row[0]);
      if (before && this.pods.get(row[0]) === before) this.merge([row]);
    }
  }

  /** A frame's change; `false` where it does not go on from what is here: all rows must be read anew. */
  change(change) {
    if (this.kept) this.#keep(change);
    const { from, version, podsCount, rows, gone } = change;
    if (!this.isCurrent || from > this.version) return false;
    // What is no newer than the rows is in them.
    if (version > this.version) {
      this.merge(rows);
      for (const uid of gone) this.pods.delete(uid);
      this.version = version;
    }
    this.podsCount = podsCount;
    return true;
  }

  /** Pods that are searched for and in this state, in order, and how many are in each state. */
  chosen({ search, state, sort, descending }) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const counts = Object.fromEntries(STATES.map(([key]) => [key, 0]));
    const of = STATES.find(([key]) => key === state)[2];
    const pods = [];
    for (const pod of this.pods.values()) {
      if (!words.every((word) => pod.searched.includes(word))) continue;
      for (const [key, , is] of STATES) if (is(pod)) counts[key] += 1;
      if (of(pod)) pods.push(pod);
    }
    const order = SORTS[sort];
    const sign = descending ? -1 : 1;
    pods.sort((a, b) => sign * order(a, b) || compareText(a.key, b.key));
    return { pods, counts };
  }

  /** Of each pod the newest: no more than there are pods, however long the rows take. */
  #keep({ from, version, podsCount, rows, gone }) {
    const { kept } = this;
    // Where a frame was missed only rows that have what it told will do.
    if (kept.from === null || from > kept.version) Object.assign(kept, { from, pods: new Map() });
    // A row begins with its UID.
    for (const row of rows) kept.pods.set(row[0], [version, row]);
    for (const uid of gone) kept.pods.set(uid, [version, null]);
    Object.assign(kept, { version, podsCount });
  }

  #pod(row) {
    const pod = named(this.columns, row);
    pod.probes = pod.probes.map((probe) => {
      const of = named(this.probeColumns, probe);
      of.share = of.lastDurationUs / (of.timeoutS * 1e6);
      of.isPaused = of.pausedUntilMs > 0;
      return of;
    });
    pod.key = `${pod.namespace}/${pod.name}`;
    pod.isFailing = pod.probes.some((probe) => probe.verdict === 'Failure');
    pod.isOver = pod.phase === 'Succeeded' || pod.phase === 'Failed';
    pod.isNotReady = pod.ready !== 'True' && pod.phase !== 'Succeeded';
    pod.isPaused = pod.probes.some((probe) => probe.isPaused);
    pod.isNear = pod.probes.some((probe) => probe.near > 0);
    pod.worst = pod.probes.reduce((worst, probe) => (!worst || probe.share > worst.share ? probe : worst), null);
    pod.worstShare = pod.worst?.share ?? -1;
    pod.rank = rank(pod);
    pod.status = pod.deleting ? 'Terminating' : pod.reason || pod.phase;
    pod.searched = [pod.key, pod.status, pod.podIP, ...pod.probes.flatMap((probe) => [probe.container, probe.handler, probe.target, probe.message])].join(' ').toLowerCase();
    return pod;
  }
}

/** What is wrong comes first. */
function rank(pod) {
  if (pod.isFailing) return 0;
  if (pod.isNotReady) return 1;
  if (pod.isNear) return 2;
  if (pod.isPaused) return 3;
  return pod.isOver ? 5 : 4;
}

/** One word for how a pod is. */
export function condition(pod) {
  return ['failing', 'not-ready', 'near', 'paused', 'well', 'over'][pod.rank];
}

function named(columns, values) {
  const of = {};
  for (let index = 0; index < columns.length; index += 1) of[columns[index]] = values[index];
  return of;
}
