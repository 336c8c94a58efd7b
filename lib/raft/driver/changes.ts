import { isJoint } from "../core/change.ts";
import { decodeConfiguration } from "../core/configuration.ts";
import type { Entry, NodeId } from "../core/types.ts";
import type { ChangeOutcome, RefusalCode } from "./types.ts";

export type ChangeDone = (outcome: ChangeOutcome) => void;

interface Pending {
  readonly index: number;
  readonly term: number;
  readonly done: ChangeDone;
  /** The entry was applied, and the joint configuration it brought is to be left by itself. */
  leaving: boolean;
}

/** Changes of members that were logged here and have not come to their end: the next is taken once one has committed. */
export class PendingChanges {
  #waiting: Pending[] = [];

  add(index: number, term: number, done: ChangeDone): void {
    this.#waiting.push({ index, term, done, leaving: false });
  }

  /** `entries` were applied. */
  settle(entries: readonly Entry[], leader: NodeId): void {
    for (const entry of this.#waiting.length > 0 ? entries : []) {
      for (const change of this.#waiting.filter(({ index }) => index <= entry.index)) {
        this.#apply(change, entry, leader);
      }
    }
  }

  #apply(change: Pending, { kind, index, term, data }: Entry, leader: NodeId): void {
    if (!change.leaving && (index !== change.index || term !== change.term)) {
      return this.#end(change, { refused: "superseded", leader });
    }
    if (kind !== "config") return;
    const configuration = decodeConfiguration(data);
    if (isJoint(configuration) && configuration.autoLeave) change.leaving = true;
    else this.#end(change, { index, configuration });
  }

  /** Leadership went away. What has committed is still applied here, unless others are left to end it. */
  lost(commitIndex: number, joint: boolean, leader: NodeId): void {
    for (const change of [...this.#waiting]) {
      if (joint || change.index > commitIndex) this.#end(change, { refused: "leadership_lost", leader });
    }
  }

  refuse(refused: RefusalCode, leader: NodeId, upTo = Infinity): void {
    for (const change of [...this.#waiting]) if (change.index <= upTo) this.#end(change, { refused, leader });
  }

  #end(change: Pending, outcome: ChangeOutcome): void {
    this.#waiting = this.#waiting.filter((other) => other !== change);
    change.done(outcome);
  }
}
