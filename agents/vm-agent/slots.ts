import { fault } from "@ultracloud/base";

/** Power-ons at a time; as many as the manifest declares sockets for (`slot-{00..63}`). */
export const slotCount = 64;

/** Volumes exported at a time; as many as the manifest declares sockets for (`vol-{00..63}`). */
export const volumeSlotCount = 64;

/** Files of a slot; its sockets are granted to this process by exact path, so slots are fixed and used again. */
export interface SlotFiles {
  readonly dir: string;
  readonly qmpSocket: string;
  readonly serialSocket: string;
  readonly pidFile: string;
  /** Where a guest from another worker arrives, and its disks. */
  readonly migrationSocket: string;
  readonly mirrorSocket: string;
  readonly screenshot: string;
  /** The key of a migration's TLS, as QEMU reads it. */
  readonly pskFile: string;
}

export interface VolumeSlotFiles {
  readonly dir: string;
  readonly qmpSocket: string;
  readonly nbdSocket: string;
  readonly pidFile: string;
}

export function volumeSlotFiles(runDir: string, slot: number): VolumeSlotFiles {
  const dir = `${runDir}/vol-${String(slot).padStart(2, "0")}`;
  return { dir, qmpSocket: `${dir}/qmp.sock`, nbdSocket: `${dir}/nbd.sock`, pidFile: `${dir}/qsd.pid` };
}

export function slotFiles(runDir: string, slot: number): SlotFiles {
  const dir = `${runDir}/slot-${String(slot).padStart(2, "0")}`;
  return {
    dir,
    qmpSocket: `${dir}/qmp.sock`,
    serialSocket: `${dir}/serial.sock`,
    pidFile: `${dir}/qemu.pid`,
    migrationSocket: `${dir}/state.sock`,
    mirrorSocket: `${dir}/nbd.sock`,
    screenshot: `${dir}/screen.png`,
    pskFile: `${dir}/keys.psk`,
  };
}

/** Hands out slots, the lowest free one first. */
export class Slots {
  readonly #taken = new Set<number>();
  readonly #count: number;
  readonly #what: string;

  constructor(count: number = slotCount, what = "start another VM") {
    this.#count = count;
    this.#what = what;
  }

  get free(): number {
    return this.#count - this.#taken.size;
  }

  take(): number {
    for (let slot = 0; slot < this.#count; slot++) {
      if (this.#taken.has(slot)) continue;
      this.#taken.add(slot);
      return slot;
    }
    throw fault(
      "resource_exhausted",
      "no_slot",
      `Cannot ${this.#what} as ${this.#count} slots are taken: wanted a free one`,
    );
  }

  /** Marks a slot that a record names. */
  claim(slot: number): void {
    this.#taken.add(slot);
  }

  has(slot: number): boolean {
    return this.#taken.has(slot);
  }

  release(slot: number): void {
    this.#taken.delete(slot);
  }
}
