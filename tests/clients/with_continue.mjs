// Continue's adapters for Inception and for OpenAI: chats, fill-in-the-middle, next edits.
import assert from "node:assert/strict";
import { constructLlmApi } from "@continuedev/openai-adapters";
import { CHAT, KEY, MODEL, PREFIX, SUFFIX, V1, numAborted, requireFreed } from "./served.mjs";

const NEXT_EDIT = "<|!@#IS_NEXT_EDIT!@#|>"; // how Continue marks a message for the edit route
const EDIT = `<|recently_viewed_code_snippets|>
<|/recently_viewed_code_snippets|>

<|current_file_content|>
current_file_path: b.py
import math

<|code_to_edit|>
def area(r<|cursor|>):
    return math.pi * r * r
<|/code_to_edit|>

<|/current_file_content|>

<|edit_diff_history|>
<|/edit_diff_history|>
`;
const { signal } = new AbortController();
const inception = constructLlmApi({ provider: "inception", apiBase: `${V1}/`, apiKey: KEY });
const openai = constructLlmApi({ provider: "openai", apiBase: `${V1}/`, apiKey: KEY });

for (const api of [inception, openai]) {
  const sent = { model: MODEL, messages: CHAT, max_tokens: 16, seed: 3, temperature: 0.5 };
  const whole = await api.chatCompletionNonStream({ ...sent, stream: false }, signal);
  let text = "";
  for await (const chunk of api.chatCompletionStream({ ...sent, stream: true }, signal)) {
    text += chunk.choices[0]?.delta.content ?? "";
  }
  assert.ok(text);
  assert.equal(text, whole.choices[0].message.content);
}

const fill = { model: MODEL, prompt: PREFIX, suffix: SUFFIX, max_tokens: 16, temperature: 0, stop: ["\n"], stream: true };
let filled = "";
for await (const chunk of inception.fimStream(fill, signal)) filled += chunk.choices[0].delta.content ?? "";
assert.ok(filled);
assert.ok(!filled.includes("\n"));
let after = "";
for await (const chunk of inception.fimStream({ ...fill, suffix: " " }, signal)) {
  after += chunk.choices[0].delta.content ?? "";
}
assert.ok(!after.includes("<|endoftext|>"));

const messages = [
  { role: "system", content: "You are a next edit model." },
  { role: "user", content: EDIT + NEXT_EDIT },
];
const edit = await inception.chatCompletionNonStream({ model: MODEL, messages, stream: false, nextEdit: true }, signal);
const reply = edit.choices[0].message.content;
assert.ok(reply.startsWith("```\n"));
assert.ok(reply.endsWith("\n```"));

const APPLY = `<|original_code|>
def area(r):
    width = r
    return width * r
<|/original_code|>

<|update_snippet|>
def area(r):
    # ... existing code ...
    return 3 * width * r
<|/update_snippet|>
<|!@#IS_APPLY!@#|>`;
const asked = { model: MODEL, messages: [{ role: "user", content: APPLY }], stream: true };
let applied = "";
for await (const chunk of inception.chatCompletionStream(asked, signal)) applied += chunk.choices[0].delta.content ?? "";
assert.equal(applied, "def area(r):\n    width = r\n    return 3 * width * r");

const before = await numAborted();
const hangUp = new AbortController();
const slow = { model: MODEL, prompt: "x = [", max_tokens: 200, policy: "confidence_order", stream: true };
try {
  for await (const _ of openai.completionStream(slow, hangUp.signal)) hangUp.abort();
} catch (error) {
  assert.equal(error.name, "AbortError");
}
await requireFreed(before);
