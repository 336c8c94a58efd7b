import type { StoredRecord } from "@ultracloud/platform";
import type { Image, Volume, VolumeSource } from "./domain/types.ts";

export type { VolumeSource };

export interface OpenVolume {
  /** The worker that will have it. */
  readonly node: string;
  /** The volume refuses writers of a lower one from now on. */
  readonly writerEpoch: number;
  /** Lets writers of lower ones go on meanwhile: a migration's source. */
  readonly keepOlder: boolean;
}

/** Where the content of volumes lives. Every function is idempotent; records are its caller's. */
export interface VolumeEngine {
  /** Whether any worker may open any volume; otherwise only shared ones, and others on their own worker. */
  readonly everywhere: boolean;
  /** Makes it, blank or from an image. */
  create(volume: StoredRecord<Volume>, image: Image | undefined, signal: AbortSignal): Promise<void>;
  /** Grows it to the size; a smaller one is no change. */
  grow(volume: StoredRecord<Volume>, sizeBytes: number, signal: AbortSignal): Promise<void>;
  /** Removing an absent one succeeds. */
  remove(volume: StoredRecord<Volume>, signal: AbortSignal): Promise<void>;
  /** Admits a writer. A lower epoch than any before is refused (aborted, `stale_writer_epoch`). */
  open(volume: StoredRecord<Volume>, o: OpenVolume, signal: AbortSignal): Promise<VolumeSource>;
  /** Ends what was opened up to the epoch and cuts its connections; 0: all of it. With `only`, of that epoch alone. */
  close(
    volume: StoredRecord<Volume>,
    writerEpoch: number,
    signal: AbortSignal,
    o?: { readonly only: boolean },
  ): Promise<void>;
}
