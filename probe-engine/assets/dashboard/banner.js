// What is wrong: with the engine, or with the way to it. Both are said, never guessed from figures that stand still.

import { byId, el, set, text } from './dom.js';
import { age, clock } from './format.js';

const STATES = { connecting: 'connecting', live: 'live', lost: 'disconnected' };

export class Connection {
  constructor(retry) {
    this.newest = { state: 'connecting', lastAt: 0 };
    byId('lost').querySelector('button').addEventListener('click', retry);
    setInterval(() => this.show(this.newest), 1000);
  }

  get isLive() {
    return this.newest.state === 'live';
  }

  /** See `Stream`. */
  show(state) {
    this.newest = { ...state };
    const place = byId('connection');
    place.dataset.state = state.state;
    text(place.querySelector('span'), STATES[state.state]);
    document.body.classList.toggle('stale', state.state === 'lost');
    const told = byId('lost-told');
    if (state.state === 'live') text(told, '');
    const banner = byId('lost');
    banner.hidden = state.state !== 'lost';
    if (banner.hidden) return;
    const since = state.lastAt ? `Disconnected for ${age(Date.now() - state.lastAt)}.` : 'Not connected.';
    const shown = state.lastAt ? ` What is shown was so at ${clock(state.lastAt)}.` : '';
    const next = state.nextAt ? ` Next try in ${age(state.nextAt - Date.now() + 999)}.` : ' Trying again.';
    if (state.why) this.why = state.why;
    // Said once for each loss: what counts down is only seen.
    if (state.why && !told.textContent) text(told, `Disconnected from the daemon: ${state.why}.`);
    text(banner.querySelector('strong'), since);
    text(banner.querySelector('span'), `${shown} ${this.why ? `(${this.why})` : ''}${next}`);
  }
}

/** The engine's own problems, as the overview tells them. */
export function showProblems(problems) {
  const place = byId('problems');
  const key = JSON.stringify(problems);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.hidden = problems.length === 0;
  set(place, ...problems.map((problem) => {
    const row = el('p', problem.severe ? 'problem severe' : 'problem', el('strong', '', problem.kind), el('span', '', problem.text));
    row.setAttribute('role', problem.severe ? 'alert' : 'status');
    return row;
  }));
}
