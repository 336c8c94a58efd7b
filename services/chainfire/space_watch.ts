import type { Disk } from "@ultracloud/base";
import type { Logger } from "@ultracloud/observe";
import { statfsSync } from "node:fs";
import type { Member } from "./member.ts";

export interface SpaceOptions {
  readonly stateDir: string;
  /** 0: the disk is not looked at. */
  readonly diskBytesFreeMin: number;
  readonly diskReserveBytes: number;
}

/** Written at once; a look must not hold up calls. */
const growBytes = 1 << 20;
const fileName = "reserve";

/**
 * Sees a disk fill up before the log does: below the bound writes are refused and the alarm is raised, and a file kept
 * for this moment makes room for what must still be logged. To be asked often.
 */
export class SpaceWatch {
  readonly #options: SpaceOptions;
  readonly #member: Member;
  readonly #disk: Disk;
  readonly #log: Logger;
  readonly #path: string;
  #held: number;
  #raising = false;

  constructor(options: SpaceOptions, deps: { readonly member: Member; readonly disk: Disk; readonly log: Logger }) {
    this.#options = options;
    this.#member = deps.member;
    this.#disk = deps.disk;
    this.#log = deps.log;
    this.#path = `${options.stateDir}/${fileName}`;
    this.#held = size(this.#path);
    deps.member.onVolume = () => this.look();
  }

  look(): void {
    const { diskBytesFreeMin: min, diskReserveBytes: reserve } = this.#options;
    const member = this.#member;
    if (min > 0) {
      const free = this.#free();
      member.diskBytesFree = free;
      // Not free is what the reserve is to take again, and what the database has yet to write: its changes go to its
      // own log at a commit and from there into its file at a checkpoint.
      const grown = Math.max(0, member.state.bytes().total - size(`${this.#options.stateDir}/state.db`));
      const unwritten = grown + member.state.unwrittenBytes;
      const promised = reserve - Math.min(reserve, this.#held) + 2 * unwritten;
      const usable = free === undefined ? Infinity : free - promised;
      const wasLow = member.diskLow;
      member.diskLow = usable < min;
      member.diskOut = usable < min / 2;
      if (member.diskLow && !wasLow) this.#log.warn("the disk is full: writes are refused", { free });
      if (!member.diskLow && wasLow) this.#log.info("the disk has room again", { free });
      if (usable < min / 2) this.#release();
      else if (!member.diskLow && this.#held < reserve) this.#grow();
    }
    if (member.diskLow || member.stateBytes.used >= member.options.stateBytesMax) this.#raise();
  }

  #raise(): void {
    const { state, options: { memberId } } = this.#member;
    if (this.#raising || state.hasAlarm("no_space", memberId)) return;
    this.#raising = true;
    this.#member.propose({ kind: "raise_alarm", alarm: { member: memberId, type: "no_space" } })
      .catch((error) => this.#log.debug("the alarm could not be raised yet", { error }))
      .finally(() => this.#raising = false);
  }

  #free(): number | undefined {
    try {
      const { bavail, bsize } = statfsSync(this.#options.stateDir);
      return bavail * bsize;
    } catch {
      return undefined;
    }
  }

  #grow(): void {
    try {
      const file = this.#disk.open(this.#path, { create: true });
      try {
        file.writeAt(new Uint8Array(Math.min(growBytes, this.#options.diskReserveBytes - this.#held)), this.#held);
      } finally {
        file.close();
      }
    } catch (error) {
      this.#log.warn("the reserve for a full disk cannot be made", { error });
    }
    this.#held = size(this.#path);
  }

  #release(): void {
    if (this.#held === 0) return;
    this.#log.warn("giving up the reserve for a full disk", { bytes: this.#held });
    this.#disk.remove(this.#path);
    this.#held = 0;
  }
}

/** Size of a file; 0 when it is not there. */
function size(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return 0;
  }
}
