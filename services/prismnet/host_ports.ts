import type { StoredRecord } from "@ultracloud/platform";
import type { Port } from "./domain/types.ts";

/** Ports that left a host, remembered for agents that ask what has changed; beyond it they get the whole list. */
const departuresMax = 10_000;

/** A port that its host shall have. */
export interface HostPort {
  readonly portId: string;
  readonly device: string;
  readonly mtu: number;
  /** MAC under which it may ask for IPv6 neighbours; empty: it speaks no IPv6. */
  readonly guardMac: string;
}

/** What the host has to guard of a port. */
export function guardMacOf(port: Pick<Port, "macAddress" | "ipv6Address" | "allowedAddresses">): string {
  const speaks = (port.ipv6Address ?? "") !== "" || port.allowedAddresses?.some((address) => address.includes(":"));
  return speaks ? port.macAddress : "";
}

/** What an agent has to do to have the ports of now. */
export interface HostChanges {
  /** True: `ports` are those that came or changed, and `removed` went; false: `ports` are all. */
  readonly partial: boolean;
  readonly ports: readonly HostPort[];
  readonly removed: readonly string[];
}

interface Departure {
  readonly host: string;
  readonly portId: string;
  readonly version: number;
}

function wantedOf(record: StoredRecord<Port> | undefined): HostPort | undefined {
  const binding = record?.value.binding;
  if (!record || record.value.host === "" || binding?.engine !== "tap") return undefined;
  return { portId: record.id, device: binding.device, mtu: binding.mtu, guardMac: guardMacOf(record.value) };
}

function hostsOf(record: StoredRecord<Port>): string[] {
  const { host, arrivingHost } = record.value;
  return arrivingHost === undefined ? [host] : [host, arrivingHost];
}

/** Which ports hosts shall have, kept with every change of a port: an answer costs what has changed. */
export class HostPorts {
  readonly #hosts = new Map<string, Map<string, { readonly port: HostPort; readonly version: number }>>();
  /** Version of the last change of each host's ports. */
  readonly #changed = new Map<string, number>();
  readonly #departures: Departure[] = [];
  /** Departures up to here are forgotten. */
  #forgotten = 0;

  /** A port as it was and as it is, by the write with this version. */
  change(old: StoredRecord<Port> | undefined, next: StoredRecord<Port> | undefined, version: number): void {
    const [before, after] = [wantedOf(old), wantedOf(next)];
    const [from, to] = [before ? hostsOf(old!) : [], after ? hostsOf(next!) : []];
    const isOne = before?.portId === after?.portId;
    for (const host of from) {
      if (isOne && to.includes(host)) continue;
      this.#hosts.get(host)?.delete(before!.portId);
      this.#departures.push({ host, portId: before!.portId, version });
      if (this.#departures.length > departuresMax) this.#forgotten = this.#departures.shift()!.version;
      this.#changed.set(host, version);
    }
    const same = isOne && before?.device === after?.device && before?.mtu === after?.mtu &&
      before?.guardMac === after?.guardMac;
    for (const host of to) {
      if (same && from.includes(host)) continue;
      const ports = this.#hosts.get(host) ?? new Map();
      this.#hosts.set(host, ports.set(after!.portId, { port: after!, version }));
      this.#changed.set(host, version);
    }
  }

  /** Whether a host's ports have changed since a version. */
  hasChanged(host: string, since: number): boolean {
    return (this.#changed.get(host) ?? 0) > since;
  }

  /** What has changed on a host since a version; everything when it is undefined or too long ago. */
  since(host: string, version: number | undefined): HostChanges {
    const listed = this.#hosts.get(host) ?? new Map<string, { port: HostPort; version: number }>();
    if (version === undefined || version < this.#forgotten) {
      return { partial: false, ports: [...listed.values()].map(({ port }) => port), removed: [] };
    }
    const ports: HostPort[] = [];
    for (const { port, version: at } of listed.values()) if (at > version) ports.push(port);
    const gone = this.#departures.filter((d) => d.version > version && d.host === host && !listed.has(d.portId));
    return { partial: true, ports, removed: [...new Set(gone.map(({ portId }) => portId))] };
  }
}
