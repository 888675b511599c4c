// One column: how to decode, a run of it, and its steps to look through.
import { describe, draw, moveFocus } from "./canvas.js";
import { copyText } from "./copy.js";
import { Recorder } from "./recorder.js";
import { streamed } from "./request.js";
import { events } from "./stream.js";

const OPTIONS = ["policy", "threshold", "steps", "temperature", "seed"];
const HINT = "Point at a token, or walk to it with Tab and the arrow keys.";
const MIN_FRAME_MS = 16;
const MAX_FRAME_MS = 120;
const PLAY_MS = 4000; // A whole run takes about so long to watch, however fast it was.

export class Lane {
  #recorder = new Recorder();
  #texts = [""];
  #head = 0;
  #timer = null;
  #isRunning = false;

  constructor(name, settings) {
    this.name = name;
    this.element = document.getElementById("lane").content.firstElementChild.cloneNode(true);
    this.result = null;
    this.error = null; // Of the last run, where it failed.
    this.#name();
    this.#offer(settings);
    this.#listen();
  }

  /** What was chosen, as fields of a request; what was left open is left out. */
  get options() {
    const chosen = OPTIONS.map((name) => [name, this.#field(name)]).filter(([, field]) => field.value !== "" && !field.disabled);
    return Object.fromEntries(chosen.map(([name, field]) => [name, name === "policy" ? field.value : Number(field.value)]));
  }

  choose(options) {
    for (const [name, value] of Object.entries(options)) this.#field(name).value = value;
    this.#fit();
  }

  /** Run a request and follow it. Returns the result, or null if it failed; a cancelled run throws. */
  async run(request, key, signal) {
    this.#clear(request.texts);
    const started = performance.now();
    try {
      for await (const event of events(request.route, streamed(request), key, signal)) this.#take(event);
      this.result.seconds = (performance.now() - started) / 1000;
      this.#tell(this.result);
      return this.result;
    } catch (error) {
      this.result = null;
      this.error = error;
      if (error.name === "AbortError") throw error;
      this.#fail(error);
      return null;
    } finally {
      this.#isRunning = false;
      this.element.setAttribute("aria-busy", "false");
      this.#show();
    }
  }

  /** Show the frame so many steps from the one that is shown. */
  scrub(by) {
    this.#pause();
    this.#go(this.#head + by);
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  #field(name) {
    return this.#find(`[name="${name}"]`);
  }

  #name() {
    this.element.setAttribute("aria-label", `Run ${this.name}`);
    this.element.dataset.lane = this.name;
    this.#find("h2").textContent = this.name;
    this.#find("legend").textContent = `How ${this.name} decodes`;
    this.#find(".canvas").setAttribute("aria-label", `Canvas of ${this.name}; arrow keys go from token to token`);
    this.#find("input[type=range]").setAttribute("aria-label", `Step of ${this.name}`);
    this.#find(".play").setAttribute("aria-label", `Play ${this.name}`);
  }

  #offer(settings) {
    const select = this.#field("policy");
    const takes = new Map(settings.policies.map((policy) => [policy.name, policy.takes]));
    // Steps without a policy choose fixed_steps.
    takes.set("", settings.policies.length ? [...(takes.get(settings.default_policy) ?? []), "steps"] : []);
    select.append(new Option(`default (${settings.default_policy.replaceAll("_", " ")})`, ""));
    for (const { name } of settings.policies) select.append(new Option(name.replaceAll("_", " "), name));
    this.takes = takes;
    this.#fit();
  }

  /** What the policy does not read cannot be set. */
  #fit() {
    const taken = this.takes.get(this.#field("policy").value);
    for (const name of ["threshold", "steps"]) this.#field(name).disabled = !taken.includes(name);
  }

