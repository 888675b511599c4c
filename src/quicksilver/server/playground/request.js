// From the form to a request, and to the same request as curl and as Python.
import { HOLE } from "./examples.js";
import { pythonLiteral } from "./literals.js";

const KEY_VARIABLE = "QUICKSILVER_API_KEY";

/** What a lane asks for. `texts` stand around the holes; a prompt without a hole has one behind it. */
export function makeRequest(template, maxTokens, options) {
  if (template.includes(HOLE)) {
    return { route: "/v1/infill", body: { template, ...options }, texts: template.split(HOLE) };
  }
  return {
    route: "/v1/completions",
    body: { prompt: template, ...(maxTokens === null ? {} : { max_tokens: maxTokens }), ...options },
    texts: [template, ""],
  };
}

/** The body that also brings every step: infill has typed events, completions have frames. */
export function streamed(request) {
  if (request.route === "/v1/infill") return { ...request.body, stream: true };
  const extra = { diffusing: true, return_trace: true, stream_options: { include_usage: true } };
  return { ...request.body, stream: true, ...extra };
}

export function curlOf(request, model, hasKey) {
  const body = JSON.stringify({ model, ...request.body }, null, 2).replaceAll("'", "'\\''");
  const key = hasKey ? `  -H "authorization: Bearer $${KEY_VARIABLE}" \\\n` : "";
  return `curl ${location.origin}${request.route} \\\n  -H 'content-type: application/json' \\\n${key}  -d '${body}'\n`;
}

export function pythonOf(request, model, hasKey) {
  return request.route === "/v1/infill" ? httpxOf(request, model, hasKey) : openaiOf(request, model, hasKey);
}

export function pythonPackage(request) {
  return request.route === "/v1/infill" ? "httpx" : "openai";
}

function httpxOf(request, model, hasKey) {
  const headers = hasKey ? `    headers={"authorization": "Bearer " + os.environ["${KEY_VARIABLE}"]},\n` : "";
  return `${hasKey ? "import os\n\n" : ""}import httpx

answer = httpx.post(
    "${location.origin}${request.route}",
${headers}    json={
${entries({ model, ...request.body }, " ".repeat(8), (name, value) => `"${name}": ${value},\n`)}    },
    timeout=60,
)
print(answer.json()["text"])
`;
}

// What openai's method has as an argument; the rest goes into extra_body.
const OPENAI_ARGUMENTS = ["model", "prompt", "max_tokens", "temperature", "seed"];

function openaiOf(request, model, hasKey) {
  const all = Object.entries({ model, ...request.body });
  const known = Object.fromEntries(all.filter(([name]) => OPENAI_ARGUMENTS.includes(name)));
  const extra = Object.fromEntries(all.filter(([name]) => !OPENAI_ARGUMENTS.includes(name)));
  const own = entries(extra, " ".repeat(8), (name, value) => `"${name}": ${value},\n`);
  const key = hasKey ? `os.environ["${KEY_VARIABLE}"]` : '"none needed"';
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${key})
answer = client.completions.create(
${entries(known, " ".repeat(4), (name, value) => `${name}=${value},\n`)}${own && `    extra_body={\n${own}    },\n`})
print(answer.choices[0].text)
`;
}

function entries(object, indent, line) {
  return Object.entries(object).map(([name, value]) => indent + line(name, pythonLiteral(value, indent))).join("");
}
