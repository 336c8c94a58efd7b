import type { Clock, Rng } from "@ultracloud/base";
import type { Health, Logger } from "@ultracloud/observe";
import { openOvsdb, type OvsdbClient } from "@ultracloud/ovsdb";
import { confSocket, type DaemonOptions, southboundSocket, tlsArgs } from "./daemons.ts";
import { Guard } from "./guard.ts";
import type { Programs } from "./programs.ts";
import { Supervisor } from "./supervisor.ts";
import { applySwitch, type BridgeSpec, observedPorts, type SwitchPort, switchTables } from "./switch.ts";
import { applyTaps, devices } from "./taps.ts";

export interface Uplink {
  /** Name that address pools call it by. */
  readonly name: string;
  /** Device of the host that leads outside; absent: the host itself is outside. */
  readonly device?: string | undefined;
  /** Address of the host in that network, "172.30.0.1/24"; absent: none. */
  readonly address?: string | undefined;
}

export interface HostOptions extends DaemonOptions {
  readonly nodeName: string;
  /** Begin of the names of bridges, so that several clouds fit on one host. */
  readonly bridgePrefix: string;
  /** Address of this host that tunnels of others reach. */
  readonly encapIp: string;
  /** Device that tunnels leave by, moved into a bridge with `encapAddress`; absent: the host's own routing. */
  readonly tunnelDevice?: string | undefined;
  readonly encapAddress?: string | undefined;
  /** Southbound database of another host; absent: this one's own. */
  readonly southbound?: string | undefined;
  readonly uplinks: readonly Uplink[];
}

export interface HostDeps {
  readonly programs: Programs;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

/** The southbound database as the tools of OVN write it. */
function southboundOf(options: HostOptions): string {
  return options.southbound ?? `unix:${southboundSocket(options)}`;
}

/** Arguments that lead the tools of OVN to the southbound database, its address last. */
export function southboundArgs(options: HostOptions): string[] {
  return [...tlsArgs(options.tls), southboundOf(options)];
}

/** A port that shall be on this host. */
export interface WantedPort {
  readonly portId: string;
  readonly device: string;
  readonly mtu: number;
  /** MAC under which it asks for IPv6 neighbours; absent or empty: it speaks no IPv6. */
  readonly guardMac?: string;
}

/** The switch of one host with its daemons: made what is wanted, again and again. */
export class NetHost implements AsyncDisposable {
  readonly supervisor: Supervisor;
  readonly conf: OvsdbClient;
  /** Flows beside OVN's on the integration bridge. */
  readonly guard: Guard;
  readonly #options: HostOptions;
  readonly #deps: HostDeps;

  constructor(options: HostOptions, deps: HostDeps) {
    this.#options = options;
    this.#deps = deps;
    this.supervisor = new Supervisor(options, deps);
    this.guard = new Guard({
      bridge: `unix:${this.managementSocket}`,
      file: `${options.runDir}/guard.flows`,
    }, deps.programs);
    this.conf = openOvsdb({
      endpoint: { transport: "unix", path: confSocket(options) },
      database: "Open_vSwitch",
      tables: switchTables,
    }, deps);
  }

