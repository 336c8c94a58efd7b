import type { Pipe, Substrate } from "./substrate.ts";

/** Connections at once; a browser opens six. */
const connectionsMax = 32;
const bufferBytes = 65_536;

/** Runs on a node: carries its standard input to an address, and what comes from there to its standard output. */
const carry = `const [hostname, port] = Deno.args[0].split(":");
const to = await Deno.connect({ hostname, port: Number(port) });
async function copy(from, into) {
  const buffer = new Uint8Array(65536);
  for (let n; (n = await from.read(buffer)) !== null;) {
    for (let at = 0; at < n;) at += await into.write(buffer.subarray(at, n));
  }
}
copy(Deno.stdin, to).then(() => to.closeWrite()).catch(() => {});
await copy(to, Deno.stdout).catch(() => {});
Deno.exit(0);`;

/** A way to an address as a node sees it. */
export async function openWay(substrate: Substrate, node: string, address: string): Promise<Pipe> {
  return await substrate.pipe(node, [substrate.deno, "eval", "--quiet", carry, address]);
}

interface Duplex {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  /** Called once nothing more will come or go. */
  close?(): void;
}

/** Carries every connection of the listener over a way of its own, until the signal; resolves when all have ended. */
export async function forward(
  listener: Deno.Listener<Deno.Conn>,
  open: () => Promise<Duplex>,
  signal: AbortSignal,
): Promise<void> {
  const running = new Set<Promise<void>>();
  const onAbort = () => listener.close();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    for await (const connection of listener) {
      if (running.size >= connectionsMax) {
        connection.close();
        continue;
      }
      const carried = join(connection, open, signal);
      running.add(carried);
      carried.finally(() => running.delete(carried));
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    await Promise.all(running);
  }
}

/**
 * A connection whose directions end one after the other: its own streams close both as soon as one ends, and with them
 * the answer to a question that is over.
 */
export function duplexOf(connection: Deno.Conn): Duplex {
  return {
    readable: new ReadableStream({
      async pull(out) {
        const buffer = new Uint8Array(bufferBytes);
        const n = await connection.read(buffer);
        if (n === null) out.close();
        else out.enqueue(buffer.subarray(0, n));
      },
    }),
    writable: new WritableStream({
      async write(chunk) {
        for (let at = 0; at < chunk.length;) at += await connection.write(chunk.subarray(at));
      },
      close: () => connection.closeWrite(),
    }),
    close: () => closeOnce(connection),
  };
}

/** Whatever ends one side ends the other; a caller that leaves is nothing to report. */
async function join(connection: Deno.Conn, open: () => Promise<Duplex>, signal: AbortSignal): Promise<void> {
  const here = duplexOf(connection);
  const onAbort = () => closeOnce(connection);
  let way: Duplex | undefined;
  try {
    way = await open();
    signal.addEventListener("abort", onAbort, { once: true });
    const there = here.readable.pipeTo(way.writable, { signal }).catch(() => {});
    await way.readable.pipeTo(here.writable, { signal }).catch(() => {});
    // The answer is complete: what the caller might still say is nobody's.
    closeOnce(connection);
    await there;
  } catch {
    // Nobody to tell but the caller, whose connection ends.
  } finally {
    closeOnce(connection);
    way?.close?.();
    signal.removeEventListener("abort", onAbort);
  }
}

function closeOnce(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch (error) {
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}
