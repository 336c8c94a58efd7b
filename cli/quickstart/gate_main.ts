/**
 * Carries TCP between the loopback addresses of two network namespaces. One gate stands in each; they meet at unix
 * sockets, which know no namespaces. Its one argument is a configuration file (`GateConfig`); see fabric.ts.
 */
import type { GateConfig } from "./gate.ts";

/** Connections carried at once; more wait to be accepted. */
const connectionsMax = 256;
/** What asks for a target or refuses one fits in this. */
const headerCharsMax = 200;
const connectMsMax = 10_000;
const chunkBytes = 65_536;

const config = JSON.parse(await Deno.readTextFile(Deno.args[0]!)) as GateConfig;
let carried = 0;

async function copy(from: Deno.Conn, to: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(chunkBytes);
  for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
    for (let rest = buffer.subarray(0, n); rest.length > 0;) rest = rest.subarray(await to.write(rest));
  }
  await to.closeWrite();
}

function closeQuietly(...connections: (Deno.Conn | undefined)[]): void {
  for (const connection of connections) {
    try {
      connection?.close();
    } catch {
      // Closed by the other end's failure.
    }
  }
}

async function readHeader(connection: Deno.Conn): Promise<string> {
  const byte = new Uint8Array(1);
  for (let text = ""; text.length < headerCharsMax;) {
    if (await connection.read(byte) === null) throw new Error("ended early");
    if (byte[0] === 10) return text;
    text += String.fromCharCode(byte[0]!);
  }
  throw new Error("asked for too much");
}

async function say(connection: Deno.Conn, text: string): Promise<void> {
  await connection.write(new TextEncoder().encode(`${text}\n`));
}

/** Accepts until the process ends; each connection is given to `handle` and closed after it. */
async function serve(listener: Deno.Listener, handle: (connection: Deno.Conn) => Promise<void>): Promise<void> {
  for await (const connection of listener) {
    while (carried >= connectionsMax) await new Promise((resolve) => setTimeout(resolve, 5));
    carried++;
    handle(connection).catch(() => {}).finally(() => {
      carried--;
      closeQuietly(connection);
    });
  }
}

/** The peer asks for a target by a line; it is connected to when the configuration names it. */
async function towards(peer: Deno.Conn): Promise<void> {
  const target = await readHeader(peer);
  if (!config.targets.includes(target)) return await say(peer, `- ${target} is no target`);
  const at = target.lastIndexOf(":");
  let connection: Deno.Conn | undefined;
  try {
    try {
      connection = await Deno.connect({
        hostname: target.slice(0, at),
        port: Number(target.slice(at + 1)),
        signal: AbortSignal.timeout(connectMsMax),
      });
    } catch (error) {
      return await say(peer, `- ${String(error).slice(0, headerCharsMax / 2).replaceAll("\n", " ")}`);
    }
    await say(peer, "+");
    await Promise.all([copy(peer, connection), copy(connection, peer)]);
  } finally {
    closeQuietly(connection);
  }
}

await Deno.remove(config.socket).catch(() => {});
void serve(Deno.listen({ transport: "unix", path: config.socket }), towards);
for (const { address, target } of config.listen) {
  const at = address.lastIndexOf(":");
  const listener = Deno.listen({ hostname: address.slice(0, at), port: Number(address.slice(at + 1)) });
  void serve(listener, async (connection) => {
    const peer = await Deno.connect({ transport: "unix", path: config.peerSocket });
    try {
      await say(peer, target);
      if (await readHeader(peer) !== "+") return;
      await Promise.all([copy(connection, peer), copy(peer, connection)]);
    } finally {
      closeQuietly(peer);
    }
  });
}
if (config.mirror !== undefined) {
  const at = config.mirror.lastIndexOf(":");
  // Whoever connects learns under which address it is seen: how a guest proves that it goes out translated.
  void serve(
    Deno.listen({ hostname: config.mirror.slice(0, at), port: Number(config.mirror.slice(at + 1)) }),
    async (connection) => {
      await say(connection, (connection.remoteAddr as Deno.NetAddr).hostname);
      await connection.closeWrite();
      // Until the caller has gone too, so that what was said arrives.
      await connection.read(new Uint8Array(1));
    },
  );
}
