import { message } from "../core/message.ts";
import type { RaftCore } from "../core/raft.ts";
import type { Message, NodeId } from "../core/types.ts";
import type { MachineQueue } from "./machine_queue.ts";
import type { StateMachine, Transport } from "./types.ts";

/**
 * How far the log grows, at most, for snapshots on their way: the peer goes on from there when one has arrived. A peer
 * that takes longer gets another snapshot.
 */
const PINNED_ENTRIES_MAX = 1_000_000;

interface OutgoingDeps<Data> {
  readonly machine: StateMachine<Data>;
  readonly transport: Transport<Data>;
  readonly queue: MachineQueue;
  /** Hands a message to the core. */
  readonly step: (term: number, m: Message) => void;
  readonly stopped: () => boolean;
}

/** Snapshots of the own state on their way to peers, and the part of the log that they keep. */
export class OutgoingSnapshots<Data> {
  readonly #deps: OutgoingDeps<Data>;
  /** From where on each peer will need the log. */
  readonly #pins = new Map<NodeId, { from: number }>();

  constructor(deps: OutgoingDeps<Data>) {
    this.#deps = deps;
  }

  /** Takes a snapshot, sends it, and tells the core how that went. */
  send(core: RaftCore, to: NodeId): void {
    const { machine, transport, queue, step, stopped } = this.#deps;
    const { term } = core;
    const pin = { from: core.firstIndex - 1 };
    const report = (index: number, sent: boolean) => {
      if (this.#pins.get(to) === pin) this.#pins.delete(to);
      step(term, message("snapshot_status", to, core.id, term, 0, index, 0, undefined, !sent));
    };
    this.#pins.set(to, pin);
    queue.add((release) => {
      machine.snapshot((taken) => {
        if (stopped()) return;
        if (taken instanceof Error || taken.index < core.firstIndex - 1) return report(0, false);
        pin.from = taken.index;
        const header = { from: core.id, to, term, meta: core.metaAt(taken.index) };
        transport.sendSnapshot(header, taken.data, (installed) => report(taken.index, installed));
      });
      // The machine fixes the moment; writing it down may take long, and applying goes on.
      release();
    });
  }

  /** Where the log may be cut if `index` is where it could be. */
  cutAt(index: number): number {
    let cut = index;
    for (const { from } of this.#pins.values()) if (index - from <= PINNED_ENTRIES_MAX) cut = Math.min(cut, from);
    return cut;
  }
}
