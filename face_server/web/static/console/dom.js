/** Elements without markup: text always stays text, whatever a name contains. */

/**
 * An element. `attributes` whose name starts with "on" are listeners, true sets a bare attribute,
 * false and null leave it out. Children are nodes, text, or lists of them; null and false are left out.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

/** Replace what is in `element`. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
}

/** Change the text of `element` if it is another: what stays the same is neither drawn nor read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Run `work` while `button` cannot be pressed a second time. */
export async function whilePressed(button, work) {
  button.disabled = true;
  try {
    return await work();
  } finally {
    button.disabled = false;
  }
}

/** A line that tells an error in the server's own sentence. */
export function errorLine(error, ...more) {
  return h("p", { class: "notice bad", role: "alert" }, sentence(error.message), ...more);
}

/** Text as a sentence: a capital first letter and a full stop. */
export function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
