/** How a component or one part of it is doing. */
export type HealthState = "starting" | "ready" | "degraded" | "stopping";

export interface HealthPart {
  readonly state: HealthState;
  readonly reason?: string;
}

export interface HealthSnapshot {
  /** The worst of the parts; `starting` while no part has reported. */
  readonly state: HealthState;
  readonly parts: Readonly<Record<string, HealthPart>>;
}

/** Worse states have higher rank. */
const rank: Readonly<Record<HealthState, number>> = { ready: 0, degraded: 1, starting: 2, stopping: 3 };

/** Collects the state of a component's parts. `/healthz`, `/readyz` and grpc.health.v1 answer from it. */
export class Health {
  readonly #parts = new Map<string, HealthPart>();
  readonly #listeners = new Set<() => void>();

  /** Replaces what is known about `part`. `reason` is a sentence for the operator. */
  set(part: string, state: HealthState, reason?: string): void {
    const before = this.#parts.get(part);
    if (before !== undefined && before.state === state && before.reason === reason) return;
    this.#parts.set(part, reason === undefined ? { state } : { state, reason });
    for (const listener of [...this.#listeners]) listener();
  }

  snapshot(): HealthSnapshot {
    let state: HealthState = this.#parts.size === 0 ? "starting" : "ready";
    for (const part of this.#parts.values()) if (rank[part.state] > rank[state]) state = part.state;
    return { state, parts: Object.fromEntries(this.#parts) };
  }

  /** True when calls should be sent here: ready, or degraded but working. */
  get serving(): boolean {
    const { state } = this.snapshot();
    return state === "ready" || state === "degraded";
  }

  /** Calls `listener` after every change, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
