/** A TCP way between two processes that can be cut: what comes through is passed on, what is cut is closed. */
export class Gate implements AsyncDisposable {
  readonly #listener: Deno.TcpListener;
  readonly #target: { readonly hostname: string; readonly port: number };
  readonly #open = new Set<Deno.Conn>();
  readonly #running: Promise<void>;
  #isCut = false;

  constructor(target: string) {
    const at = target.lastIndexOf(":");
    this.#target = { hostname: target.slice(0, at), port: Number(target.slice(at + 1)) };
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#running = this.#serve();
  }

  get address(): string {
    return `127.0.0.1:${this.#listener.addr.port}`;
  }

  cut(): void {
    this.#isCut = true;
    for (const conn of [...this.#open]) close(conn);
  }

  mend(): void {
    this.#isCut = false;
  }

  async #serve(): Promise<void> {
    for await (const conn of this.#listener) void this.#pass(conn);
  }

  async #pass(inside: Deno.Conn): Promise<void> {
    this.#open.add(inside);
    let outside: Deno.Conn | undefined;
    try {
      if (this.#isCut) return;
      outside = await Deno.connect(this.#target);
      this.#open.add(outside);
      if (this.#isCut) return;
      await Promise.race([
        inside.readable.pipeTo(outside.writable),
        outside.readable.pipeTo(inside.writable),
      ]);
    } catch {
      // Either side may close at any moment: that is what a network does.
    } finally {
      for (const conn of [inside, outside]) {
        if (conn) close(conn);
        if (conn) this.#open.delete(conn);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#listener.close();
    await this.#running;
  }
}

function close(conn: Deno.Conn): void {
  try {
    conn.close();
  } catch {
    // Closed already.
  }
}
