import assert from "node:assert/strict";
import { connect } from "node:tls";
import { createTestCa, type TestLeaf } from "@ultracloud/testing";
import { Fault } from "@ultracloud/base";
import { EventService, OperationService } from "@ultracloud/proto/common/v1";
import { operationPath, startFixture } from "./_fixture.ts";
import { createRpcClient, spiffeIdOf } from "./mod.ts";
import { readTlsFiles, stampOf } from "./tls_files.ts";

const id = "spiffe://test/svc/iam";

/** HTTP status that a TLS client gets, or why it got none. */
function attempt(
  port: number,
  ca: string,
  leaf: Partial<TestLeaf>,
  maxVersion?: "TLSv1.1" | "TLSv1.2",
): Promise<string> {
  return new Promise((resolve) => {
    let text = "";
    const options = {
      host: "127.0.0.1",
      port,
      ca,
      servername: "localhost",
      ...(leaf.certPem === undefined ? {} : { cert: leaf.certPem, key: leaf.keyPem! }),
      ...(maxVersion === undefined ? {} : { maxVersion, minVersion: maxVersion }),
    };
    try {
      const socket = connect(options, () => {
        socket.write(
          `POST ${operationPath}GetOperation HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 26\r\n` +
            `connection: close\r\n\r\n{"project":"a/b","id":"x"}`,
        );
      });
      socket.setTimeout(5_000, () => socket.destroy(new Error("timeout")));
      socket.on("data", (data) => text += data.toString());
      socket.on("error", () => {});
      socket.on("close", () => resolve(text === "" ? "refused" : text.split(" ")[1]!));
    } catch {
      resolve("refused");
    }
  });
}

