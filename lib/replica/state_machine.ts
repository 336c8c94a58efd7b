/**
 * What one group decides about, implemented by the services. Everything here is synchronous and deterministic: the
 * same entries give the same state and the same results on every replica.
 */
export interface GroupStateMachine {
  /** Index of the last entry whose effect is in the state; 0 when new. */
  appliedIndex(): number;
  /**
   * Applies entries; their effect and the last index are stored together or not at all, in a transaction that may span
   * batches. One result per entry; a Fault as a result is the rejection of that proposal and has no effect. Throws only
   * for a bug or a broken disk: the process then ends.
   */
  applyBatch(entries: readonly AppliedEntry[]): readonly unknown[];
  /** The index moved on without an effect (a leader's first entry, a configuration). */
  skipTo(index: number): void;
  /** Makes everything applied durable and answers the index that is; the log may be cut below it. */
  checkpoint(): number;
  /** The whole state as of `appliedIndex()`, where it fits into memory. */
  snapshot(): Uint8Array;
  /** Replaces the whole state; `appliedIndex()` is `index` afterwards. */
  restore(index: number, bytes: Uint8Array): void;
  /**
   * The same through a file, for a state that may not fit; takes the place of `snapshot` where a machine has it. Makes the
   * file at `path` and resolves with the index it stands for, which is not below `appliedIndex()` at the call. Entries may
   * be applied meanwhile; two calls never overlap.
   */
  snapshotTo?(path: string): Promise<number>;
  /** Takes the place of `restore` where a machine has it. The file is only read, and is gone some time later. */
  restoreFrom?(index: number, path: string): Promise<void>;
}

export interface AppliedEntry {
  readonly index: number;
  readonly term: number;
  readonly data: Uint8Array;
}
