import { fault } from "@ultracloud/base";
import { hardwareOf } from "./hardware.ts";
import type { VmSpec } from "./spec.ts";

/** The hardware of a power-on. A migration's target must be started with the same. */
export interface Layout {
  /** Versioned (`pc-q35-7.2`): what an unversioned name means differs between hosts. `microvm` has no versions. */
  readonly machineType: string;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** Port of each device by its id: port id of a NIC, volume id, or "root". */
  readonly ports: Readonly<Record<string, number>>;
  /** Bytes of each disk as the guest sees it. */
  readonly sizes: Readonly<Record<string, number>>;
}

/** Ids of everything in the spec that sits in a port. */
export function devicesOf(spec: VmSpec, hasRoot: boolean): string[] {
  return [
    ...(hasRoot ? ["root"] : []),
    ...spec.nics.map((nic) => nic.portId),
    ...spec.volumes.map((volume) => volume.volumeId),
  ];
}

/** `taken` with a port of the machine for each of `devices` that has none, the lowest free one first. */
export function placed(
  machineType: string,
  taken: Readonly<Record<string, number>>,
  devices: readonly string[],
): Record<string, number> {
  const { ports: portsMax } = hardwareOf(machineType);
  const ports: Record<string, number> = { ...taken };
  const used = new Set(Object.values(ports));
  for (const device of devices) {
    if (ports[device] !== undefined) continue;
    let port = 0;
    while (used.has(port)) port++;
    if (port >= portsMax) {
      throw fault(
        "resource_exhausted",
        "no_hot_plug_port",
        `Cannot plug ${device} as all ${portsMax} ports are taken: wanted a free one`,
      );
    }
    ports[device] = port;
    used.add(port);
  }
  return ports;
}
