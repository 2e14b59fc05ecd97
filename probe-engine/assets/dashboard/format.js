// Numbers as people read them: three digits, the unit beside them.

const UNITS = [[1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']];

/** `1.25 ms`; `–` for nothing. */
export function duration(ns) {
  if (!ns) return '–';
  const [size, unit] = UNITS.find(([size]) => ns >= size) ?? [1, 'ns'];
  return `${digits(ns / size)} ${unit}`;
}

/** At most three digits that count. */
export function digits(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(size >= 1e7 ? 1 : 2)} M`;
  if (size >= 1000) return Math.round(value).toLocaleString('en-US');
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace(/\.0+$|(\.\d*[1-9])0+$/, '$1');
}

export const count = (value) => Math.round(value).toLocaleString('en-US');

/** `3 of 4`: as kubectl counts containers. */
export const part = (some, all) => `${count(some)}/${count(all)}`;

/** `12s`, `5m`, `3h`, `2d`: as kubectl tells ages. */
export function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 120) return `${s}s`;
  if (s < 7200) return `${Math.floor(s / 60)}m`;
  if (s < 172800) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86400)}d`;
}

/** `14:03:59` in this browser's time zone. */
export function clock(ms) {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, '0')).join(':');
}

/** With the day. */
export function date(ms) {
  const of = new Date(ms);
  const day = [of.getFullYear(), of.getMonth() + 1, of.getDate()].map((n) => String(n).padStart(2, '0')).join('-');
  return `${day} ${clock(ms)}`;
}

export function bytes(value) {
  if (!value) return '–';
  return value >= 2 ** 30 ? `${digits(value / 2 ** 30)} GiB` : `${digits(value / 2 ** 20)} MiB`;
}

export const percent = (share) => `${digits(share * 100)} %`;
