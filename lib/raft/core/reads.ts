import type { NodeId } from "./types.ts";

/** A read that may be served once the state machine has reached `index`. */
export interface ReadState {
  readonly context: number;
  readonly index: number;
}

interface PendingRead {
  readonly from: NodeId;
  readonly context: number;
  /** Commit index when the read came. */
  readonly index: number;
  /** The heartbeat round that confirms it. */
  readonly position: number;
}

/**
 * Reads that wait for a quorum to confirm the leader. Every read gets a position of its own that is never used again,
 * carried by all heartbeats from then on; an answer says "I followed you at this position", so late answers to an
 * earlier read confirm nothing later.
 */
export class ReadQueue {
  #lastPosition = 0;
  readonly #queue: PendingRead[] = [];
  readonly #acks = new Map<NodeId, number>();
  /** Reads that came before this leader committed in its own term. */
  readonly parked: { from: NodeId; context: number }[] = [];

  /** What heartbeats carry now. */
  get position(): number {
    return this.#queue.length > 0 ? this.#lastPosition : 0;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  add(from: NodeId, context: number, index: number): void {
    this.#queue.push({ from, context, index, position: ++this.#lastPosition });
  }

  acknowledge(from: NodeId, position: number): void {
    if (position > (this.#acks.get(from) ?? 0)) this.#acks.set(from, position);
  }

  acked(id: NodeId): number | undefined {
    return this.#acks.get(id);
  }

  /** Takes the oldest reads for which `confirmed` holds. */
  take(confirmed: (position: number) => boolean): PendingRead[] {
    let count = 0;
    while (count < this.#queue.length && confirmed(this.#queue[count]!.position)) count++;
    return this.#queue.splice(0, count);
  }

  /** Leadership ended: whoever asked asks again. Positions go on. */
  clear(): void {
    this.#queue.length = 0;
    this.#acks.clear();
    this.parked.length = 0;
  }
}
