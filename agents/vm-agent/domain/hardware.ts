/** The kinds of machine a spec may ask for. */
export type MachineType = "q35" | "microvm";

/** How devices sit in a machine. */
export interface Hardware {
  /** What ends the name of a virtio device: it says how the guest finds it. */
  readonly transport: "pci" | "device";
  /** Places for the root disk, NICs and volumes. */
  readonly ports: number;
  /** Name of the bus of a place. */
  busOf(port: number): string;
  /** PCI: devices come and go while the guest runs, and boot by number. */
  readonly isPci: boolean;
}

/** Root ports of a q35: all NICs and volumes a spec may have, and the root disk. */
export const hotPlugPorts = 24;
/** QEMU gives a microvm without ACPI eight virtio-mmio devices; the seed and the source of randomness have one each. */
export const microvmPorts = 6;
/** Places of a microvm behind those that are given out. */
export const microvmBuses = { seed: "virtio-mmio-bus.6", rng: "virtio-mmio-bus.7" } as const;

const q35: Hardware = { transport: "pci", ports: hotPlugPorts, busOf: (port) => `rp${port}`, isPci: true };
const microvm: Hardware = {
  transport: "device",
  ports: microvmPorts,
  busOf: (port) => `virtio-mmio-bus.${port}`,
  isPci: false,
};

/** By QEMU's name of the machine, as it stands in a layout. */
export function hardwareOf(machineType: string): Hardware {
  return isMicrovm(machineType) ? microvm : q35;
}

export function isMicrovm(machineType: string | undefined): boolean {
  return machineType === "microvm";
}

/** The place whose bus this is, by QEMU's path of it; undefined: none that is given out. */
export function portOfBus(path: string): number | undefined {
  const found = /\/(?:rp|virtio-mmio-bus\.)(\d+)$/.exec(path)?.[1];
  return found === undefined ? undefined : Number(found);
}
