import { type Clock, Fault } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { qcow2Node } from "./domain/block.ts";
import { removeAll } from "./files.ts";
import type { HostUser } from "./host_user.ts";
import { adoptEngine, type Engine, killByPidFile, startEngine } from "./qemu.ts";
import type { VolumeSlotFiles } from "./slots.ts";

const node = "volume";
/** A daemon that does not listen within this has its clients cut off by force. */
const endTimeoutMs = 5_000;

export interface ExportDaemonDeps {
  readonly clock: Clock;
  readonly log: Logger;
  readonly user: HostUser;
}

/** One qemu-storage-daemon: it holds a volume's file and offers it over NBD on a unix socket. Outlives the agent. */
export class ExportDaemon {
  readonly #files: VolumeSlotFiles;
  readonly #slot: number;
  readonly #deps: ExportDaemonDeps;
  #engine: Engine | undefined;

  constructor(options: { readonly files: VolumeSlotFiles; readonly slot: number }, deps: ExportDaemonDeps) {
    this.#files = options.files;
    this.#slot = options.slot;
    this.#deps = deps;
  }

  get alive(): boolean {
    return this.#engine !== undefined;
  }

  /** Has the daemon run and offer exactly these exports of the file; clients of others are cut off. */
  async serve(path: string, names: readonly string[]): Promise<void> {
    const { monitor } = this.#engine ?? await this.#adopt() ?? await this.#start(path);
    const present = (await monitor.execute<{ id: string }[]>("query-block-exports")).map(({ id }) => id);
    for (const id of present) if (!names.some((name) => idOf(name) === id)) await this.#drop(id);
    for (const name of names) if (!present.includes(idOf(name))) await this.#offer(name);
    await this.#deps.user.giveGroup(this.#files.nbdSocket);
  }

  /** Makes the file larger. Clients lose their exports for a moment and wait for them to come back. */
  async grow(bytes: number): Promise<void> {
    const monitor = this.#engine!.monitor;
    // An exported node keeps its size.
    const ids = (await monitor.execute<{ id: string }[]>("query-block-exports")).map(({ id }) => id);
    for (const id of ids) await this.#drop(id);
    try {
      await monitor.execute("block_resize", { "node-name": node, size: bytes });
    } finally {
      for (const id of ids) await this.#offer(nameOf(id));
    }
  }

  /** Ends the daemon, if one runs, and removes its files. */
  async end(): Promise<void> {
    if (!await Deno.stat(this.#files.dir).catch(() => undefined)) return;
    const engine = this.#engine ?? await this.#adopt().catch(() => undefined);
    if (engine) {
      await engine.monitor.execute("quit", undefined, { timeoutMs: endTimeoutMs }).catch(() => {});
      const pause = new AbortController();
      const late = this.#deps.clock.sleep(endTimeoutMs, pause.signal).then(() => false, () => false);
      const ended = await Promise.race([engine.monitor.closed.then(() => true), late]);
      pause.abort();
      if (!ended) await engine.kill();
      await engine.exited;
      await engine.release();
      this.#engine = undefined;
    }
    await killByPidFile(this.#files.pidFile, this.#deps);
    await removeAll(this.#files.dir);
  }

  async release(): Promise<void> {
    const engine = this.#engine;
    this.#engine = undefined;
    await engine?.release();
  }

  async #adopt(): Promise<Engine | undefined> {
    try {
      return this.#watch(await adoptEngine(this.#files.qmpSocket, this.#files.pidFile, this.#deps));
    } catch (error) {
      if (error instanceof Fault && error.code === "qmp_absent") return undefined;
      throw error;
    }
  }

  async #start(path: string): Promise<Engine> {
    const { dir, qmpSocket, nbdSocket, pidFile } = this.#files;
    await removeAll(dir);
    await Deno.mkdir(dir, { recursive: true, mode: 0o750 });
    const runAs = await this.#deps.user.forVolume(this.#slot, dir, path);
    const engine = await startEngine(
      "qemu-storage-daemon",
      [
        ...["--chardev", `socket,id=qmp,path=${qmpSocket},server=on,wait=off`, "--monitor", "chardev=qmp"],
        ...["--pidfile", pidFile],
        ...["--nbd-server", `addr.type=unix,addr.path=${nbdSocket}`],
        ...["--blockdev", JSON.stringify(qcow2Node(node, path, false))],
      ],
      { qmpSocket, runAs },
      this.#deps,
    );
    return this.#watch(engine);
  }

  #watch(engine: Engine): Engine {
    this.#engine = engine;
    engine.monitor.closed.then(async () => {
      if (this.#engine !== engine) return;
      this.#engine = undefined;
      await engine.release();
      this.#deps.log.warn("an export's daemon is gone", { socket: this.#files.nbdSocket });
    });
    return engine;
  }

  #offer(name: string): Promise<unknown> {
    const shape = { type: "nbd", id: idOf(name), "node-name": node, name, writable: true };
    return this.#engine!.monitor.execute("block-export-add", shape);
  }

  /** Ends an export with its connections and waits until it is gone. */
  async #drop(id: string): Promise<void> {
    const { monitor } = this.#engine!;
    const gone = Promise.withResolvers<void>();
    const stop = monitor.onEvent((event) => {
      if (event.name === "BLOCK_EXPORT_DELETED" && event.data.id === id) gone.resolve();
    });
    try {
      await monitor.execute("block-export-del", { id, mode: "hard" });
      await Promise.race([gone.promise, monitor.closed]);
    } finally {
      stop();
    }
  }
}

/** An id begins with a letter; names are ids with dots, which ids may have too. */
const idOf = (name: string): string => `e-${name}`;
const nameOf = (id: string): string => id.slice(2);
