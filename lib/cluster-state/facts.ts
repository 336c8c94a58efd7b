/** What a machine says about itself when it phones home. */
export interface DiskFacts {
  /** Names below /dev/disk/by-id, whole. */
  readonly by_id: readonly string[];
  readonly serial: string;
  readonly bytes_count: number;
  readonly wwn: string;
  readonly model: string;
  readonly boot_medium: boolean;
  /** File systems, partition tables and the like on it. */
  readonly signatures: readonly string[];
  /** Node whose data is on it, from the mark of an installation; empty: none. */
  readonly owner_node: string;
}

export interface MachineFacts {
  readonly serial: string;
  readonly machine_id: string;
  readonly vendor: string;
  readonly product: string;
  readonly architecture: string;
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly mac_addresses: readonly string[];
  readonly disks: readonly DiskFacts[];
  readonly uefi: boolean;
  readonly installer_version: string;
}

/** What boards ship with where a serial belongs. */
const meaningless =
  /^(|0+|none|n\/a|not specified|not applicable|default string|to be filled by o\.?e\.?m\.?|system serial number|x+)$/i;

/** The machine's serial, or its generated id when the serial says nothing; empty when it has neither. */
export function identityOf(facts: Pick<MachineFacts, "serial" | "machine_id">): string {
  const serial = facts.serial.trim();
  return meaningless.test(serial) ? facts.machine_id.trim() : serial;
}