Deno.test("the mTLS listener lets peers in by a certificate of its CA and no other way", async (t) => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const other = await createTestCa("Other CA");
    const forged = await createTestCa();
    const tls = await ca.issueFiles(dir, "server", { spiffeId: "spiffe://test/svc/flaredb" });
    await using fixture = await startFixture({ listen: "127.0.0.1:0", tls });
    const port = Number(new URL(fixture.url).port);
    const valid = await ca.issue({ spiffeId: id });
    const cases: [name: string, leaf: Partial<TestLeaf>, want: string, version?: "TLSv1.1" | "TLSv1.2"][] = [
      ["a valid certificate", valid, "200"],
      ["a valid certificate over TLS 1.2", valid, "200", "TLSv1.2"],
      ["TLS 1.1", valid, "refused", "TLSv1.1"],
      ["no certificate", {}, "refused"],
      ["no certificate over TLS 1.2", {}, "refused", "TLSv1.2"],
      ["a certificate of another CA", await other.issue({ spiffeId: id }), "refused"],
      ["a certificate of a CA that took our CA's name", await forged.issue({ spiffeId: id }), "refused"],
      ["an expired certificate", await ca.issue({ spiffeId: id, notAfterMs: Date.now() - 60_000 }), "refused"],
      ["a certificate for servers only", await ca.issue({ spiffeId: id, usages: ["server"] }), "refused"],
      ["a certificate with another's key", { ...valid, keyPem: (await ca.issue()).keyPem }, "refused"],
      ["a certificate that names nobody", await ca.issue(), "401"],
    ];
    for (const [name, leaf, want, version] of cases) {
      await t.step(name, async () => {
        const before = fixture.seen.length;
        assert.equal(await attempt(port, ca.caPem, leaf, version), want);
        assert.equal(fixture.seen.length - before, want === "200" ? 1 : 0);
      });
    }
    assert.equal(fixture.seen[0]!.principal, id);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

/** A connection that stays open; `ended` resolves when the server closes it. */
async function stay(port: number, ca: string, leaf: TestLeaf): Promise<{ ended: Promise<void>; end(): void }> {
  const socket = connect({
    host: "127.0.0.1",
    port,
    ca,
    cert: leaf.certPem,
    key: leaf.keyPem,
    servername: "localhost",
  });
  socket.on("error", () => {});
  const ended = new Promise<void>((resolve) => socket.on("close", () => resolve()));
  // An answered request: the server has seen the whole handshake.
  const answered = new Promise<void>((resolve) => socket.once("data", () => resolve()));
  socket.write("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
  await answered;
  return { ended, end: () => socket.destroy() };
}

Deno.test("an open connection ends when its authority leaves the bundle; those of the others go on", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const [old, fresh] = [await createTestCa("Old CA"), await createTestCa("New CA")];
    const tls = await old.issueFiles(dir, "server", { spiffeId: "spiffe://test/svc/flaredb" });
    const bundle = async (text: string, seconds: number) => {
      await Deno.writeTextFile(tls.caFile, text);
      // The time of the file is what the listener looks at, and two changes may come within one tick of it.
      await Deno.utime(tls.caFile, seconds, seconds);
    };
    await bundle(old.caPem + fresh.caPem, 1);
    await using fixture = await startFixture({ listen: "127.0.0.1:0", tls });
    const port = Number(new URL(fixture.url).port);
    const before = await stay(port, old.caPem, await old.issue({ spiffeId: id }));
    const after = await stay(port, old.caPem, await fresh.issue({ spiffeId: id }));
    let goesOn = true;
    void after.ended.then(() => goesOn = false);
    await bundle(fresh.caPem, 2);
    await before.ended;
    assert.ok(goesOn);
    assert.equal(await attempt(port, old.caPem, await fresh.issue({ spiffeId: id })), "200");
    assert.equal(await attempt(port, old.caPem, await old.issue({ spiffeId: id })), "refused");
    after.end();
    await after.ended;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("clients call, stream and fail typed over mTLS", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const tls = await ca.issueFiles(dir, "server");
    await using fixture = await startFixture({ listen: "127.0.0.1:0", tls });
    const options = { endpoints: [fixture.url], tls: await ca.issueFiles(dir, "client", { spiffeId: id }) };
    using operations = createRpcClient(OperationService, options);
    assert.equal((await operations.getOperation({ project: "a/b", id: "x" })).id, "x");
    const large = await operations.getOperation({ project: "a/b", id: "y".repeat(500_000) });
    assert.equal(large.id.length, 500_000);
    await assert.rejects(operations.getOperation({ project: "a/b", id: "missing" }), (error: unknown) => {
      assert.ok(error instanceof Fault);
      return error.code === "operation_not_found";
    });
    using events = createRpcClient(EventService, options);
    let seen = 0;
    for await (const event of events.watchEvents({ project: "a/b", cursor: "stay" })) {
      seen++;
      if (event.cursor === "2") break;
    }
    assert.equal(seen, 3);
    using stranger = createRpcClient(OperationService, {
      endpoints: [fixture.url],
      tls: { ...await (await createTestCa()).issueFiles(dir, "stranger"), caFile: options.tls.caFile },
      retries: 0,
    });
    await assert.rejects(stranger.getOperation({ project: "a/b", id: "x" }), (error: unknown) => {
      assert.ok(error instanceof Fault);
      return error.kind === "unavailable";
    });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("unreadable TLS files are a sentence", async () => {
  const tls = { certFile: "/nonexistent", keyFile: "/nonexistent", caFile: "/nonexistent" };
  await assert.rejects(startFixture({ listen: "127.0.0.1:0", tls }), /Cannot read the TLS files of the listener/);
});

Deno.test("readTlsFiles() refuses a key that is not the certificate's, as between two renames of a renewal", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const ca = await createTestCa();
    const [tls, other] = [await ca.issueFiles(dir, "one"), await ca.issueFiles(dir, "two")];
    assert.equal(readTlsFiles(tls).ca, ca.caPem);
    // Also when both were written in one tick of the clock.
    const { mtime } = await Deno.stat(tls.keyFile);
    await Deno.utime(other.keyFile, mtime!, mtime!);
    const before = stampOf(tls);
    await Deno.rename(other.keyFile, tls.keyFile);
    assert.notEqual(stampOf(tls), before);
    assert.throws(() => readTlsFiles(tls), /one\.key: it is not the key of .*one\.crt/);
    await Deno.rename(other.certFile, tls.certFile);
    assert.equal(readTlsFiles(tls).ca, ca.caPem);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("spiffeIdOf() takes exactly one well-formed SPIFFE URI", () => {
  assert.equal(spiffeIdOf("URI:spiffe://test/svc/iam, DNS:localhost"), "spiffe://test/svc/iam");
  for (
    const bad of [
      undefined,
      "",
      "DNS:localhost",
      "URI:https://test/svc/iam",
      "URI:spiffe://test",
      "URI:spiffe://test/svc/../x y",
      "URI:spiffe://test/svc/a, URI:spiffe://test/svc/b",
      'DNS:"a, URI:spiffe://test/svc/iam"',
    ]
  ) {
    assert.equal(spiffeIdOf(bad), undefined, String(bad));
  }
});
