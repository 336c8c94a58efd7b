import assert from "node:assert/strict";
import { concatBytes, Fault } from "@ultracloud/base";
import { FetchService } from "@ultracloud/proto/fetcher/v1";
import { serveLocally } from "@ultracloud/testing";
import { parseRange } from "./domain/addresses.ts";
import { type FetchOptions, fetchUrl } from "./fetch.ts";
import { fetchService } from "./fetch_service.ts";

const content = Uint8Array.from({ length: 1_500_000 }, (_, i) => i % 251);
const loopback = parseRange("127.0.0.0/8")!;
const never = new AbortController().signal;
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

/** A server that answers each path with these words, and then closes unless told to wait. */
class Outside implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #open = new Set<Deno.Conn>();
  readonly #serving: Promise<void>;
  asked: string[] = [];
  answers: Record<string, (connection: Deno.Conn) => Promise<void>> = {};

  constructor() {
    this.#serving = this.#serve();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  url(path: string, host = "127.0.0.1"): string {
    return `http://${host}:${this.port}${path}`;
  }

  async #serve(): Promise<void> {
    for await (const connection of this.#listener) {
      this.#open.add(connection);
      this.#answer(connection).catch(() => {}).finally(() => this.#open.delete(connection));
    }
  }

  async #answer(connection: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(4096);
    const n = await connection.read(buffer) ?? 0;
    const request = new TextDecoder().decode(buffer.subarray(0, n));
    this.asked.push(request);
    const path = request.split(" ")[1] ?? "";
    try {
      await this.answers[path]?.(connection);
    } finally {
      connection.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#open) {
      try {
        connection.close();
      } catch {
        // Closed already.
      }
    }
    await this.#serving;
  }
}

const say = (...parts: (string | Uint8Array)[]) => async (connection: Deno.Conn) => {
  for (const part of parts) {
    const bytes = typeof part === "string" ? new TextEncoder().encode(part) : part;
    for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
  }
};
const ok = (length: number) => `HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n`;

function chunked(bytes: Uint8Array, size: number): (string | Uint8Array)[] {
  const parts: (string | Uint8Array)[] = ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"];
  for (let at = 0; at < bytes.length; at += size) {
    const part = bytes.subarray(at, at + size);
    parts.push(`${part.length.toString(16)};x=1\r\n`, part, "\r\n");
  }
  return [...parts, "0\r\n\r\n"];
}

const resolve = (name: string) =>
  name === "inside.example"
    ? Promise.resolve(["127.0.0.1"])
    : name === "both.example"
    ? Promise.resolve(["93.184.216.34", "10.0.0.7"])
    : Promise.reject(new Error(`no ${name}`));

async function get(url: string, change: Partial<FetchOptions> = {}, signal = never) {
  const options = {
    url,
    bytesMax: 2 ** 21,
    allowPlain: true,
    privateRanges: [loopback],
    silenceMsMax: 5_000,
    ...change,
  };
  const { bytes, chunks } = await fetchUrl(options, { resolve }, signal);
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk.slice());
  return { bytes, content: concatBytes(parts) };
}

Deno.test("fetchUrl() reads content of a known length, in chunks, to the end of the connection, and after redirects", async () => {
  await using outside = new Outside();
  outside.answers = {
    "/length": say("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", ok(content.length), content),
    "/chunks": say(...chunked(content, 70_000)),
    "/close": say("HTTP/1.0 200 OK\r\n\r\n", content),
    "/moved": say("HTTP/1.1 302 Found\r\nLocation: /length\r\n\r\n"),
  };
  for (
    const [path, bytes] of [["/length", content.length], ["/chunks", 0], ["/close", 0], ["/moved", content.length]]
  ) {
    assert.deepEqual(await get(outside.url(String(path))), { bytes, content }, String(path));
  }
  assert.deepEqual(await get(outside.url("/length", "inside.example")), { bytes: content.length, content });
  assert.match(outside.asked.at(-1)!, new RegExp(`^host: inside.example:${outside.port}$`, "m"));
});

Deno.test("fetchUrl() connects to no address of the inside, however it is named or reached", async () => {
  await using outside = new Outside();
  outside.answers = { "/in": say("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/meta-data\r\n\r\n") };
  const none = { privateRanges: [] };
  for (
    const url of [
      outside.url("/length"),
      outside.url("/length", "inside.example"),
      "http://both.example/",
      "http://10.0.0.1/",
      "http://169.254.169.254/",
      "http://[::1]/",
      "http://0x7f000001/",
      "http://2130706433/",
    ]
  ) {
    await assert.rejects(get(url, none), fails("address_refused"), url);
  }
  assert.equal(outside.asked.length, 0);
  await assert.rejects(get(outside.url("/in")), fails("address_refused"), "a redirect is judged, too");
});

