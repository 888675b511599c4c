// The frames of one run, so that any of them can be shown again.
//
// A frame is {nfe, holes}, a hole a list of cells {text, state, confidence, step, isNew, isEdited}: `step` is the forward
// that wrote the token, `isNew` and `isEdited` say what this frame changed.

const MASK = Object.freeze({ text: "", state: "mask", confidence: 0, step: null, isNew: false, isEdited: false });
const masks = (count) => Array.from({ length: count }, () => MASK);

export class Recorder {
  frames = [];
  #first = []; // Lengths of the holes before the first forward.
  #cells = []; // As the last frame shows them, then resized as told since.

  /** Masks come or go before a frame: what is behind them moves. */
  resize({ hole, start, added }) {
    this.#cells[hole] ??= [];
    this.#first[hole] ??= Math.max(added, 0);
    if (added > 0) this.#cells[hole].splice(start, 0, ...masks(added));
    else this.#cells[hole].splice(start, -added);
  }

  /** The canvas after a forward. */
  frame(nfe, holes) {
    if (this.frames.length === 0) {
      this.frames.push({ nfe: 0, holes: holes.map((cells, hole) => masks(this.#first[hole] ?? cells.length)) });
    }
    this.#cells = holes.map((cells, hole) => cells.map((cell, at) => follow(this.#cells[hole]?.[at], cell, nfe)));
    this.frames.push({ nfe, holes: this.#cells.map((cells) => [...cells]) });
  }

  /** The answer: what holes hold in the end, which may be less than their canvas did. */
  finish(nfe, holes) {
    const last = this.frames.at(-1);
    this.frame(nfe, holes.map((tokens) => tokens.map((token) => ({ ...token, state: "final" }))));
    if (last?.nfe !== nfe) return;
    // The same forward twice: one frame, which keeps what that forward changed.
    const merged = this.frames.pop();
    merged.holes.forEach((cells, hole) => cells.forEach((cell, at) => {
      const before = last.holes[hole]?.[at];
      if (before?.text === cell.text) cells[at] = { ...cell, isNew: before.isNew, isEdited: before.isEdited };
    }));
    this.frames[this.frames.length - 1] = merged;
  }
}

function follow(before, cell, nfe) {
  if (cell.state === "mask") return MASK;
  const wasWritten = before !== undefined && before.state !== "mask";
  const isSame = wasWritten && before.text === cell.text;
  return {
    text: cell.text,
    state: cell.state,
    confidence: cell.confidence,
    step: cell.step ?? (isSame ? before.step : nfe),
    isNew: !wasWritten,
    isEdited: wasWritten && !isSame,
  };
}
