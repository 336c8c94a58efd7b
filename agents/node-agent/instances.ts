import type { Clock } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import type { ConfinementKind } from "./domain/confinement.ts";
import type { LaunchSpec } from "./domain/files.ts";
import { afterEnd } from "./domain/restarts.ts";
import { type Assignment, InstanceStore } from "./store.ts";

export type Phase = "pending" | "starting" | "running" | "healthy" | "unhealthy" | "backing_off" | "failed" | "stopped";

/** What the scheduler is told of an instance. */
export interface View {
  readonly id: string;
  readonly service: string;
  readonly phase: Phase;
  readonly reason: string;
  readonly restarts: number;
  readonly pid: number;
  /** What holds it and which limits do, for people; empty while that is not known. */
  readonly confinement: string;
}

/** What this agent knows of an instance beyond its files. */
interface Watched {
  /** A launcher that this agent started and that has not ended. */
  launcher: boolean;
  startedMs: number;
  /** When it is started again; undefined while nothing is due. */
  restartMs: number | undefined;
  /** It ended and stays so. */
  ended: "failed" | "stopped" | undefined;
  reason: string;
}

/**
 * The instances of this host: brings them to the assignment, one launcher process each. Launchers live on when the
 * agent ends; the next one finds them by their locks. What has no directory here is never touched.
 */
export class Instances {
  readonly store: InstanceStore;
  readonly #launcher: string;
  readonly #kind: ConfinementKind;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #watched = new Map<string, Watched>();
  #assignment: Assignment;
  /** Nothing is started before the scheduler has given this agent a lease. */
  #leaseMs = -Infinity;
  /** False: what is assigned may be elsewhere by now, so it is kept and ended but not started. */
  #current = false;
  #views: readonly View[] = [];
  #wake = () => {};

  constructor(
    o: { readonly stateDir: string; readonly launcher: string; readonly kind: ConfinementKind },
    deps: { clock: Clock; log: Logger },
  ) {
    this.store = new InstanceStore(o.stateDir);
    this.#launcher = o.launcher;
    this.#kind = o.kind;
    this.#clock = deps.clock;
    this.#log = deps.log;
    this.#assignment = this.store.assignment() ?? { version: "0", instances: [] };
  }

  /** Version of the assignment that the views follow from. */
  get version(): string {
    return this.#assignment.version;
  }

  /** As of the last look. */
  get views(): readonly View[] {
    return this.#views;
  }

  apply(assignment: Assignment): void {
    this.store.saveAssignment(assignment);
    this.#assignment = assignment;
    this.#current = true;
    this.#wake();
  }

  /** The node was away, or was never there: the assignment that is known counts no longer. */
  doubt(): void {
    this.#current = false;
  }

  /** Anything may run until then, by the host's uptime and by this process's clock. */
  renewLease(untilUptime: number, untilMonotonicMs: number): void {
    this.store.saveLease({ untilUptime });
    this.#leaseMs = untilMonotonicMs;
    this.#wake();
  }

