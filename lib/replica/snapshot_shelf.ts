import { type Clock, type Disk, fault } from "@ultracloud/base";
import {
  describeFile,
  memoryBytesMax,
  removeIfThere,
  type SnapshotFile,
  type SnapshotNames,
  writeWhole,
} from "./snapshot_file.ts";
import type { GroupStateMachine } from "./state_machine.ts";

/** A snapshot of the own state, with the index it stands for. */
export interface TakenSnapshot {
  readonly index: number;
  readonly data: SnapshotFile;
}

export interface SnapshotShelfDeps {
  readonly disk: Disk;
  readonly machine: GroupStateMachine;
  readonly clock: Pick<Clock, "monotonicMs">;
  /** Told how long it took to write a snapshot and its digest. */
  readonly onSnapshot?: ((tookMs: number) => void) | undefined;
}

/** How long one that nobody needs at the moment is kept: a transfer that broke off goes on with the same bytes. */
const keptTicks = 3_000;

/**
 * Snapshots of the own state, to be sent. The newest is given out again as long as the log goes on from it, so that two
 * peers share one and a transfer that broke off can be taken up. Files are removed when nobody needs them.
 */
export class SnapshotShelf {
  readonly #names: SnapshotNames;
  readonly #disk: Disk;
  readonly #machine: GroupStateMachine;
  /** How many transfers read each file. */
  readonly #held = new Map<string, number>();
  readonly #deps: SnapshotShelfDeps;
  #newest: TakenSnapshot | undefined;
  #taking: Promise<TakenSnapshot> | undefined;
  #count = 0;
  #idleTicks = 0;
  #closed = false;

  constructor(names: SnapshotNames, deps: SnapshotShelfDeps) {
    this.#deps = deps;
    this.#names = names;
    this.#disk = deps.disk;
    this.#machine = deps.machine;
  }

  /** A snapshot at or above `indexMin`; an index below the log's start would be of no use to whoever gets it. */
  async take(indexMin: number): Promise<TakenSnapshot> {
    if (this.#newest && this.#newest.index >= indexMin) return this.#newest;
    // One that is being taken may have begun too early, and is no reason to wait for a third.
    const begun = await this.#taking?.catch(() => undefined);
    if (begun && begun.index >= indexMin) return begun;
    return await (this.#taking ??= this.#takeNow().finally(() => this.#taking = undefined));
  }

  /** Resolves when none is being taken. */
  async settled(): Promise<void> {
    await this.#taking?.catch(() => {});
  }

  async #takeNow(): Promise<TakenSnapshot> {
    const path = this.#names.taken(++this.#count);
    const { clock, onSnapshot } = this.#deps;
    const startMs = clock.monotonicMs();
    removeIfThere(this.#disk, path);
    try {
      const index = await this.#write(path);
      const taken = { index, data: await describeFile(this.#disk, path) };
      onSnapshot?.(clock.monotonicMs() - startMs);
      const before = this.#newest;
      if (this.#closed) throw new Error("Cannot keep a snapshot as the group has stopped");
      this.#newest = taken;
      this.#idleTicks = 0;
      if (before) this.#tidy(before.data);
      return taken;
    } catch (error) {
      removeIfThere(this.#disk, path);
      throw error;
    }
  }

  async #write(path: string): Promise<number> {
    if (this.#machine.snapshotTo) return await this.#machine.snapshotTo(path);
    const index = this.#machine.appliedIndex();
    const bytes = this.#machine.snapshot();
    if (bytes.length > memoryBytesMax) {
      // Whoever gets it could not restore it.
      throw fault(
        "resource_exhausted",
        "snapshot_too_large",
        `Cannot send a state of ${bytes.length} bytes from memory`,
      );
    }
    writeWhole(this.#disk, path, bytes);
    return index;
  }

  /** The file is read from now on until `release`. */
  hold({ path }: SnapshotFile): void {
    this.#held.set(path, (this.#held.get(path) ?? 0) + 1);
  }

  release(file: SnapshotFile): void {
    const left = this.#held.get(file.path)! - 1;
    if (left > 0) this.#held.set(file.path, left);
    else this.#held.delete(file.path);
    this.#idleTicks = 0;
    this.#tidy(file);
  }

  tick(): void {
    if (!this.#newest || this.#held.has(this.#newest.data.path) || ++this.#idleTicks < keptTicks) return;
    const { data } = this.#newest;
    this.#newest = undefined;
    this.#tidy(data);
  }

  #tidy(file: SnapshotFile): void {
    if (file.path !== this.#newest?.data.path && !this.#held.has(file.path)) removeIfThere(this.#disk, file.path);
  }

  /** Lets go of everything; transfers under way lose their file. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.settled();
    for (const path of this.#held.keys()) removeIfThere(this.#disk, path);
    if (this.#newest) removeIfThere(this.#disk, this.#newest.data.path);
    this.#newest = undefined;
  }
}
