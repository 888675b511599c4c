// Draws a frame: the given texts, and between them the holes token by token.

const LEVELS = [0, 0.25, 0.5, 0.75, 0.9]; // Least confidence of each colour; index.html has the legend.

/** Show `frame` between `texts` inside `box`; the token that had the focus keeps it. */
export function draw(box, texts, frame) {
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset : null;
  const parts = [];
  texts.forEach((text, hole) => {
    const given = document.createElement("span");
    given.className = "given";
    given.textContent = text;
    parts.push(given);
    if (hole < frame.holes.length) parts.push(...frame.holes[hole].map((cell, at) => cellOf(cell, hole, at)));
  });
  box.replaceChildren(...parts);
  const cells = [...box.querySelectorAll("[data-at]")];
  const kept = focused && (cells.find((each) => each.dataset.hole === focused.hole && each.dataset.at === focused.at) ?? cells.at(-1));
  const entry = kept ?? cells[0];
  if (entry) entry.tabIndex = 0;
  if (kept) kept.focus({ preventScroll: true });
}

export function describe(cell) {
  if (cell.state === "mask") return "a mask: not decided yet";
  const percent = `${Math.round(cell.confidence * 100)} % sure`;
  const how = cell.isEdited ? "edited" : "written";
  const state = cell.state === "draft" ? "draft, may change" : "final";
  const when = cell.step ? `${how} by forward ${cell.step}` : "given as a draft";
  return `${JSON.stringify(cell.text)} · ${percent} · ${when} · ${state}`;
}

/** Arrows move the focus from token to token, Home and End to the ends. */
export function moveFocus(box, event) {
  const cells = [...box.querySelectorAll("[data-at]")];
  const at = cells.indexOf(event.target);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: cells.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  const next = cells[Math.min(Math.max(to, 0), cells.length - 1)];
  cells[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function cellOf(cell, hole, at) {
  const span = document.createElement("span");
  span.dataset.hole = hole;
  span.dataset.at = at;
  span.tabIndex = -1;
  // A focusable thing with a name of its own; its text alone would not say how sure the model was.
  span.setAttribute("role", "img");
  span.setAttribute("aria-label", describe(cell));
  span.textContent = cell.text;
  if (cell.state === "mask") {
    span.className = "mask";
    return span;
  }
  span.className = `token level-${LEVELS.findLastIndex((least) => cell.confidence >= least)}`;
  span.classList.toggle("draft", cell.state === "draft");
  span.classList.toggle("new", cell.isNew);
  span.classList.toggle("edited", cell.isEdited);
  span.classList.toggle("newline", cell.text.includes("\n"));
  return span;
}
