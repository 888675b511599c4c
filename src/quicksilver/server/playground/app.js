// The page: one request, one or two lanes that run it.
import { ConstraintForm } from "./constraint.js";
import { copyText } from "./copy.js";
import { EXAMPLES, HOLE } from "./examples.js";
import { Lane } from "./lane.js";
import { curlOf, makeRequest, pythonOf, pythonPackage } from "./request.js";

const find = (id) => document.getElementById(id);
const template = find("template");
const KEY_NAME = "quicksilver-api-key";

const settings = await (await fetch("/playground/settings.json")).json();
const lanes = [new Lane("A", settings), new Lane("B", settings)];
const constraint = new ConstraintForm(find("constraint"));
let running = null; // The AbortController of the run in progress.

lanes[1].choose(settings.policies.some(({ name }) => name === "fixed_steps") ? { policy: "fixed_steps", steps: 4 } : { temperature: 0.8 });

const active = () => (find("compare").checked ? lanes : lanes.slice(0, 1));
const maxTokens = () => (find("max-tokens").value === "" ? null : find("max-tokens").valueAsNumber);
const requestOf = (lane) => makeRequest(template.value, maxTokens(), { ...constraint.fields, ...lane.options });

async function run() {
  if (running) return;
  running = new AbortController();
  working(true);
  constraint.mark(null);
  try {
    // One after the other: each has the server to itself, so that their speeds can be compared.
    for (const lane of active()) {
      say(`Running ${lane.name} …`);
      const result = await lane.run(requestOf(lane), find("key").value, running.signal);
      if (!result) {
        constraint.mark(lane.error.param);
        return say(`${lane.name} failed.`);
      }
      say(`${lane.name} is done: ${result.usage.completion_tokens} tokens in ${result.usage.nfe} forwards.`);
    }
    judge();
  } catch (error) {
    if (error.name === "SyntaxError") refuse(error);
    else if (error.name === "AbortError") say("Cancelled.");
    else throw error;
  } finally {
    running = null;
    working(false);
  }
}

function working(is) {
  // Not `disabled`: a button that has the focus would lose it.
  find("run").setAttribute("aria-disabled", String(is));
  find("cancel").setAttribute("aria-disabled", String(!is));
  if (is) find("verdict").hidden = true;
}

/** The request cannot be made: its JSON schema is none. */
function refuse(error) {
  constraint.mark("response_format");
  say(`The schema is no JSON: ${error.message}`);
}

function say(text) {
  find("status").textContent = text;
}

/** Two results in one sentence. */
function judge() {
  const [a, b] = lanes.map((lane) => lane.result);
  if (!find("compare").checked || !a || !b) return;
  const ratio = (b.usage.completion_tokens / b.seconds) / (a.usage.completion_tokens / a.seconds);
  const speed = ratio >= 1 ? `B wrote ${ratio.toFixed(1)} times as many tokens/s as A` : `A wrote ${(1 / ratio).toFixed(1)} times as many tokens/s as B`;
  find("verdict").textContent = `${speed}: ${a.usage.nfe} forwards for A, ${b.usage.nfe} for B. The texts ${a.text === b.text ? "are the same" : "differ"}.`;
  find("verdict").hidden = false;
}

/** Everything that follows from the form. */
function refresh() {
  const holes = template.value.split(HOLE).length - 1;
  find("template-hint").textContent = holes
    ? `${holes} ${holes === 1 ? "hole" : "holes"}, filled together; the rest stays as it is.`
    : `Write ${HOLE} where something is missing. Without a hole, the text is continued.`;
  find("most").hidden = holes > 0;
  find("lanes").classList.toggle("two", find("compare").checked);
  lanes[1].element.hidden = find("which").hidden = !find("compare").checked;
  const lane = find("compare").checked && find("snippet-lane").value === "B" ? lanes[1] : lanes[0];
  showCode(lane);
}

function showCode(lane) {
  const hasKey = find("key").value !== "";
  try {
    const request = requestOf(lane);
    find("curl").textContent = curlOf(request, settings.model, hasKey);
    find("python").textContent = pythonOf(request, settings.model, hasKey);
    find("python-title").textContent = `Python, package ${pythonPackage(request)}`;
  } catch (error) {
    if (error.name !== "SyntaxError") throw error;
    for (const name of ["curl", "python"]) find(name).textContent = `The schema is no JSON: ${error.message}`;
    constraint.mark("response_format");
  }
}

function insertHole() {
  template.setRangeText(HOLE, template.selectionStart, template.selectionEnd, "end");
  template.focus();
  refresh();
}

function onKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") {
    running?.abort();
  } else if (!event.target.closest("input, select, textarea, button, pre, .canvas") && !event.altKey && !event.ctrlKey && !event.metaKey) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) active().forEach((lane) => lane.scrub(by));
  }
}

find("about").textContent = `${settings.model} · ${(settings.num_parameters / 1e6).toFixed(1)}M parameters · context of ${settings.context_length} tokens · version ${settings.version}`;
find("lanes").append(...lanes.map((lane) => lane.element));
EXAMPLES.forEach(({ name }, at) => find("example").append(new Option(name, at)));
find("example").addEventListener("change", (event) => {
  template.value = EXAMPLES[event.target.value].text;
  refresh();
});
find("key").value = sessionStorage.getItem(KEY_NAME) ?? "";
find("key").addEventListener("input", (event) => sessionStorage.setItem(KEY_NAME, event.target.value));
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
find("cancel").addEventListener("click", () => running?.abort());
find("insert").addEventListener("click", insertHole);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copyText(find(button.dataset.copy).textContent, button));
}
for (const kind of ["input", "change"]) document.addEventListener(kind, refresh);
document.addEventListener("keydown", onKey);

template.value = EXAMPLES[0].text;
refresh();
document.body.dataset.ready = "true"; // For tests: everything listens.
