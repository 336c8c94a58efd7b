import assert from "node:assert/strict";
import { seededRng, systemClock, systemRng } from "@ultracloud/base";
import {
  hostPrograms,
  Insight,
  netAgentService,
  NetHost,
  northboundSocket,
  southboundArgs,
} from "@ultracloud/net-agent";
import type { TlsFiles } from "@ultracloud/config";
import { Health, noopLogger } from "@ultracloud/observe";
import { openOvsdb, type OvsdbClient } from "@ultracloud/ovsdb";
import { memoryBackend, openPlatform, type Platform } from "@ultracloud/platform";
import { NetAgentService } from "@ultracloud/proto/netagent/v1";
import { createTestCa, inProcessClient } from "@ultracloud/testing";
import {
  AddressPoolService,
  FloatingIpService,
  InsightService,
  NatGatewayService,
  NetworkAclService,
  PeeringService,
  type Port,
  PortService,
  RouterService,
  SecurityGroupService,
  SubnetService,
  VpcService,
} from "@ultracloud/proto/prismnet/v1";
import type { BoundService } from "@ultracloud/rpc";
import { createPrismnet } from "../service.ts";
import { guardMacOf } from "../host_ports.ts";
import { hostKind } from "../kinds.ts";
import type { NetworkRecords } from "../network_records.ts";
import { ovnEngine } from "./engine.ts";
import { northboundTables } from "./northbound.ts";
import { fenceOf, NorthboundReconciler } from "./reconciler.ts";
import { join, Netns } from "./test_netns.ts";

export const project = "acme/prod";
/** Generous: the machine may be busy with anything. */
const patienceMs = 60_000;
export const clocks = { clock: systemClock, rng: systemRng, log: noopLogger };

/** Waits until `look` answers something; fails with `what` when it never does. */
export async function until<T>(what: string, look: () => Promise<T | false | undefined> | T | false | undefined) {
  for (const deadline = performance.now() + patienceMs;;) {
    const seen = await look();
    if (seen) return seen;
    assert.ok(performance.now() < deadline, `waited in vain until ${what}`);
    await systemClock.sleep(20);
  }
}

/** A guest: a namespace whose one device is a port. */
export interface Guest {
  readonly ns: Netns;
  readonly port: Port;
  readonly hv: number;
}

/** Two hypervisors in namespaces, joined by an underlay, with prismnet's services over them. */
export class World implements AsyncDisposable {
  readonly tag: string;
  readonly dir: string;
  readonly platform: Platform;
  services!: readonly BoundService[];
  readonly hvs: Netns[] = [];
  readonly hosts: NetHost[] = [];
  /** Agents that are gone and whose daemons others adopted, by hypervisor: they alone can see these end. */
  readonly gone: NetHost[][] = [];
  records!: NetworkRecords;
  reconciler!: NorthboundReconciler;
  nb!: OvsdbClient;
  readonly #guests: Guest[] = [];
  readonly #certificates: TlsFiles[] = [];
  readonly #stack = new AsyncDisposableStack();
  readonly #stop = new AbortController();

  private constructor(dir: string) {
    this.dir = dir;
    this.tag = `uc${Deno.pid}-${dir.slice(-4)}`;
    const kv = memoryBackend({ clock: systemClock });
    this.platform = openPlatform({ service: "prismnet" }, { ...clocks, kv, rng: seededRng(7) });
  }

