// The page: the stream's frames to those who show them, the address to what is shown.

import { Connection, showProblems } from './banner.js';
import { onSystemTheme } from './colours.js';
import { byId, text } from './dom.js';
import { Heatmap } from './heatmap.js';
import { Overview } from './overview.js';
import { PodPage } from './pod.js';
import { Quantiles } from './quantiles.js';
import { Rows, STATES } from './rows.js';
import { Stream, read } from './stream.js';
import { Table, path } from './table.js';

const LATENCY_EVERY_MS = 5000;
const ROWS_IN_SIGHT_EVERY_MS = 2000;
/** What is out of sight is as old as this at most. */
const ROWS_ALL_EVERY_MS = 60000;
/** Clocks that are this close are taken for one: a frame's way takes time too. */
const CLOCKS_APART_MS = 500;
/** As the daemon allows. */
const ROWS_ASKED_MAX = 128;
const THEMES = ['system', 'light', 'dark'];

const rows = new Rows();
const overview = new Overview();
const heatmap = new Heatmap();
const quantiles = new Quantiles(() => loadLatency());
const podPage = new PodPage();
const table = new Table(rows, { open: (pod) => go(path(pod)), changed: remember });
let sequence = 0;
let loading = null;
/** Of connections: another one may be to another daemon, which counts anew. */
let connections = 0;
/** When all rows may be asked for again, by `performance.now`. */
let loadAt = 0;
let scroll = 0;

const connection = new Connection(() => stream.retry());
const stream = new Stream({
  opened: resync,
  frame(frame) {
    overview.show(frame.overview);
    showProblems(frame.overview.problems);
    // What was missed of the heatmap is more than a frame holds.
    if (sequence && frame.sequence > sequence + 3) loadHeatmap();
    sequence = frame.sequence;
    if (frame.overview.atMs && Math.abs(frame.overview.atMs - rows.nowMs) > CLOCKS_APART_MS) rows.aheadMs = frame.overview.atMs - Date.now();
    heatmap.add(frame.heatmap);
    if (!rows.change(frame.table)) loadRows();
    else if (frame.table.rows.length || frame.table.gone.length) table.update();
    else table.render();
  },
  state: (state) => connection.show(state),
});
/** All anew: what was missed while there was no connection, or another daemon. The rows follow with the first frame. */
function resync() {
  sequence = 0;
  connections += 1;
  loading = null;
  loadAt = 0;
  rows.isCurrent = false;
  rows.load(null);
  loadHeatmap();
  loadLatency();
  podPage.refresh();
}

async function quietly(work) {
  try {
    await work();
  } catch (error) {
    // The stream tells when the daemon has gone; all else would be a mistake of this page.
    if (!(error instanceof TypeError) && error.name !== 'AbortError' && !error.status) throw error;
  }
}

const loadHeatmap = () => quietly(async () => heatmap.load(await read('/api/v1/heatmap')));

/** One at a time; frames that come meanwhile are laid over it. Where that will not do it is asked for once more, but a slow link is
 * left as long a time for all else. */
function loadRows() {
  if (loading || performance.now() < loadAt) return;
  const [asked, start] = [connections, performance.now()];
  const isStill = () => asked === connections;
  rows.expect();
  loading = quietly(async () => {
    let all = null;
    try {
      all = await read('/api/v1/pods');
    } finally {
      if (isStill()) rows.load(all);
    }
    table.update();
  }).finally(() => {
    if (!isStill()) return;
    loading = null;
    loadAt = 2 * performance.now() - start;
  });
}

const loadLatency = () => quietly(async () => quantiles.show(await read(`/api/v1/latency?window=${quantiles.window}`)));

/** Successes change nothing that the stream would tell of: what is in sight is asked for. */
const loadInSight = () => quietly(async () => {
  const uids = table.inSight().slice(0, ROWS_ASKED_MAX);
  if (!uids.length || loading) return;
  const query = uids.map((uid) => `uid=${encodeURIComponent(uid)}`).join('&');
  const known = new Map(uids.map((uid) => [uid, rows.pods.get(uid)]));
  rows.refresh(await read(`/api/v1/pods?${query}`), known);
  table.update();
});

function every(ms, work) {
  setInterval(() => {
    if (!document.hidden && connection.isLive) work();
  }, ms);
}
const isOverview = () => !byId('overview-view').hidden;
every(LATENCY_EVERY_MS, () => isOverview() && loadLatency());
every(ROWS_IN_SIGHT_EVERY_MS, () => isOverview() && loadInSight());
every(ROWS_ALL_EVERY_MS, () => isOverview() && loadRows());

// ---- addresses ----

function go(to) {
  if (isOverview()) scroll = byId('grid').scrollTop;
  history.pushState({ isOfThisPage: true }, '', to);
  route();
}

/** A part of an address; one that nothing encodes to names nothing that is there. */
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

function route() {
  const [, place, namespace, name] = location.pathname.split('/').map(decoded);
  const isPod = place === 'pods' && name;
  byId('overview-view').hidden = Boolean(isPod);
  byId('pod-view').hidden = !isPod;
  podPage.close();
  if (isPod) {
    document.title = `${namespace}/${name} · probe-engine`;
    podPage.open(namespace, name);
    scrollTo(0, 0);
    return;
  }
  document.title = 'probe-engine';
  const asked = new URLSearchParams(location.search);
  const state = asked.get('state');
  table.choice.search = asked.get('q') ?? '';
  table.choice.state = STATES.some(([key]) => key === state) ? state : 'all';
  byId('search').value = table.choice.search;
  table.states.press(table.choice.state);
  table.update();
  byId('grid').scrollTop = scroll;
  heatmap.draw();
}

/** What the table is narrowed to is part of the address: it can be kept and sent. */
function remember() {
  const asked = new URLSearchParams();
  if (table.choice.search) asked.set('q', table.choice.search);
  if (table.choice.state !== 'all') asked.set('state', table.choice.state);
  const query = asked.toString();
  history.replaceState(history.state, '', query ? `/?${query}` : '/');
}

addEventListener('popstate', route);
document.addEventListener('click', (event) => {
  const link = event.target.closest('a[data-route]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute('href'));
});
document.addEventListener('keydown', (event) => {
  const writes = event.target.closest?.('input, textarea');
  if (event.key === '/' && !writes && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    if (!isOverview()) go('/');
    byId('search').focus();
  } else if (event.key === 'Escape' && !writes && !isOverview()) {
    // What is before an address that was not come to from here is another site, or nothing.
    if (history.state?.isOfThisPage) history.back();
    else go('/');
  }
});

// ---- colours ----

function useTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  text(byId('theme'), theme);
  byId('theme').setAttribute('aria-label', `Colours: ${theme}`);
  redraw();
}

function redraw() {
  heatmap.draw();
  quantiles.redraw();
}

function themeKept() {
  // Where the browser keeps nothing, the system decides.
  try { return THEMES.includes(localStorage.theme) ? localStorage.theme : 'system'; } catch { return 'system'; }
}

byId('theme').addEventListener('click', () => {
  const theme = THEMES[(THEMES.indexOf(byId('theme').textContent) + 1) % THEMES.length];
  try { localStorage.theme = theme; } catch { /* Then it holds as long as the page. */ }
  useTheme(theme);
});
onSystemTheme(redraw);
useTheme(themeKept());
route();