Deno.test("fetchUrl() refuses URLs it must not take, answers it cannot trust, and says which", async () => {
  await using outside = new Outside();
  outside.answers = {
    "/large": say(ok(2 ** 22)),
    "/endless": say("HTTP/1.1 200 OK\r\n\r\n", ...Array.from({ length: 3 }, () => content)),
    "/cut": say(ok(content.length), content.subarray(0, 1000)),
    "/cut-chunks": say(...chunked(content, 70_000).slice(0, 5)),
    "/lengths": say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "/gzip": say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\na"),
    "/garbage": say("SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n"),
    "/head": say(`HTTP/1.1 200 OK\r\nx: ${"y".repeat(40_000)}`),
    "/absent": say("HTTP/1.1 404 Not Found\r\n\r\n"),
    "/broken": say("HTTP/1.1 503 Later\r\n\r\n"),
    "/round": say("HTTP/1.1 301 Moved\r\nLocation: /round\r\n\r\n"),
    "/file": say("HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\n\r\n"),
    "/nothing": say(),
  };
  const cases = {
    "/large": "content_too_large",
    "/endless": "content_too_large",
    "/cut": "content_cut_off",
    "/cut-chunks": "content_cut_off",
    "/lengths": "answer_malformed",
    "/gzip": "fetch_refused",
    "/garbage": "answer_malformed",
    "/head": "answer_malformed",
    "/absent": "fetch_refused",
    "/broken": "fetch_refused",
    "/round": "fetch_refused",
    "/file": "invalid_url",
    "/nothing": "answer_malformed",
  };
  for (const [path, code] of Object.entries(cases)) await assert.rejects(get(outside.url(path)), fails(code), path);
  await assert.rejects(get(outside.url("/absent"), { allowPlain: false }), fails("plain_http"));
  for (const url of ["no url", "file:///etc/passwd", "http://alice:secret@93.184.216.34/"]) {
    await assert.rejects(get(url), fails("invalid_url"), url);
  }
  await assert.rejects(get("http://nowhere.example/"), fails("host_unresolved"));
  await assert.rejects(get("http://127.0.0.1:1/"), fails("host_unreachable"));
});

Deno.test("fetchUrl() gives up a server that falls silent, and ends with its caller", async () => {
  await using outside = new Outside();
  const held = Promise.withResolvers<void>();
  const hold = async (connection: Deno.Conn) => {
    await say(ok(content.length), content.subarray(0, 1000))(connection);
    await held.promise;
  };
  outside.answers = { "/hold": hold };
  await assert.rejects(get(outside.url("/hold"), { silenceMsMax: 50 }), fails("fetch_slow"));
  const stop = new AbortController();
  const running = get(outside.url("/hold"), {}, stop.signal);
  while (outside.asked.length < 2) await new Promise((done) => setTimeout(done, 5));
  stop.abort(new Error("left"));
  await assert.rejects(running, /left/);
  held.resolve();
});

Deno.test("Fetch streams the head and then the content, and refuses what is no request", async () => {
  await using outside = new Outside();
  outside.answers = { "/image": say(ok(content.length), content) };
  const service = fetchService({ privateRanges: [loopback], silenceMsMax: 5_000 }, { resolve });
  await using server = await serveLocally("fetcher", [service]);
  const client = server.client(FetchService);
  const all = async (request: { url: string; bytesMax: bigint; allowPlain?: boolean }) => {
    const parts = [];
    for await (const { part } of client.fetch(request)) parts.push(part);
    return parts;
  };
  const [head, ...chunks] = await all({ url: outside.url("/image"), bytesMax: 2n ** 21n, allowPlain: true });
  assert.deepEqual(head?.case === "head" && head.value.bytes, BigInt(content.length));
  const got = chunks.map((part) => part.case === "chunk" ? part.value : new Uint8Array());
  assert.ok(got.every((chunk) => chunk.length > 0 && chunk.length <= 512 * 1024));
  assert.deepEqual(concatBytes(got), content);
  await assert.rejects(all({ url: outside.url("/image"), bytesMax: 0n }), fails("invalid_field"));
  await assert.rejects(
    all({ url: outside.url("/image"), bytesMax: 10n, allowPlain: true }),
    fails("content_too_large"),
  );
  assert.equal(server.asked.at(-1)!.permission, "fetcher.url.fetch");
});
