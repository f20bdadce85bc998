// Talking to the server: JSON requests, and the events of a streamed reply.

const headers = (key) => ({
  "Content-Type": "application/json",
  ...(key && { Authorization: `Bearer ${key}` }),
});

/** What the server says, as an error with its status. */
async function refused(response) {
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no JSON, for example from a proxy: the status is all there is to say
  }
  return Object.assign(new Error(message), { status: response.status });
}

/** The answer to a request as JSON. body: undefined for GET. */
export async function ask(path, key, body) {
  const post = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { headers: headers(key), ...post });
  if (!response.ok) throw await refused(response);
  return response.json();
}

/**
 * The chunks of a streamed chat completion. Aborting `signal` closes the connection, at which the server
 * stops.
 */
export async function* chat(body, key, signal) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) throw await refused(response);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
  throw new Error("the connection ended before the reply did");
}

/** The data of server-sent events. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split(/\r?\n\r?\n/);
    held = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
    }
  }
}
