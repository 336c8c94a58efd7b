import { type Clock, fault } from "@ultracloud/base";

/** A connection is closed when nobody has typed for this long: somebody else may want the line. */
const idleMs = 5_000;
/** A guest that takes no input for this long has nobody reading. */
const writeTimeoutMs = 5_000;
export const consoleWriteBytesMax = 64 * 1024;

/**
 * Types into a VM's serial line. QEMU writes the guest's output to this connection as well as to the log; it is read
 * and thrown away, as a guest whose output nobody takes stands still.
 */
export class SerialWriter {
  readonly #path: () => string | undefined;
  readonly #clock: Clock;
  #conn: Deno.Conn | undefined;
  #drained: Promise<void> = Promise.resolve();
  #turn: Promise<unknown> = Promise.resolve();
  #idle = new AbortController();

  /** `path`: of the socket of the power-on; undefined while off. */
  constructor(path: () => string | undefined, deps: { readonly clock: Clock }) {
    this.#path = path;
    this.#clock = deps.clock;
  }

  /** Writes of several callers do not mix. */
  write(data: Uint8Array): Promise<void> {
    const turn = this.#turn.then(() => this.#write(data));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async close(): Promise<void> {
    this.#idle.abort();
    try {
      this.#conn?.close();
    } catch {
      // QEMU closed it first.
    }
    this.#conn = undefined;
    await this.#drained;
  }

  async #write(data: Uint8Array): Promise<void> {
    this.#idle.abort();
    const conn = this.#conn ?? await this.#connect();
    const stop = new AbortController();
    let late = false;
    const timer = this.#clock.sleep(writeTimeoutMs, stop.signal).then(() => {
      late = true;
      conn.close();
    }, () => {});
    try {
      for (let sent = 0; sent < data.length;) sent += await conn.write(data.subarray(sent));
    } catch (cause) {
      this.#conn = undefined;
      throw fault(
        "unavailable",
        "console_busy",
        late ? "Cannot type as the guest takes no input" : "Cannot type as the serial line is gone",
        { cause },
      );
    } finally {
      stop.abort();
      await timer;
    }
    this.#closeWhenIdle();
  }

  async #connect(): Promise<Deno.Conn> {
    const path = this.#path();
    if (path === undefined) throw fault("failed_precondition", "vm_not_running", "Cannot type as the VM does not run");
    let conn: Deno.Conn;
    try {
      conn = await Deno.connect({ transport: "unix", path });
    } catch (cause) {
      throw fault("unavailable", "console_busy", "Cannot type as the serial line does not answer", { cause });
    }
    this.#conn = conn;
    this.#drained = this.#drain(conn);
    return conn;
  }

  async #drain(conn: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    try {
      while (await conn.read(buffer) !== null);
    } catch {
      // Closed here or there; both end it.
    }
    if (this.#conn !== conn) return;
    this.#conn = undefined;
    this.#idle.abort();
    conn.close();
  }

  #closeWhenIdle(): void {
    const idle = this.#idle = new AbortController();
    this.#clock.sleep(idleMs, idle.signal).then(() => this.close(), () => {});
  }
}
