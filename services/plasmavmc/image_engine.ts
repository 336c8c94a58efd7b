import type { ReadAt } from "./domain/image_probe.ts";

/** Content on its way in. Finish or discard it. */
export interface ImageUpload {
  /** Bytes so far. */
  readonly bytes: number;
  write(chunk: Uint8Array): Promise<void>;
  /** Ends the content and makes it durable; answers its identity and a way to look at it. */
  finish(): Promise<{ readonly sha256: string; readonly bytes: number; readonly readAt: ReadAt }>;
  /** Takes it into the store under its identity; the same content twice is one. */
  keep(): Promise<void>;
  /** Forgets it, kept or not finished; after `keep` it does nothing. */
  discard(): Promise<void>;
}

/** Where image content lives, by its SHA-256. */
export interface ImageEngine {
  begin(): Promise<ImageUpload>;
  /** Chunks from the offset on; not_found when there is no such content. */
  read(sha256: string, offset: number, signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** Removing absent content succeeds. */
  remove(sha256: string): Promise<void>;
  /** Identities of all content. */
  list(): Promise<string[]>;
  /** Runs `work` while nobody else adds or removes this content. */
  alone<T>(sha256: string, work: () => Promise<T>): Promise<T>;
}