  static async make(hypervisors = 1): Promise<World> {
    const world = new World(await Deno.makeTempDir({ prefix: "uc-" }));
    world.#stack.defer(() => Deno.remove(world.dir, { recursive: true }));
    try {
      await world.#build(hypervisors);
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
    return world;
  }

  get vpcs() {
    return inProcessClient(VpcService, this.services);
  }
  get subnets() {
    return inProcessClient(SubnetService, this.services);
  }
  get groups() {
    return inProcessClient(SecurityGroupService, this.services);
  }
  get ports() {
    return inProcessClient(PortService, this.services);
  }

  get insights() {
    return inProcessClient(InsightService, this.services);
  }

  get edge() {
    return {
      acls: inProcessClient(NetworkAclService, this.services),
      routers: inProcessClient(RouterService, this.services),
      pools: inProcessClient(AddressPoolService, this.services),
      gateways: inProcessClient(NatGatewayService, this.services),
      ips: inProcessClient(FloatingIpService, this.services),
      peerings: inProcessClient(PeeringService, this.services),
    };
  }

  /** The network outside: a namespace at the other end of every uplink. */
  outside!: Netns;

  /** Options of a hypervisor, as its net-agent would have them. */
  hostOptions(i: number) {
    const dir = `${this.dir}/hv${i}`;
    return {
      stateDir: dir,
      runDir: dir,
      central: i === 0,
      nodeName: `hv${i}`,
      bridgePrefix: "br",
      encapIp: `10.77.0.1${i}`,
      tunnelDevice: "under",
      encapAddress: `10.77.0.1${i}/24`,
      // As between hosts: by TLS over the underlay, with certificates on both sides.
      ...(i === 0 ? { southboundListen: "0.0.0.0:6642" } : { southbound: "ssl:10.77.0.10:6642" }),
      tls: this.#certificates[i]!,
      uplinks: [{ name: "outside", device: "out" }],
    };
  }

  /** What a hypervisor knows of packets, by its name. */
  insight(name: string): Insight {
    const i = Number(name.slice(2));
    return new Insight(this.hosts[i]!, southboundArgs(this.hostOptions(i)), hostPrograms(this.hvs[i]!.name));
  }

  async openHost(i: number): Promise<NetHost> {
    const host = new NetHost(this.hostOptions(i), {
      ...clocks,
      programs: hostPrograms(this.hvs[i]!.name),
      health: new Health(),
    });
    await host.conf.ready(AbortSignal.timeout(patienceMs));
    return host;
  }

  /** Makes a port and a guest on a hypervisor that has it, addressed by hand unless `dhcp`. */
  async guest(o: {
    name: string;
    subnet: string;
    hv?: number;
    groups?: string[];
    project?: string;
    address?: "static" | "none";
    allowed?: string[];
  }): Promise<Guest> {
    const hv = o.hv ?? 0;
    const inside = { project: o.project ?? project };
    await this.ports.createPort({
      ...inside,
      name: o.name,
      subnet: o.subnet,
      securityGroups: o.groups ?? [],
      allowedAddresses: o.allowed ?? [],
    });
    const port = await this.ports.bindPort({ ...inside, port: o.name, host: `hv${hv}` });
    const ns = this.#stack.use(await Netns.make(`${this.tag}-g${this.#guests.length}`));
    assert.equal(port.binding?.engine.case, "tap");
    const { device } = port.binding.engine.value as { device: string };
    await join([this.hvs[hv]!, device], [ns, "eth0"], 1400);
    // Down and up, so that the link-local address follows the MAC.
    await ns.run("ip", "link", "set", "dev", "eth0", "down");
    await ns.run("ip", "link", "set", "dev", "eth0", "address", port.macAddress, "up");
    const guest = { ns, port, hv };
    this.#guests.push(guest);
    await this.applyHost(hv);
    if (o.address !== "none") {
      const subnet = await this.subnets.getSubnet({ ...inside, subnet: o.subnet });
      await ns.run("ip", "address", "add", `${port.ipAddress}/${subnet.cidr.split("/")[1]}`, "dev", "eth0");
      await ns.run("ip", "route", "add", "default", "via", subnet.gatewayIp);
      if (port.ipv6Address !== "") {
        await ns.run("ip", "-6", "address", "add", `${port.ipv6Address}/64`, "dev", "eth0", "nodad");
      }
    }
    return guest;
  }

  async applyHost(hv: number): Promise<number> {
    const wanted = this.#guests.filter((guest) => guest.hv === hv).map(({ port }) => {
      const { device, mtu } = port.binding!.engine.value as { device: string; mtu: number };
      return { portId: port.meta!.id, device, mtu, guardMac: guardMacOf(port) };
    });
    return await this.hosts[hv]!.apply(wanted);
  }

  /** Waits until everything written so far is what every hypervisor does. */
  async settled(): Promise<void> {
    await until("the database is as desired", async () => (await this.reconciler.once()).operations === 0);
    await until("every chassis has it", () => {
      const { written, realised } = fenceOf(this.nb);
      return realised >= written;
    });
    for (const hv of this.hosts.keys()) {
      await until("the host is as wanted", async () => await this.applyHost(hv) === 0);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#stack.disposeAsync();
  }

  async #build(hypervisors: number): Promise<void> {
    const under = this.#stack.use(await Netns.make(`${this.tag}-u`));
    await under.run("ip", "link", "add", "bridge", "type", "bridge");
    await under.run("ip", "link", "set", "bridge", "up");
    await under.run("ip", "address", "add", "172.30.0.1/24", "dev", "bridge");
    await under.run("ethtool", "-K", "bridge", "tx", "off");
    this.outside = under;
    const ca = await createTestCa();
    for (let i = 0; i < hypervisors; i++) {
      this.#certificates.push(await ca.issueFiles(this.dir, `hv${i}`));
      const hv = this.#stack.use(await Netns.make(`${this.tag}-h${i}`));
      this.hvs.push(hv);
      await join([hv, "under"], [under, `hv${i}`], 1500);
      await under.run("ip", "link", "set", `hv${i}`, "master", "bridge");
      await join([hv, "out"], [under, `out${i}`], 1500);
      await under.run("ip", "link", "set", `out${i}`, "master", "bridge");
      await Deno.mkdir(`${this.dir}/hv${i}`);
      const host = await this.openHost(i);
      this.hosts.push(host);
      this.gone.push([]);
      this.#stack.defer(async () => {
        await this.hosts[i]![Symbol.asyncDispose]();
        await endDaemons(`${this.dir}/hv${i}`);
        for (const host of [this.hosts[i]!, ...this.gone[i]!]) await host.supervisor.exits();
      });
      await until("the host is set up", async () => await this.applyHost(i) === 0);
    }
    this.nb = this.#stack.use(openOvsdb({
      endpoint: { transport: "unix", path: northboundSocket(this.hostOptions(0)) },
      database: "OVN_Northbound",
      tables: northboundTables,
    }, clocks));
    await this.nb.ready(AbortSignal.timeout(patienceMs));
    await this.nb.transact([{ op: "insert", table: "NB_Global", row: {} }]).catch(() => {});
    const { platform, nb: northbound } = this;
    const agents = (name: string) => inProcessClient(NetAgentService, [netAgentService(this.insight(name))]);
    const { services, records, follow } = createPrismnet({
      platform,
      engine: ovnEngine(northbound),
      northbound,
      agents,
    });
    this.services = services;
    this.records = records;
    this.reconciler = new NorthboundReconciler({ platform, db: northbound, records });
    this.#stack.use(follow());
    await this.platform.transact(async (tx) => {
      for (let i = 0; i < hypervisors; i++) {
        const value = { agentUrl: `hv${i}`, uplinks: ["outside"], seenMs: 0 };
        await tx.create(hostKind, { project: "", name: `hv${i}`, value });
      }
    });
    const running = this.reconciler.run(this.#stop.signal);
    this.#stack.defer(() => running);
    await until("the writer has its lock", async () => await this.reconciler.once().then(() => true, () => false));
  }
}

/** Ends every daemon of a run directory, whoever started it, by its pid file. */
export async function endDaemons(runDir: string): Promise<void> {
  const pids: number[] = [];
  for await (const { name } of Deno.readDir(runDir)) {
    if (!name.endsWith(".pid")) continue;
    const pid = Number((await Deno.readTextFile(`${runDir}/${name}`)).trim());
    const command = await Deno.readTextFile(`/proc/${pid}/cmdline`).catch(() => "");
    if (command.includes(runDir)) pids.push(pid);
  }
  for (const pid of pids) Deno.kill(pid, "SIGKILL");
  for (const pid of pids) await until(`${pid} is gone`, async () => !(await isRunning(pid)));
}

async function isRunning(pid: number): Promise<boolean> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => "");
  return stat !== "" && !stat.includes(") Z ");
}
