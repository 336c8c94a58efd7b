import assert from "node:assert/strict";
import { concatBytes, Fault } from "@ultracloud/base";
import { type ImageSource, urlSource } from "./_image_source.ts";

const content = Uint8Array.from({ length: 700_000 }, (_, i) => i % 251);
const options = { sha256: "0".repeat(64), signal: new AbortController().signal };
const fails = (code: string) => (error: unknown) => error instanceof Fault && error.code === code;

async function contentOf(source: ImageSource): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of source.chunks()) {
    assert.ok(chunk.length <= 512 * 1024);
    parts.push(chunk.slice());
  }
  return concatBytes(parts);
}

async function withServer(work: (url: string) => Promise<void>): Promise<void> {
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    const { pathname } = new URL(request.url);
    const to = (location: string) => new Response(null, { status: 302, headers: { location } });
    if (pathname === "/image") return new Response(content, { headers: { "content-length": String(content.length) } });
    if (pathname === "/moved") return to("/image");
    if (pathname === "/round") return to("/round");
    if (pathname === "/file") return to("file:///etc/passwd");
    return new Response(null, { status: pathname === "/broken" ? 500 : 404 });
  });
  await work(`http://127.0.0.1:${(server.addr as Deno.NetAddr).port}`);
}

Deno.test("urlSource() passes on what a server sends, where it sends us on too, and knows its length", async () => {
  await withServer(async (url) => {
    for (const path of ["/image", "/moved"]) {
      const source = await urlSource(url + path, options);
      assert.equal(source.bytes, content.length);
      assert.deepEqual(await contentOf(source), content);
    }
  });
});

Deno.test("urlSource() refuses what it cannot trust, and tells what a server answers", async () => {
  await withServer(async (url) => {
    await assert.rejects(urlSource(`${url}/image`, { ...options, sha256: undefined }), fails("digest_wanted"));
    for (const bad of ["no url", "file:///etc/passwd", `${url}/file`, "https://alice:secret@example.org/image"]) {
      await assert.rejects(urlSource(bad, options), fails("invalid_url"), bad);
    }
    for (const path of ["/absent", "/broken", "/round"]) {
      await assert.rejects(urlSource(url + path, options), fails("fetch_failed"), path);
    }
    await assert.rejects(urlSource("http://127.0.0.1:1/image", options), fails("fetch_failed"));
  });
});
