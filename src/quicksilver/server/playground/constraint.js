// What an answer must be: the form's part of it, and the fields of a request that say it.
import { checkedJson } from "./literals.js";

const KINDS = {
  "": { label: "", hint: "", example: "", fields: () => ({}) },
  json_schema: {
    label: "JSON Schema",
    hint: "Draft 2020-12, or 7 where $schema says so. What cannot be kept exactly is refused by name.",
    example: `{
  "type": "object",
  "properties": {
    "name": { "type": "string", "maxLength": 12 },
    "age": { "type": "integer", "minimum": 0, "maximum": 120 }
  },
  "required": ["name", "age"]
}`,
    fields: (text) => ({
      response_format: { type: "json_schema", json_schema: { name: "answer", schema: checkedJson(text), strict: true } },
    }),
  },
  regex: {
    label: "Regular expression",
    hint: "The whole answer matches it; Python's syntax without backreferences.",
    example: "[a-z_]+\\([a-z_]*\\)",
    fields: (regex) => ({ regex }),
  },
  choice: {
    label: "Choices",
    hint: "One per line; the answer is one of them.",
    example: "min\nmax\nsum",
    fields: (text) => ({ choice: text.split("\n").filter((line) => line !== "") }),
  },
};
const PARAMS = ["response_format", "regex", "choice"];

export class ConstraintForm {
  #texts = new Map(Object.entries(KINDS).map(([kind, { example }]) => [kind, example]));
  #kind = "";

  constructor(element) {
    this.element = element;
    this.#select.addEventListener("change", () => this.#choose(this.#select.value));
    this.#text.addEventListener("input", () => {
      this.#texts.set(this.#kind, this.#text.value);
      this.mark(null);
    });
  }

  /** Fields of a request; throws a SyntaxError that tells what is wrong with the text. */
  get fields() {
    return KINDS[this.#kind].fields(this.#text.value);
  }

  /** Show where a refusal is, by the field that it names; null: nowhere. */
  mark(param) {
    if (PARAMS.includes(param)) this.#text.setAttribute("aria-invalid", "true");
    else this.#text.removeAttribute("aria-invalid");
  }

  get #select() {
    return this.element.querySelector("select");
  }

  get #text() {
    return this.element.querySelector("textarea");
  }

  #choose(kind) {
    const { label, hint } = KINDS[kind];
    this.#kind = kind;
    this.#text.hidden = kind === "";
    this.#text.value = this.#texts.get(kind);
    this.#text.setAttribute("aria-label", label);
    this.element.querySelector(".hint").textContent = hint;
    this.mark(null);
  }
}
