// Colours that scripts draw with. The heatmap's are viridis (Nathaniel Smith, Stéfan van der Walt; CC0), which rises in lightness
// all along, so that it reads without colour vision and in grey; on a light page it runs the other way.

const VIRIDIS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140],
  [34, 168, 132], [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];

// Okabe and Ito's, which are told apart without full colour vision; each line has dashes of its own besides.
const HANDLERS = {
  tcp: ['#0072b2', '#56b4e9', ''],
  http: ['#c4560a', '#f2904d', '7 3'],
  https: ['#00805e', '#2fc79a', '2 3'],
  grpc: ['#a8507f', '#dd93bd', '9 3 2 3'],
  exec: ['#8a6a00', '#e3b53c', '4 2'],
};

const system = matchMedia('(prefers-color-scheme: dark)');

/** The page is dark now, whoever said so. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : system.matches;
}

/** Calls when the system's wish changes. */
export const onSystemTheme = (call) => system.addEventListener('change', call);

/** A colour of the heatmap, from 0 (least) to 1 (most). */
export function heat(share) {
  const at = Math.max(0, Math.min(1, isDark() ? 0.12 + share * 0.88 : 0.94 - share * 0.94)) * (VIRIDIS.length - 1);
  const low = Math.min(VIRIDIS.length - 2, Math.floor(at));
  const mixed = VIRIDIS[low].map((value, index) => Math.round(value + (VIRIDIS[low + 1][index] - value) * (at - low)));
  return `rgb(${mixed.join(',')})`;
}

export function handler(name) {
  const [light, dark, dashes] = HANDLERS[name] ?? ['#555', '#bbb', ''];
  return { colour: isDark() ? dark : light, dashes };
}

/** What canvases take from the style sheet. */
export function drawing() {
  return isDark()
    ? { text: '#9aa5b1', line: '#262d36', cursor: '#e6edf3', passive: [86, 180, 233], failed: '#ff7b72', panel: '#151a21' }
    : { text: '#5b6672', line: '#e4e8ec', cursor: '#1b232c', passive: [0, 114, 178], failed: '#c8372d', panel: '#ffffff' };
}
