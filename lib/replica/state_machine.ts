/**
 * What one group decides about, implemented by the services. Everything here is synchronous and deterministic: the
 * same entries give the same state and the same results on every replica.
 */
export interface GroupStateMachine {
  /** Index of the last entry whose effect is in the state; 0 when new. */
  appliedIndex(): number;
  /**
   * Applies entries in ONE transaction that also stores the last index. One result per entry; a Fault as a result is
   * the rejection of that proposal and has no effect. Throws only for a bug or a broken disk: the process then ends.
   */
  applyBatch(entries: readonly AppliedEntry[]): readonly unknown[];
  /** The index moved on without an effect (a leader's first entry, a configuration). */
  skipTo(index: number): void;
  /** Makes everything applied durable and answers the index that is; the log may be cut below it. */
  checkpoint(): number;
  /** The whole state as of `appliedIndex()`. */
  snapshot(): Uint8Array;
  /** Replaces the whole state; `appliedIndex()` is `index` afterwards. */
  restore(index: number, bytes: Uint8Array): void;
}

export interface AppliedEntry {
  readonly index: number;
  readonly term: number;
  readonly data: Uint8Array;
}
