// As served.py, for scripts that run on Node.
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";

export const ROOT = process.env.QUICKSILVER_CLIENTS_URL;
export const V1 = `${ROOT}/v1`;
export const MODEL = "quicksilver-coder";
export const KEY = "any";
export const PREFIX = "def add(a, b):\n    return ";
export const SUFFIX = "\n\n\nprint(add(1, 2))\n";
export const CHAT = [{ role: "user", content: "def mean(xs):" }];

export async function numAborted() {
  const text = await (await fetch(`${ROOT}/metrics`)).text();
  return Number(/^quicksilver_aborts_total (\S+)/m.exec(text)[1]);
}

export async function requireFreed(before, timeoutMs = 20_000) {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const { num_running: running } = await (await fetch(`${ROOT}/health`)).json();
    if (running === 0 && (await numAborted()) > before) return;
    assert.ok(Date.now() < end, "the hang-up freed nothing");
    await setTimeout(20);
  }
}
