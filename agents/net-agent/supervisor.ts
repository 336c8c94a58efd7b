import { backoffMs, type Clock, Fault, type Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { JsonRpc } from "@ultracloud/ovsdb";
import { daemonEnv, type DaemonOptions, daemonsOf, type DaemonSpec } from "./daemons.ts";
import type { Daemon, Programs } from "./programs.ts";

/** How often a daemon that another agent started is asked whether it lives. */
const lookMs = 500;
/** One that holds its pid file's lock is not ours to watch: a start is tried this often, and refused while it lives. */
const lockLookMs = 2_000;
const answerTimeoutMs = 5_000;
/** A daemon that ends at once is started again at this pace. */
const backoff = { baseMs: 50, maxMs: 5_000, tries: Number.POSITIVE_INFINITY };
const attemptsCounted = 8;
/** One that has run this long is started again at once. */
const steadyMs = 10_000;

export interface SupervisorDeps {
  readonly programs: Programs;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

export interface DaemonView {
  readonly name: string;
  readonly state: "starting" | "running" | "adopted";
  readonly pid: number;
  readonly starts: number;
}

/**
 * Keeps the daemons of a host running: adopts those that live, starts the others, and starts again what ends. Disposing
 * of it leaves them running, so that traffic goes on without the agent.
 */
export class Supervisor implements AsyncDisposable {
  readonly #options: DaemonOptions;
  readonly #deps: SupervisorDeps;
  readonly #stop = new AbortController();
  readonly #views = new Map<string, DaemonView>();
  readonly #children = new Map<string, Daemon>();
  readonly #running: Promise<unknown>;

  constructor(options: DaemonOptions, deps: SupervisorDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#running = Promise.all(daemonsOf(options).map((spec) => this.#keep(spec)));
  }

  views(): DaemonView[] {
    return [...this.#views.values()];
  }

  /** Resolves once every daemon that this process started has ended. */
  async exits(): Promise<void> {
    for (const child of this.#children.values()) child.ref();
    await Promise.all([...this.#children.values()].map((child) => child.exited));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #keep(spec: DaemonSpec): Promise<void> {
    const { clock, rng, log, health, programs } = this.#deps;
    const { signal } = this.#stop;
    let failures = 0;
    let starts = 0;
    const show = (state: DaemonView["state"], pid: number) => {
      this.#views.set(spec.name, { name: spec.name, state, pid, starts });
      health.set(spec.name, state === "starting" ? "starting" : "ready");
    };
    show("starting", 0);
    while (!signal.aborted) {
      try {
        if (await this.#lives(spec)) {
          show("adopted", 0);
          failures = 0;
          await clock.sleep(lookMs, signal).catch(() => {});
          continue;
        }
        await this.#makeDatabase(spec);
        const begin = clock.monotonicMs();
        const child = programs.daemon(spec.program, spec.args, daemonEnv(this.#options));
        starts++;
        this.#children.set(spec.name, child);
        show("running", child.pid);
        const how = await Promise.race([child.exited, aborted(signal)]);
        if (how === undefined) return;
        this.#children.delete(spec.name);
        const ranMs = clock.monotonicMs() - begin;
        if (spec.control === undefined && how === "code 1" && ranMs < lockLookMs) {
          // Another holds the pid file; a real failure ends the same way and is tried again just so.
          show("adopted", 0);
          starts--;
          await clock.sleep(lockLookMs, signal).catch(() => {});
          continue;
        }
        failures = ranMs > steadyMs ? 0 : failures + 1;
        log.warn("a daemon ended and is started again", { daemon: spec.name, how, ranMs: Math.round(ranMs) });
      } catch (error) {
        failures++;
        log.error("cannot start a daemon", { daemon: spec.name, error: String(error) });
      }
      show("starting", 0);
      // The first time at once: every moment without it may be somebody's lost packet.
      if (failures > 1) {
        await clock.sleep(backoffMs(backoff, Math.min(failures, attemptsCounted), rng), signal).catch(() => {});
      }
    }
  }

  /** Whether something answers on the control socket. */
  async #lives(spec: DaemonSpec): Promise<boolean> {
    if (spec.control === undefined) return false;
    try {
      await using control = await JsonRpc.connect({
        endpoint: { transport: "unix", path: spec.control },
        requestTimeoutMs: answerTimeoutMs,
      }, this.#deps);
      await control.request("version", []);
      return true;
    } catch (error) {
      // One that is there and silent lives: a second beside it would only fight for its files.
      return error instanceof Fault && error.code === "ovsdb_timeout";
    }
  }

  async #makeDatabase(spec: DaemonSpec): Promise<void> {
    if (!spec.database) return;
    const { file, schema } = spec.database;
    try {
      await Deno.lstat(file);
    } catch {
      // Made beside and renamed: a crash leaves no half database that no server opens.
      await Deno.remove(`${file}.new`).catch(() => {});
      await this.#deps.programs.run("ovsdb-tool", ["create", `${file}.new`, schema]);
      await Deno.rename(`${file}.new`, file);
    }
  }
}

function aborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(undefined);
    signal.addEventListener("abort", () => resolve(undefined), { once: true });
  });
}
