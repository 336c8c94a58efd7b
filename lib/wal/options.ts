import type { Disk, Rng } from "@ultracloud/base";

export interface WalOptions {
  readonly dir: string;
  /** Size of a segment; a larger batch gets a segment of its own size. */
  readonly segmentBytes?: number;
  /**
   * How long a write waits for company before it is synced. 0 (the default) is natural group commit: what arrives
   * during one sync shares the next.
   */
  readonly commitWaitUsMax?: number;
}

export interface WalDeps {
  readonly disk: Disk;
  /** A write or sync failed: what is on disk is unknown, the process must end. */
  readonly onFatal: (error: Error) => void;
  /** Told after each write how long it and its sync took, on `nowMs`; both or none. */
  readonly onSync?: (took: SyncTimes) => void;
  readonly nowMs?: () => number;
  /** Where the secret of a new log comes from; by default the machine's source. */
  readonly rng?: Pick<Rng, "uint32">;
}

export interface SyncTimes {
  readonly writeMs: number;
  readonly syncMs: number;
}

export type WalDone = (error?: Error) => void;
