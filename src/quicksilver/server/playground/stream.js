// A POST whose answer is a stream of server-sent events.

/** What the server says is wrong; `param` names the field, where it knows. */
export class ServerError extends Error {
  constructor({ message, param }) {
    super(message);
    this.param = param ?? null;
  }
}

export async function* events(route, body, key, signal) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(route, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw new ServerError(await told(response));
  for await (const data of blocks(response.body.getReader())) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error);
    yield event;
  }
  throw new ServerError({ message: "the stream ended before the answer did" });
}

async function told(response) {
  const fallback = { message: `the server answered ${response.status} ${response.statusText}`.trim() };
  try {
    return (await response.json()).error ?? fallback;
  } catch {
    return fallback;
  }
}

// The data of each event; comments are keep-alives.
async function* blocks(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
    if (done) return;
  }
}
