// The server ends Gradio's stream of results when nothing is under way for the page. What a person does before the
// browser has heard of that would be carried out and never shown: here the stream is then taken up again.
(() => {
  "use strict";

  const plain = window.fetch;
  const joining = new Set(); // events that are being sent
  const awaited = new Set(); // ids of those whose result is to come
  const early = new Set(); // ids of those whose result came before their id was known
  let ending = Promise.resolve(); // until Gradio has heard that a stream is over

  window.fetch = async (input, init) => {
    const { pathname } = new URL(input.url ?? input, location.href);
    if (pathname.endsWith("/queue/join")) return join(input, init);
    const response = await plain(input, init);
    if (!pathname.endsWith("/queue/data") || !response.ok) return response;
    const again = () => plain(input, init);
    return new Response(stream(whole(response, again)), { headers: response.headers });
  };

  function stream(chunks) {
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
    });
  }

  async function join(input, init) {
    const sent = plain(input, init);
    joining.add(sent);
    try {
      const response = await sent;
      if (response.ok) {
        const { event_id } = await response.clone().json();
        if (!early.delete(event_id)) awaited.add(event_id);
      }
      return response;
    } finally {
      joining.delete(sent);
      await ending;
    }
  }

  /** The messages of a stream, and of those that follow it while a result is awaited. */
  async function* whole(response, again) {
    const encoder = new TextEncoder();
    for (;;) {
      let last = "";
      for await (const message of messages(response)) {
        const { msg, event_id } = JSON.parse(message.slice("data: ".length));
        if (msg === "process_completed" && !awaited.delete(event_id)) early.add(event_id);
        if (msg === "close_stream") last = message;
        else yield encoder.encode(message);
      }
      await Promise.allSettled(joining);
      if (last && awaited.size) {
        awaited.clear(); // a server that ends that one, too, has no result of them
        const next = await again().catch(() => null);
        if (next?.ok) {
          response = next;
          continue;
        }
      }
      ending = new Promise((done) => setTimeout(done, 50));
      if (last) yield encoder.encode(last);
      return;
    }
  }

  /** The messages of one stream, each with the empty line that ends it. */
  async function* messages(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part + "\n\n";
    }
  }
})();