  /** Looks until the signal aborts. */
  async run(o: { readonly tickMs: number; readonly changed: () => void }, signal: AbortSignal): Promise<void> {
    let told = "";
    while (!signal.aborted) {
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      this.look();
      const now = JSON.stringify([this.version, this.#views]);
      if (now !== told) o.changed();
      told = now;
      const timer = new AbortController();
      const sleep = this.#clock.sleep(o.tickMs, AbortSignal.any([signal, timer.signal])).catch(() => {});
      await Promise.race([woken, sleep]);
      timer.abort();
    }
  }

  /** Compares what is with what shall be, and begins what is missing. */
  look(): void {
    const wanted = new Map(this.#assignment.instances.map((assigned) => [assigned.spec.id, assigned]));
    const views: View[] = [];
    for (const id of new Set([...this.store.present(), ...wanted.keys()])) {
      const assigned = wanted.get(id);
      try {
        const view = assigned && !assigned.stop ? this.#keep(assigned.spec) : this.#end(id);
        if (view) views.push(view);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#log.error("cannot look after an instance", { id, error });
        views.push({
          id,
          service: assigned?.spec.service ?? "",
          phase: "failed",
          reason,
          restarts: 0,
          pid: 0,
          confinement: "",
        });
      }
    }
    this.#views = views.sort((a, b) => a.id < b.id ? -1 : 1);
  }

  #of(id: string): Watched {
    let watched = this.#watched.get(id);
    if (!watched) {
      watched = {
        launcher: false,
        startedMs: this.#clock.monotonicMs(),
        restartMs: undefined,
        ended: undefined,
        reason: "",
      };
      this.#watched.set(id, watched);
    }
    return watched;
  }

  #view(id: string, service: string, phase: Phase, more: Partial<View> = {}): View {
    return {
      id,
      service,
      phase,
      reason: "",
      restarts: this.store.restarts(id).total,
      pid: 0,
      confinement: "",
      ...more,
    };
  }

  /** An instance that shall run. */
  #keep(spec: LaunchSpec): View {
    const { id, service, template } = spec;
    const watched = this.#of(id);
    if (!this.store.spec(id)) {
      this.store.create(spec);
      watched.restartMs = this.#clock.monotonicMs();
    }
    const status = this.store.status(id);
    if (watched.launcher || watched.restartMs === undefined && watched.ended === undefined && this.store.isHeld(id)) {
      if (!status) return this.#view(id, service, "starting");
      const { phase, reason, pid, confinement } = status;
      return this.#view(id, service, phase === "exited" ? "running" : phase, { reason, pid, confinement });
    }
    if (watched.ended) return this.#view(id, service, watched.ended, { reason: watched.reason });
    if (watched.restartMs === undefined) {
      const end = status?.phase === "exited" ? status : { clean: false, reason: "its launcher was killed" };
      const ranMs = this.#clock.monotonicMs() - watched.startedMs;
      const next = afterEnd(template.restart, end, this.store.restarts(id), ranMs);
      watched.reason = end.reason;
      this.#log.info("instance ended", { id, reason: end.reason, next: next.kind });
      if (next.kind === "restart") {
        this.store.saveRestarts(id, next.restarts);
        watched.restartMs = this.#clock.monotonicMs() + next.afterMs;
      } else {
        watched.ended = next.kind === "failed" ? "failed" : "stopped";
        return this.#view(id, service, watched.ended, { reason: end.reason });
      }
    }
    const nowMs = this.#clock.monotonicMs();
    if (this.#current && nowMs >= watched.restartMs && nowMs < this.#leaseMs) {
      this.#launch(id, watched);
      return this.#view(id, service, "starting");
    }
    const first = this.store.restarts(id).total === 0;
    return this.#view(id, service, first ? "pending" : "backing_off", { reason: watched.reason });
  }

  /** An instance that shall not run; undefined once it is gone. */
  #end(id: string): View | undefined {
    const watched = this.#of(id);
    const spec = this.store.spec(id);
    const service = spec?.service ?? "";
    if (!this.store.present().includes(id)) {
      this.#watched.delete(id);
      return undefined;
    }
    this.store.askStop(id);
    if (watched.launcher || this.store.isHeld(id)) {
      const pid = this.store.status(id)?.pid ?? 0;
      return this.#view(id, service, "running", { reason: "stopping", pid });
    }
    if (spec && this.store.hasProcessRecord(id)) {
      // Its launcher was killed: another one ends what is left before it sees that nothing is wanted.
      this.#launch(id, watched);
      return this.#view(id, service, "running", { reason: "stopping" });
    }
    this.store.forget(id);
    this.#watched.delete(id);
    this.#log.info("instance gone", { id });
    return undefined;
  }

  #launch(id: string, watched: Watched): void {
    watched.launcher = true;
    watched.restartMs = undefined;
    watched.startedMs = this.#clock.monotonicMs();
    this.store.clearStatus(id);
    const child = new Deno.Command(this.#launcher, {
      // A unit outlives the agent's own; what only starts it ends at once.
      args: [this.store.dir, id, this.#kind, ...(this.#kind === "systemd" ? [this.#launcher] : [])],
      stdin: "null",
      stdout: "null",
      stderr: "null",
      detached: true,
    }).spawn();
    child.unref();
    this.#log.info("instance launched", { id });
    child.status.finally(() => {
      watched.launcher = false;
      this.#wake();
    });
  }
}
