/** TCP between members, edge by edge, that can be cut: to both ends a network that is gone. */
export class Relays implements AsyncDisposable {
  readonly #edges = new Map<string, Edge>();

  /** An address that leads from one member to another's listener. */
  add(from: number, to: number, target: string): string {
    const edge = new Edge(target);
    this.#edges.set(`${from}>${to}`, edge);
    return edge.address;
  }

  /** Cuts the members off from all others, in both directions; they still reach each other. */
  isolate(members: readonly number[]): void {
    for (const [name, edge] of this.#edges) {
      const [from, to] = name.split(">").map(Number) as [number, number];
      edge.cut(members.includes(from) !== members.includes(to));
    }
  }

  heal(): void {
    for (const edge of this.#edges.values()) edge.cut(false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#edges.values()].map((edge) => edge.close()));
  }
}

class Edge {
  readonly #target: { hostname: string; port: number };
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #open = new Set<Deno.TcpConn>();
  readonly #work = new Set<Promise<void>>();
  readonly #accepting: Promise<void>;
  #isCut = false;

  constructor(target: string) {
    const [hostname, port] = target.split(":") as [string, string];
    this.#target = { hostname, port: Number(port) };
    this.#accepting = this.#accept();
  }

  get address(): string {
    return `127.0.0.1:${(this.#listener.addr as Deno.NetAddr).port}`;
  }

  cut(isCut: boolean): void {
    this.#isCut = isCut;
    if (isCut) { for (const connection of this.#open) end(connection); }
  }

  async #accept(): Promise<void> {
    for await (const inbound of this.#listener) {
      if (this.#isCut) {
        end(inbound);
        continue;
      }
      const work = this.#relay(inbound).finally(() => this.#work.delete(work));
      this.#work.add(work);
    }
  }

  async #relay(inbound: Deno.TcpConn): Promise<void> {
    this.#open.add(inbound);
    let outbound: Deno.TcpConn | undefined;
    try {
      outbound = await Deno.connect(this.#target);
      this.#open.add(outbound);
      if (this.#isCut) return;
      await Promise.race([copy(inbound, outbound), copy(outbound, inbound)]);
    } catch {
      // One of the two ends is gone: so is the other.
    } finally {
      for (const connection of [inbound, outbound]) {
        if (connection === undefined) continue;
        end(connection);
        this.#open.delete(connection);
      }
    }
  }

  async close(): Promise<void> {
    this.cut(true);
    this.#listener.close();
    await this.#accepting;
    await Promise.all(this.#work);
  }
}

async function copy(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(64 * 1024);
  try {
    for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
      for (let at = 0; at < n;) at += await to.write(buffer.subarray(at, n));
    }
  } catch {
    // Ended under way.
  }
}

function end(connection: Deno.TcpConn): void {
  try {
    connection.close();
  } catch {
    // Closed already.
  }
}