  #listen() {
    const canvas = this.#find(".canvas");
    this.#field("policy").addEventListener("change", () => this.#fit());
    this.#find("input[type=range]").addEventListener("input", (event) => {
      const step = event.target.valueAsNumber; // Before the pause, which sets the slider to what is shown.
      this.#pause();
      this.#go(step);
    });
    this.#find(".play").addEventListener("click", () => (this.#timer === null ? this.#play() : this.#pause()));
    this.#find(".copy").addEventListener("click", (event) => copyText(this.result.text, event.target));
    for (const kind of ["pointerover", "focusin"]) canvas.addEventListener(kind, (event) => this.#detail(event.target));
    canvas.addEventListener("keydown", (event) => moveFocus(canvas, event));
  }

  #clear(texts) {
    this.#pause();
    this.#recorder = new Recorder();
    this.#texts = texts;
    this.#head = 0;
    this.#isRunning = true;
    this.result = this.error = null;
    this.element.setAttribute("aria-busy", "true");
    this.#find(".error").hidden = true;
    this.#find(".copy").disabled = true;
    this.#find(".detail").textContent = HINT;
    for (const field of this.element.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    for (const value of this.element.querySelectorAll("[data-metric]")) value.textContent = "–";
    this.#show();
    this.#play();
  }

  #take(event) {
    if (event.object === "text_completion") this.#takeCompletion(event);
    else if (event.type === "resize") this.#recorder.resize(event);
    else if (event.type === "frame") this.#recorder.frame(event.nfe, event.holes);
    else if (event.type === "done") {
      const { text, holes, usage, finish_reason } = event.response;
      this.#recorder.finish(usage.nfe, holes.map((hole) => hole.tokens));
      this.result = { text, usage, finish: finish_reason };
    }
    this.#show();
  }

  #takeCompletion({ choices: [choice], diffusion_meta: meta, usage }) {
    if (meta?.diffusion_content) this.#recorder.frame(meta.nfe, [meta.cells]);
    else if (meta) {
      this.#recorder.finish(meta.nfe, [meta.cells]);
      this.result = { text: this.#texts[0] + choice.text };
    } else if (choice?.finish_reason) this.result.finish = choice.finish_reason;
    else if (usage) this.result.usage = usage;
  }

  #tell({ usage, seconds, finish }) {
    const told = {
      rate: (usage.completion_tokens / seconds).toFixed(0),
      tpf: usage.tokens_per_forward.toFixed(2),
      nfe: usage.nfe,
      tokens: usage.completion_tokens,
      time: `${(seconds * 1000).toFixed(0)} ms`,
      finish,
    };
    for (const [name, value] of Object.entries(told)) this.#find(`[data-metric="${name}"]`).textContent = value;
    this.#find(".copy").disabled = false;
  }

  #fail(error) {
    const box = this.#find(".error");
    box.textContent = error.message;
    box.hidden = false;
    if (OPTIONS.includes(error.param)) this.#field(error.param).setAttribute("aria-invalid", "true");
    this.#pause();
  }

  #play() {
    if (this.#head >= this.#recorder.frames.length - 1) this.#head = 0;
    const tick = () => {
      const count = this.#recorder.frames.length;
      if (this.#head < count - 1) this.#go(this.#head + 1);
      else if (!this.#isRunning) return this.#pause();
      this.#timer = setTimeout(tick, Math.min(Math.max(PLAY_MS / count, MIN_FRAME_MS), MAX_FRAME_MS));
    };
    this.#timer = setTimeout(tick, 0);
    this.#show();
  }

  #pause() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#show();
  }

  #go(step) {
    this.#head = Math.min(Math.max(step, 0), this.#recorder.frames.length - 1);
    this.#show();
  }

  #show() {
    const { frames } = this.#recorder;
    const play = this.#find(".play");
    const slider = this.#find("input[type=range]");
    play.disabled = slider.disabled = frames.length === 0;
    play.textContent = this.#timer === null ? "Play" : "Pause";
    slider.max = Math.max(frames.length - 1, 0);
    slider.value = this.#head;
    if (frames.length === 0) {
      this.#find(".progress").textContent = this.#isRunning ? "waiting …" : "";
      if (this.#isRunning) draw(this.#find(".canvas"), [this.#texts.join(" … ")], { holes: [] });
      return;
    }
    const frame = frames[this.#head];
    const told = `forward ${frame.nfe} of ${frames.at(-1).nfe}`;
    this.#find(".progress").textContent = told;
    slider.setAttribute("aria-valuetext", told);
    draw(this.#find(".canvas"), this.#texts, frame);
    this.#bars();
  }

  /** How many tokens each forward wrote, above the slider. */
  #bars() {
    const { frames } = this.#recorder;
    const counts = frames.map(({ holes }) => holes.flat().filter((cell) => cell.isNew || cell.isEdited).length);
    const most = Math.max(...counts, 1);
    const width = Math.min(70 / frames.length, 1.6);
    this.#find(".bars").replaceChildren(...counts.map((count, at) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const height = (count / most) * 20;
      const middle = frames.length > 1 ? (at / (frames.length - 1)) * 100 : 0;
      for (const [name, value] of Object.entries({ x: middle - width / 2, y: 20 - height, width, height })) bar.setAttribute(name, value);
      bar.classList.toggle("past", at <= this.#head);
      return bar;
    }));
  }

  #detail(target) {
    const { hole, at } = target.dataset;
    const cell = this.#recorder.frames[this.#head]?.holes[hole]?.[at];
    if (cell) this.#find(".detail").textContent = describe(cell);
  }
}
