// JSON that a request can carry unchanged, and values as Python writes them.

/** The value of a JSON text; throws a SyntaxError also where a number would become another one. */
export function checkedJson(text) {
  return JSON.parse(text, (_, value) => {
    const isKept = typeof value !== "number" || Number.isSafeInteger(value) || (Number.isFinite(value) && !Number.isInteger(value));
    if (!isKept) throw new SyntaxError(`${value} is more than a browser can count exactly`);
    return value;
  });
}

const MOST_COLUMNS = 72;

/** A value of JSON as a literal of Python, behind an indent; on one line where it is short. */
export function pythonLiteral(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value); // Strings and numbers are the same in both.
  const inner = indent + "    ";
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Array.isArray(value)
    ? value.map((each) => pythonLiteral(each, inner))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonLiteral(each, inner)}`);
  const line = open + parts.join(", ") + close;
  if (indent.length + line.length <= MOST_COLUMNS && !line.includes("\n")) return line;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}
