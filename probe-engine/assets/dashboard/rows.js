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
  }

  /** All rows, as the daemon gave them. */
  load({ version, podsCount, columns, probeColumns, rows }) {
    Object.assign(this, { version, podsCount, columns, probeColumns, isLoaded: true, isCurrent: true });
    this.pods = new Map();
    this.merge(rows);
  }

  /** Rows of some pods. */
  merge(rows) {
    for (const row of rows) {
      const pod = this.#pod(row);
      this.pods.set(pod.uid, pod);
    }
  }

  /** A frame's change; `false` where it does not go on from what is here: all rows must be read anew. */
  change({ from, version, podsCount, rows, gone }) {
    if (!this.isCurrent || from > this.version) return false;
    this.merge(rows);
    for (const uid of gone) this.pods.delete(uid);
    this.podsCount = podsCount;
    this.version = Math.max(this.version, version);
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

  #pod(row) {
    const pod = named(this.columns, row);
    pod.probes = pod.probes.map((probe) => {
      const of = named(this.probeColumns, probe);
      of.share = of.lastDurationUs / (of.timeoutS * 1e6);
      of.isPaused = of.pausedUntilMs > Date.now();
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