  /** Makes the switch without touching ports, while nobody has said which are wanted: ovn-controller needs its row. */
  async prepare(): Promise<void> {
    await applySwitch({ externalIds: this.#externalIds(), bridges: this.#bridges(), ports: undefined }, this.conf);
  }

  /** Makes taps, bridges and ports what is wanted; answers how much there was to do, 0 once nothing is left. */
  async apply(wanted: readonly WantedPort[]): Promise<number> {
    const { programs } = this.#deps;
    const taps = await applyTaps(wanted, programs, `${this.#options.runDir}/taps.batch`);
    const ports: SwitchPort[] = wanted.map(({ portId, device }) => ({
      name: device,
      bridge: this.integration,
      logicalPort: portId,
    }));
    const { tunnelDevice, uplinks } = this.#options;
    if (tunnelDevice !== undefined) ports.push({ name: tunnelDevice, bridge: this.#bridge("phy"), logicalPort: "" });
    uplinks.forEach(({ device }, i) => {
      if (device !== undefined) ports.push({ name: device, bridge: this.#bridge(`ex${i}`), logicalPort: "" });
    });
    const config = { externalIds: this.#externalIds(), bridges: this.#bridges(), ports };
    const written = await applySwitch(config, this.conf);
    const macs = new Map(wanted.flatMap(({ portId, guardMac = "" }) => guardMac === "" ? [] : [[portId, guardMac]]));
    const guarded = await this.guard.apply(macs, this.observed());
    return taps.made + taps.removed + written + guarded + await this.#addresses();
  }

  #bridges(): BridgeSpec[] {
    const { tunnelDevice, uplinks } = this.#options;
    return [
      { name: this.integration, secure: true },
      ...(tunnelDevice === undefined ? [] : [{ name: this.#bridge("phy"), secure: false }]),
      ...uplinks.map((_, i) => ({ name: this.#bridge(`ex${i}`), secure: false })),
    ];
  }

  /** Bridge that ovn-controller programs. */
  get integration(): string {
    return this.#bridge("int");
  }

  /** Where the bridge's flows are asked for. */
  get managementSocket(): string {
    return `${this.#options.runDir}/${this.integration}.mgmt`;
  }

  observed() {
    return observedPorts(this.conf);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.conf[Symbol.asyncDispose]();
    await this.supervisor[Symbol.asyncDispose]();
  }

  #bridge(name: string): string {
    return `${this.#options.bridgePrefix}-${name}`;
  }

  #externalIds(): Record<string, string> {
    const { nodeName, encapIp, uplinks } = this.#options;
    return {
      "system-id": nodeName,
      "ovn-remote": southboundOf(this.#options),
      "ovn-encap-type": "geneve",
      "ovn-encap-ip": encapIp,
      "ovn-bridge": this.integration,
      "ovn-bridge-datapath-type": "netdev",
      // A port is bound within this of its database's return.
      "ovn-remote-probe-interval": "5000",
      ...(uplinks.length > 0
        ? { "ovn-bridge-mappings": uplinks.map(({ name }, i) => `${name}:${this.#bridge(`ex${i}`)}`).join(",") }
        : {}),
    };
  }

  /** Addresses of the host on its bridges: vswitchd makes the devices, and they are new with every vswitchd. */
  async #addresses(): Promise<number> {
    const { uplinks, tunnelDevice, encapAddress } = this.#options;
    const wanted = uplinks.flatMap(({ address }, i) =>
      address === undefined ? [] : [[this.#bridge(`ex${i}`), address]]
    );
    if (tunnelDevice !== undefined && encapAddress !== undefined) wanted.push([this.#bridge("phy"), encapAddress]);
    if (wanted.length === 0) return 0;
    const { programs } = this.#deps;
    const present = await devices(programs);
    let done = 0;
    for (const [device, address] of wanted as [string, string][]) {
      if (!present.has(device)) {
        // vswitchd has not made it yet: there is something left to do.
        done++;
        continue;
      }
      const [link] = JSON.parse(await programs.run("ip", ["-json", "address", "show", "dev", device])) as {
        flags?: string[];
        addr_info?: { local?: string }[];
      }[];
      const has = link?.addr_info?.some((info) => info.local === address.split("/")[0]);
      if (has && link?.flags?.includes("UP")) continue;
      await programs.run("ip", ["address", "replace", address, "dev", device]);
      await programs.run("ip", ["link", "set", "dev", device, "up"]);
      // The host's own packets come with checksums left to hardware that is not there.
      await programs.run("ethtool", ["-K", device, "tx", "off"]);
      done++;
    }
    return done;
  }
}
