import assert from "node:assert/strict";
import { Fault, systemClock, utf8 } from "@ultracloud/base";
import { connectQmp, LineSplitter, qmpInFlightMax } from "./mod.ts";

const greeting =
  '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}\r\n';
type Message = { execute: string; id: number; arguments?: Record<string, unknown> };
type Peer = { send(text: string): Promise<void>; next(): Promise<Message>; hangUp(): void };

/** A monitor that follows `script`; `use` talks to it over a real socket. */
async function withPeer(script: (peer: Peer) => Promise<void>, use: (path: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const path = `${dir}/qmp.sock`;
  const listener = Deno.listen({ transport: "unix", path });
  const done = Promise.withResolvers<void>();
  const serve = (async () => {
    const conn = await listener.accept();
    const splitter = new LineSplitter({ lineBytesMax: 1 << 20 });
    const lines: string[] = [];
    let open = true;
    const hangUp = () => {
      if (open) conn.close();
      open = false;
    };
    try {
      await script({
        async send(text) {
          await conn.write(utf8.encode(text));
        },
        async next() {
          const buffer = new Uint8Array(4096);
          while (lines.length === 0) {
            const n = await conn.read(buffer);
            if (n === null) throw new Error("the client left");
            lines.push(...splitter.push(buffer.subarray(0, n)));
          }
          return JSON.parse(lines.shift()!) as Message;
        },
        hangUp,
      });
      await done.promise;
    } finally {
      hangUp();
    }
  })();
  try {
    await use(path);
  } finally {
    done.resolve();
    await serve;
    listener.close();
    await Deno.remove(dir, { recursive: true });
  }
}

async function hello(peer: Peer): Promise<void> {
  await peer.send(greeting);
  const message = await peer.next();
  assert.equal(message.execute, "qmp_capabilities");
  await peer.send(`{"return": {}, "id": ${message.id}}\r\n`);
}

function fails(code: string): (error: unknown) => boolean {
  return (error) => error instanceof Fault && error.code === code;
}

const deps = { clock: systemClock };

Deno.test("connectQmp() reads the version and negotiates before it answers", async () => {
  await withPeer(hello, async (path) => {
    await using client = await connectQmp({ path }, deps);
    assert.deepEqual(client.version, { major: 7, minor: 2, micro: 22 });
  });
});

Deno.test("execute() matches answers to commands by id, whatever their order", async () => {
  await withPeer(async (peer) => {
    await hello(peer);
    const first = await peer.next();
    const second = await peer.next();
    await peer.send(`{"return": "${second.execute}", "id": ${second.id}}\r\n`);
    await peer.send(`{"return": "${first.execute}", "id": ${first.id}}\r\n`);
  }, async (path) => {
    await using client = await connectQmp({ path }, deps);
    assert.deepEqual(await Promise.all([client.execute("a"), client.execute("b", { x: 1 })]), ["a", "b"]);
  });
});

Deno.test("execute() reports the peer's refusal with its class and goes on", async () => {
  await withPeer(async (peer) => {
    await hello(peer);
    const bad = await peer.next();
    await peer.send(`{"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": ${bad.id}}\r\n`);
    const good = await peer.next();
    await peer.send(`{"return": 1, "id": ${good.id}}\r\n`);
  }, async (path) => {
    await using client = await connectQmp({ path }, deps);
    await assert.rejects(client.execute("nonsense"), (error) => {
      assert.ok(error instanceof Fault);
      assert.equal(error.code, "qmp_error");
      assert.equal(error.detail.metadata?.class, "CommandNotFound");
      return /Cannot run nonsense: no such thing/.test(error.message);
    });
    assert.equal(await client.execute("fine"), 1);
  });
});

Deno.test("execute() times out on a silent peer, drops the late answer and keeps the connection", async () => {
  await withPeer(async (peer) => {
    await hello(peer);
    const slow = await peer.next();
    const next = await peer.next();
    await peer.send(`{"return": "late", "id": ${slow.id}}\r\n{"return": "ok", "id": ${next.id}}\r\n`);
  }, async (path) => {
    await using client = await connectQmp({ path }, deps);
    await assert.rejects(client.execute("slow", {}, { timeoutMs: 20 }), fails("qmp_timeout"));
    assert.equal(await client.execute("next"), "ok");
  });
});

Deno.test("connectQmp() gives up on a peer that never greets", async () => {
  await withPeer(() => Promise.resolve(), async (path) => {
    await assert.rejects(connectQmp({ path, commandTimeoutMs: 30 }, deps), fails("qmp_timeout"));
  });
});

Deno.test("connectQmp() tells a socket without a listener from a peer too busy to accept", async () => {
  await assert.rejects(connectQmp({ path: "/nonexistent/qmp.sock" }, deps), fails("qmp_absent"));
  const dir = await Deno.makeTempDir();
  const path = `${dir}/qmp.sock`;
  try {
    const listener = Deno.listen({ transport: "unix", path });
    const waiting: Deno.Conn[] = [];
    // Nobody accepts: the backlog fills, and then the kernel refuses for now.
    for (let i = 0; i < 5_000 && waiting.length === i; i++) {
      const conn = await Deno.connect({ transport: "unix", path }).catch(() => undefined);
      if (conn) waiting.push(conn);
    }
    if (waiting.length < 5_000) await assert.rejects(connectQmp({ path }, deps), fails("qmp_disconnected"));
    for (const conn of waiting) conn.close();
    listener.close();
    await assert.rejects(connectQmp({ path }, deps), fails("qmp_absent"));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a hang-up fails what is in flight as disconnected, not as a timeout", async () => {
  await withPeer(async (peer) => {
    await hello(peer);
    await peer.next();
    peer.hangUp();
  }, async (path) => {
    await using client = await connectQmp({ path }, deps);
    await assert.rejects(client.execute("query-status"), fails("qmp_disconnected"));
    assert.equal((await client.closed).code, "qmp_disconnected");
    await assert.rejects(client.execute("again"), fails("qmp_disconnected"));
  });
});

Deno.test("events reach listeners in order, also when cut across packets", async () => {
  await withPeer(async (peer) => {
    await hello(peer);
    const go = await peer.next();
    await peer.send('{"event": "RESUME", "timestamp": {"seconds": 1, "mic');
    await peer.send(
      'roseconds": 2}}\r\n{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}\r\n',
    );
    await peer.send(`{"return": {}, "id": ${go.id}}\r\n`);
  }, async (path) => {
    await using client = await connectQmp({ path }, deps);
    const seen: unknown[] = [];
    client.onEvent((event) => seen.push(event));
    await client.execute("cont");
    assert.deepEqual(seen, [
      { name: "RESUME", data: {} },
      { name: "SHUTDOWN", data: { guest: true, reason: "guest-shutdown" } },
    ]);
  });
});

Deno.test("a line beyond the limit and a line that is no message end the connection", async () => {
  for (const [text, code] of [["x".repeat(5000), "qmp_line_too_long"], ["hello\r\n", "qmp_protocol"]] as const) {
    await withPeer(async (peer) => {
      await hello(peer);
      await peer.next();
      await peer.send(text);
    }, async (path) => {
      await using client = await connectQmp({ path, lineBytesMax: 4096 }, deps);
      await assert.rejects(client.execute("x"), fails(code));
      assert.equal((await client.closed).code, code);
    });
  }
});

Deno.test("execute() refuses more than the bound in flight", async () => {
  await withPeer(hello, async (path) => {
    await using client = await connectQmp({ path }, deps);
    const waiting = Array.from({ length: qmpInFlightMax }, () => client.execute("x").catch((error) => error.code));
    await assert.rejects(client.execute("one more"), fails("qmp_busy"));
    await client[Symbol.asyncDispose]();
    assert.deepEqual(new Set(await Promise.all(waiting)), new Set(["qmp_disconnected"]));
  });
});

Deno.test("an aborted signal ends the wait with its reason", async () => {
  await withPeer(hello, async (path) => {
    await using client = await connectQmp({ path }, deps);
    const stop = new AbortController();
    const call = client.execute("x", {}, { signal: stop.signal });
    stop.abort(new Error("enough"));
    await assert.rejects(call, /enough/);
  });
});

const qemu = await new Deno.Command("qemu-system-x86_64", { args: ["--version"], stdout: "null", stderr: "null" })
  .output().then((out) => out.success, () => false);

Deno.test({
  name: "a real QEMU answers query-status and quits on command",
  ignore: !qemu,
  async fn() {
    const dir = await Deno.makeTempDir();
    const path = `${dir}/qmp.sock`;
    const child = new Deno.Command("qemu-system-x86_64", {
      args: ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", `unix:${path},server=on,wait=off`],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      const client = await eventually(() => connectQmp({ path }, deps));
      assert.ok(client.version.major >= 6);
      const status = await client.execute<{ running: boolean }>("query-status");
      assert.equal(typeof status.running, "boolean");
      await assert.rejects(client.execute("no-such-command"), fails("qmp_error"));
      await client.execute("quit");
      assert.equal((await client.closed).code, "qmp_disconnected");
      assert.equal((await child.status).code, 0);
      await client[Symbol.asyncDispose]();
    } finally {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended, as it should.
      }
      await child.status;
      await Deno.remove(dir, { recursive: true });
    }
  },
});

async function eventually<T>(work: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + 10_000;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await systemClock.sleep(20);
    }
  }
}
