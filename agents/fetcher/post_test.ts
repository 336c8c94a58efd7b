import assert from "node:assert/strict";
import { createTestCa } from "@ultracloud/testing";
import { parseRange } from "./domain/addresses.ts";
import { post, type PostOptions } from "./post.ts";

const loopback = [parseRange("127.0.0.0/8")!];
const never = new AbortController().signal;

/** What a receiver got, and a receiver that answers each connection with this text. */
function receiver(answer: string, tls?: { readonly cert: string; readonly key: string }) {
  const got: string[] = [];
  const listener = tls === undefined
    ? Deno.listen({ hostname: "127.0.0.1", port: 0 })
    : Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...tls });
  const serving = (async () => {
    for await (const connection of listener) {
      const buffer = new Uint8Array(65_536);
      let text = "";
      try {
        for (let read = await connection.read(buffer); read !== null; read = await connection.read(buffer)) {
          text += new TextDecoder().decode(buffer.subarray(0, read));
          const [head, body] = text.split("\r\n\r\n");
          if (
            body !== undefined &&
            new TextEncoder().encode(body).length >= Number(/content-length: (\d+)/.exec(head!)?.[1])
          ) break;
        }
        got.push(text);
        if (answer !== "") await connection.write(new TextEncoder().encode(answer));
        else await connection.read(buffer);
      } catch {
        // The caller left.
      }
      connection.close();
    }
  })();
  const { port } = listener.addr as Deno.NetAddr;
  return {
    got,
    port,
    [Symbol.asyncDispose]: async () => {
      listener.close();
      await serving.catch(() => {});
    },
  };
}

function options(url: string, more: Partial<PostOptions> = {}): PostOptions {
  const base = { headers: { "webhook-id": "a.1" }, body: `{"ü":1}`, privateRanges: loopback, caCerts: [] };
  return { url: new URL(url), ...base, timeoutMs: 5_000, ...more };
}

const answering = (...addresses: string[]) => ({ resolve: () => Promise.resolve(addresses) });

Deno.test("post() sends the body once to the address that was judged, and answers the status", async () => {
  await using there = receiver("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
  const url = `http://hook.test:${there.port}/in?x=1#part`;
  assert.equal(await post(options(url), answering("127.0.0.1"), never), 204);
  assert.equal(there.got.length, 1);
  assert.match(there.got[0]!, /^POST \/in\?x=1 HTTP\/1\.1\r\nhost: hook\.test:\d+\r\n/);
  assert.match(there.got[0]!, /content-length: 8\r\n/);
  assert.ok(there.got[0]!.endsWith(`\r\n\r\n{"ü":1}`));
});

Deno.test("post() follows no redirect", async () => {
  await using aim = receiver("HTTP/1.1 200 OK\r\n\r\n");
  await using there = receiver(`HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:${aim.port}/\r\n\r\n`);
  assert.equal(await post(options(`http://hook.test:${there.port}/`), answering("127.0.0.1"), never), 307);
  assert.deepEqual(aim.got, []);
});

Deno.test("post() connects to no address that is not public, however it is written or answered", async () => {
  await using there = receiver("HTTP/1.1 200 OK\r\n\r\n");
  const written = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
  ];
  for (const host of written) {
    const refused = post(options(`http://${host}:${there.port}/`, { privateRanges: [] }), answering(), never);
    await assert.rejects(refused, { code: "hook_address_refused" }, host);
  }
  for (const answered of [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["169.254.169.254"], ["::1"], []]) {
    const refused = post(
      options(`http://hook.test:${there.port}/`, { privateRanges: [] }),
      answering(...answered),
      never,
    );
    await assert.rejects(refused, { code: "hook_address_refused" }, String(answered));
  }
  assert.deepEqual(there.got, []);
});

Deno.test("post() connects to no address that was denied, though it is public or allowed", async () => {
  await using there = receiver("HTTP/1.1 200 OK\r\n\r\n");
  const deniedRanges = [parseRange("127.0.0.0/8")!, parseRange("1.1.1.0/24")!];
  for (const address of ["127.0.0.1", "1.1.1.1"]) {
    const refused = post(options(`http://hook.test:${there.port}/`, { deniedRanges }), answering(address), never);
    await assert.rejects(refused, { code: "hook_address_refused" }, address);
  }
  assert.deepEqual(there.got, []);
});

Deno.test("post() looks a name up once: what it would answer next decides nothing", async () => {
  await using there = receiver("HTTP/1.1 200 OK\r\n\r\n");
  let looked = 0;
  const resolve = () => Promise.resolve([looked++ === 0 ? "127.0.0.1" : "169.254.169.254"]);
  assert.equal(await post(options(`http://hook.test:${there.port}/`), { resolve }, never), 200);
  assert.equal(looked, 1);
});

Deno.test("post() holds a receiver to its certificate's name", async () => {
  const ca = await createTestCa();
  const { certPem: cert, keyPem: key } = await ca.issue();
  await using there = receiver("HTTP/1.1 200 OK\r\n\r\n", { cert, key });
  const caCerts = [ca.caPem];
  assert.equal(
    await post(options(`https://localhost:${there.port}/`, { caCerts }), answering("127.0.0.1"), never),
    200,
  );
  for (const [host, trusted] of [["hook.test", caCerts], ["localhost", []]] as const) {
    const refused = post(
      options(`https://${host}:${there.port}/`, { caCerts: trusted }),
      answering("127.0.0.1"),
      never,
    );
    await assert.rejects(refused, { code: "hook_unreachable" });
  }
  assert.equal(there.got.filter((text) => text !== "").length, 1);
});

Deno.test("post() gives up on a receiver that does not answer, answers nonsense or without end", async () => {
  await using silent = receiver("");
  const slow = post(options(`http://hook.test:${silent.port}/`, { timeoutMs: 200 }), answering("127.0.0.1"), never);
  await assert.rejects(slow, { code: "hook_slow" });
  for (const nonsense of ["SSH-2.0-x\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 " + "1".repeat(40_000)]) {
    await using there = receiver(nonsense);
    const failed = post(options(`http://hook.test:${there.port}/`), answering("127.0.0.1"), never);
    await assert.rejects(failed, { code: "hook_answer_malformed" }, nonsense.slice(0, 20));
  }
  const nobody = post(options("http://hook.test:1/"), answering("127.0.0.1"), never);
  await assert.rejects(nobody, { code: "hook_unreachable" });
  const unknown = post(
    options("http://hook.test/"),
    { resolve: () => Promise.reject(new Error("no such name")) },
    never,
  );
  await assert.rejects(unknown, { code: "hook_unresolved" });
});
