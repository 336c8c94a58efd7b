import { assert } from "@ultracloud/base";
import type { RaftCore } from "../core/raft.ts";

export interface LeaseOptions {
  /** Length of a tick of every replica. */
  readonly tickMs: number;
  /** By how much, at most, a clock or a ticker of one replica runs faster than that of another: 0.1 for 10 %. */
  readonly driftMax: number;
}

/**
 * The time in which a leader needs to ask nobody before it answers reads. A quorum that answered a heartbeat grants no
 * vote for an election timeout; counted from before the heartbeat left, and shortened by what clocks may differ, nobody
 * else can lead till then. Ends with the term, with a change of the members, and for the rest of a term in which
 * leadership was offered to another, whose votes stand against that promise.
 */
export class ReadLease {
  readonly #lengthMs: number;
  readonly #nowMs: () => number;
  #term = 0;
  #configurationIndex = 0;
  #untilMs = 0;

  constructor(options: LeaseOptions, electionTicks: number, nowMs: () => number) {
    const { tickMs, driftMax } = options;
    assert(driftMax >= 0 && driftMax < 1, `driftMax ${driftMax}: wanted at least 0 and less than 1`);
    // A tick may come right after the heartbeat: one less is sure.
    this.#lengthMs = (electionTicks - 1) * tickMs * (1 - driftMax);
    this.#nowMs = nowMs;
  }

  /** When a round of heartbeats is asked for; 0 where this replica does not lead. */
  begin(core: RaftCore): RoundStart {
    const { term, configurationIndex } = core;
    return { term: core.role === "leader" ? term : 0, configurationIndex, ms: this.#nowMs() };
  }

  /** A quorum has answered the round. */
  extend({ term, configurationIndex, ms }: RoundStart, core: RaftCore): void {
    if (core.role !== "leader" || core.term !== term || core.configurationIndex !== configurationIndex) return;
    this.#term = term;
    this.#configurationIndex = configurationIndex;
    this.#untilMs = ms + this.#lengthMs;
  }

  holds(core: RaftCore): boolean {
    return core.role === "leader" && core.term === this.#term && !core.transferOffered &&
      core.configurationIndex === this.#configurationIndex && this.#nowMs() < this.#untilMs;
  }
}

/** The circumstances under which a round of heartbeats began. */
export interface RoundStart {
  readonly term: number;
  readonly configurationIndex: number;
  readonly ms: number;
}
