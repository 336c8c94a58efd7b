import { fraction, type Rng, uniform } from "@ultracloud/base";
import type { SimClock } from "./sim_clock.ts";

/** How the network behaves now; every value may change while it runs. */
export interface SimNetFaults {
  /** Share of packets that never arrive. */
  drop: number;
  /** Share that arrive twice. */
  duplicate: number;
  /** Share that arrive again long after, when nobody expects them. */
  replay: number;
  delayMsMin: number;
  delayMsMax: number;
}

/** Packets between numbered nodes: lost, doubled, delayed, reordered, kept apart, and repeated from the past. */
export class SimNet<P> {
  readonly faults: SimNetFaults;
  readonly #clock: SimClock;
  readonly #rng: Rng;
  readonly #deliver: (to: number, packet: P) => void;
  readonly #count: (fault: string) => void;
  /** Directed pairs that do not reach each other. */
  readonly #cut = new Set<string>();

  constructor(
    faults: SimNetFaults,
    deps: {
      readonly clock: SimClock;
      readonly rng: Rng;
      readonly deliver: (to: number, packet: P) => void;
      readonly count: (fault: string) => void;
    },
  ) {
    this.faults = faults;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#deliver = deps.deliver;
    this.#count = deps.count;
  }

  send(from: number, to: number, packet: P): void {
    if (this.#cut.has(`${from}>${to}`)) {
      this.#count("cut off");
      return;
    }
    const { drop, duplicate, replay } = this.faults;
    if (this.#chance(drop)) {
      this.#count("lost");
      return;
    }
    this.#later(this.delayMs(), to, packet);
    if (this.#chance(duplicate)) {
      this.#count("doubled");
      this.#later(this.delayMs(), to, packet);
    }
    if (this.#chance(replay)) {
      this.#count("replayed");
      this.#later(500 + uniform(this.#rng, 4000), to, packet);
    }
  }

  /** Stops packets from `from` to `to`; the other direction goes on. */
  cut(from: number, to: number): void {
    this.#cut.add(`${from}>${to}`);
  }

  /** Separates two sets of nodes in both directions. */
  partition(left: readonly number[], right: readonly number[]): void {
    for (const a of left) {
      for (const b of right) {
        this.cut(a, b);
        this.cut(b, a);
      }
    }
  }

  heal(): void {
    this.#cut.clear();
  }

  delayMs(): number {
    const { delayMsMin, delayMsMax } = this.faults;
    // Mostly short with a long tail, as queues are.
    const draw = fraction(this.#rng);
    return delayMsMin + (delayMsMax - delayMsMin) * draw * draw * draw;
  }

  #chance(share: number): boolean {
    return share > 0 && fraction(this.#rng) < share;
  }

  #later(ms: number, to: number, packet: P): void {
    this.#clock.after(ms, () => this.#deliver(to, packet));
  }
}
