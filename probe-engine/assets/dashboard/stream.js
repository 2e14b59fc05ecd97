// The daemon's stream of frames: followed, lost, and found again. Whoever shows what came of it is told how old that is.

/** No frame for so long: the connection counts as lost, whatever the socket says (a daemon that is stopped says nothing). */
const SILENCE_MS = 4000;
/** A page that nobody sees for so long lets go of its place. */
const HIDDEN_MS = 30000;
const WAIT_MIN_MS = 500;
const WAIT_MAX_MS = 8000;

export class Stream {
  /**
   * `opened`: a connection is there, what is shown must be read anew. `frame`: a frame came. `state`: `connecting`, `live` or
   * `lost`, with the time of the last frame, that of the next try, and why.
   */
  constructor({ opened, frame, state }) {
    Object.assign(this, { opened, frame, state });
    this.lastAt = 0;
    this.tries = 0;
    document.addEventListener('visibilitychange', () => this.#seen());
    this.#connect();
  }

  /** Tries now instead of later. */
  retry() {
    if (this.timer) this.#connect();
  }

  async #connect() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.#tell(this.lastAt ? 'lost' : 'connecting', { nextAt: 0 });
    this.abort = new AbortController();
    this.#listen();
    try {
      const response = await fetch('/api/v1/events/stream', { signal: this.abort.signal, cache: 'no-store' });
      if (!response.ok) throw new Error((await response.text()).trim());
      await this.#read(response.body.getReader());
      throw new Error('the daemon ended the stream');
    } catch (error) {
      this.#lost(error);
    }
  }

  async #read(reader) {
    const decoder = new TextDecoder();
    let rest = '';
    this.opened();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
        this.#message(rest.slice(0, end));
        rest = rest.slice(end + 2);
      }
    }
  }

  #message(message) {
    const data = message.split('\n').find((line) => line.startsWith('data: '));
    if (!data) return;
    this.lastAt = Date.now();
    this.tries = 0;
    this.why = '';
    this.#listen();
    this.#tell('live', {});
    this.frame(JSON.parse(data.slice(6)));
  }

  #listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.why = 'the daemon does not answer';
      this.abort.abort();
    }, SILENCE_MS);
  }

  #lost(error) {
    clearTimeout(this.silence);
    if (this.timer) return;
    if (document.hidden && this.why === 'hidden') return;
    const unreachable = error instanceof TypeError || error.name === 'AbortError';
    const why = this.why || (unreachable ? 'the daemon cannot be reached' : error.message);
    const wait = Math.min(WAIT_MAX_MS, WAIT_MIN_MS * 2 ** this.tries) * (0.75 + Math.random() / 2);
    this.tries += 1;
    this.timer = setTimeout(() => this.#connect(), wait);
    this.#tell('lost', { nextAt: Date.now() + wait, why });
    this.why = '';
  }

  #tell(state, more) {
    this.state({ state, lastAt: this.lastAt, ...more });
  }

  #seen() {
    clearTimeout(this.hidden);
    if (!document.hidden) {
      if (this.why === 'hidden') {
        this.why = '';
        this.#connect();
      } else {
        this.retry();
      }
      return;
    }
    this.hidden = setTimeout(() => {
      this.why = 'hidden';
      clearTimeout(this.timer);
      this.timer = 0;
      this.abort.abort();
    }, HIDDEN_MS);
  }
}

/** JSON of a path; an error has the daemon's own words. */
export async function read(path) {
  const response = await fetch(path, { cache: 'no-store' });
  if (!response.ok) {
    const error = new Error((await response.text()).trim());
    error.status = response.status;
    throw error;
  }
  return response.json();
}
