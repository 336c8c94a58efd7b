import { fault } from "@ultracloud/base";

/** Power-ons at a time; as many as the manifest declares sockets for (`slot-{00..31}`). */
export const slotCount = 32;

/** Files of a slot; its sockets are granted to this process by exact path, so slots are fixed and used again. */
export interface SlotFiles {
  readonly dir: string;
  readonly qmpSocket: string;
  readonly serialSocket: string;
  readonly pidFile: string;
}

export function slotFiles(runDir: string, slot: number): SlotFiles {
  const dir = `${runDir}/slot-${String(slot).padStart(2, "0")}`;
  return { dir, qmpSocket: `${dir}/qmp.sock`, serialSocket: `${dir}/serial.sock`, pidFile: `${dir}/qemu.pid` };
}

/** Hands out slots, the lowest free one first. */
export class Slots {
  readonly #taken = new Set<number>();

  get free(): number {
    return slotCount - this.#taken.size;
  }

  take(): number {
    for (let slot = 0; slot < slotCount; slot++) {
      if (this.#taken.has(slot)) continue;
      this.#taken.add(slot);
      return slot;
    }
    throw fault(
      "resource_exhausted",
      "no_slot",
      `Cannot start another VM as ${slotCount} run: wanted fewer than ${slotCount}`,
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
