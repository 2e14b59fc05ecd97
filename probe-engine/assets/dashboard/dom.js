// Elements without markup: whatever a target or a manifest says gets into the page as text, here and nowhere else.

const SVG = 'http://www.w3.org/2000/svg';

export const byId = (id) => document.getElementById(id);

/** An element with a class and children, which are elements or texts. */
export function el(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  fill(made, children);
  return made;
}

/** An element of an SVG with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  fill(made, children);
  return made;
}

/** Replaces what is in an element. */
export function set(parent, ...children) {
  parent.textContent = '';
  fill(parent, children);
}

/** Sets a text where it is another one: what does not change costs no layout. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function fill(parent, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === '') continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Buttons of which one is pressed. `choices`: pairs of key and label. */
export function segments(parent, choices, chosen, choose) {
  const buttons = new Map();
  set(parent, ...choices.map(([key, label]) => {
    const button = el('button', '', el('span', 'label', label), el('span', 'badge'));
    button.type = 'button';
    button.dataset.key = key;
    button.addEventListener('click', () => { press(key); choose(key); });
    buttons.set(key, button);
    return button;
  }));
  const press = (key) => {
    for (const [other, button] of buttons) button.setAttribute('aria-pressed', String(other === key));
  };
  press(chosen);
  return {
    press,
    count: (key, count) => text(buttons.get(key).querySelector('.badge'), count === undefined ? '' : count.toLocaleString('en-US')),
  };
}
