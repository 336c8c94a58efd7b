import { systemClock } from "@ultracloud/base";

/** What happens to bytes on their way to a server. */
export type ProxyFault =
  | "none"
  /** Nothing arrives any more; connections stay open, as when a cable is cut. */
  | "silent"
  /** Every connection ends at once, also new ones. */
  | "reset"
  /** Every piece arrives late. */
  | "slow";

const slowMs = 60;

/** Between the callers of a server and the server, on loopback; one fault at a time. For tests. */
export class FaultProxy implements AsyncDisposable {
  readonly #listener: Deno.TcpListener;
  readonly #target: number;
  readonly #connections = new Set<Deno.TcpConn>();
  readonly #running = new Set<Promise<void>>();
  #fault: ProxyFault = "none";
  #changed = Promise.withResolvers<void>();
  #closed = false;

  constructor(target: number) {
    this.#target = target;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#track(this.#accept());
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  get fault(): ProxyFault {
    return this.#fault;
  }

  set fault(fault: ProxyFault) {
    this.#fault = fault;
    if (fault === "reset") this.#cut();
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  #track(work: Promise<void>): void {
    const running: Promise<void> = work.catch(() => {}).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #accept(): Promise<void> {
    for await (const caller of this.#listener) {
      if (this.#fault === "reset") caller.close();
      else this.#track(this.#serve(caller));
    }
  }

  async #serve(caller: Deno.TcpConn): Promise<void> {
    this.#connections.add(caller);
    await this.#open();
    if (this.#closed) return;
    let server: Deno.TcpConn;
    try {
      server = await Deno.connect({ hostname: "127.0.0.1", port: this.#target });
    } catch {
      this.#close(caller);
      return;
    }
    this.#connections.add(server);
    for (const end of [caller, server]) end.setNoDelay(true);
    await Promise.all([this.#copy(caller, server), this.#copy(server, caller)]);
  }

  /** Copies until either side ends; then both do. */
  async #copy(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    try {
      for (;;) {
        const count = await from.read(buffer);
        if (count === null) break;
        if (this.#fault === "slow") await systemClock.sleep(slowMs);
        await this.#open();
        for (let at = 0; at < count;) at += await to.write(buffer.subarray(at, count));
      }
    } catch {
      // One side is gone: so is the other.
    }
    this.#close(from);
    this.#close(to);
  }

  /** Resolves once bytes may pass. */
  async #open(): Promise<void> {
    while (this.#fault === "silent" && !this.#closed) await this.#changed.promise;
  }

  #close(connection: Deno.TcpConn): void {
    if (!this.#connections.delete(connection)) return;
    connection.close();
  }

  #cut(): void {
    for (const connection of [...this.#connections]) this.#close(connection);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.fault = "none";
    this.#listener.close();
    this.#cut();
    await Promise.all(this.#running);
  }
}
