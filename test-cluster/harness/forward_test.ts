import assert from "node:assert/strict";
import { duplexOf, forward } from "./forward.ts";

/** Answers what it is sent, in capitals. */
async function serve(listener: Deno.Listener<Deno.Conn>): Promise<void> {
  for await (const connection of listener) {
    const { readable, writable } = duplexOf(connection);
    const text = new TextDecoder().decode(await new Response(readable).bytes());
    await new Blob([text.toUpperCase()]).stream().pipeTo(writable);
    connection.close();
  }
}

async function ask(port: number, text: string): Promise<string> {
  using connection = await Deno.connect({ port });
  const { readable, writable } = duplexOf(connection);
  await new Blob([text]).stream().pipeTo(writable);
  return await new Response(readable).text();
}

Deno.test("forward() carries connections both ways until the signal, and refuses those whose way does not open", async () => {
  const end = new AbortController();
  const server = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const front = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let broken = false;
  const serving = serve(server);
  const forwarding = forward(front, async () => {
    if (broken) throw new Error("no way");
    return duplexOf(await Deno.connect({ port: server.addr.port }));
  }, end.signal);
  assert.equal(await ask(front.addr.port, "one"), "ONE");
  assert.deepEqual(await Promise.all([ask(front.addr.port, "two"), ask(front.addr.port, "three")]), ["TWO", "THREE"]);
  broken = true;
  assert.equal(await ask(front.addr.port, "four").catch(() => ""), "");
  end.abort();
  await forwarding;
  server.close();
  await serving;
});
