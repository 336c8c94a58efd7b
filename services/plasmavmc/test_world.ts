import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { Fault, fault, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { buckets, type KvBackend, localLeases, memoryBackend, openPlatform, type Platform } from "@ultracloud/platform";
import { type Operation, OperationService, OperationState } from "@ultracloud/proto/common/v1";
import {
  FlavorService,
  HypervisorType,
  ImageAliasService,
  ImageFormat,
  ImageIntakeService,
  ImageService,
  NodeMaintenanceService,
  NodeService,
  PlacementGroupService,
  PlacementService,
  SnapshotService,
  SshKeyService,
  VmService,
  VolumeService,
} from "@ultracloud/proto/plasmavmc/v1";
import {
  type Port,
  PortSchema,
  PortService,
  PortState,
  Protocol,
  SecurityGroupSchema,
  type SecurityGroupService,
  SubnetSchema,
  type SubnetService,
} from "@ultracloud/proto/prismnet/v1";
import { bind } from "@ultracloud/rpc";
import { inProcessClient } from "@ultracloud/testing";
import type { Fetcher } from "./fetch_saga.ts";
import { allocationKey, quotaKey } from "./kinds.ts";
import { openLocalImages } from "./local_images.ts";
import { bundle } from "./test_bundles.ts";
import { localVolumes } from "./local_volumes.ts";
import { localQuota, type QuotaLimits } from "./quota.ts";
import { createPlasmavmc } from "./service.ts";
import { FakeAgent } from "./test_agent.ts";
import type { NetworkClients } from "./vm_ports.ts";

/** The world around plasmavmc for its tests: workers and a network that keep their state over its restarts. */

export const project = "acme/prod";
const gib = 1024 ** 3;

/** Ports of prismnet, as far as plasmavmc uses them. */
export class FakeNetwork {
  readonly ports = new Map<string, Port>();
  /** Ports are taps, which two hosts can carry at a time; otherwise forwards of one. */
  taps = false;
  hook: (call: string) => Promise<void> | void = () => {};
  readonly clients: NetworkClients;

  constructor() {
    const portOf = (name: string) => {
      const port = this.ports.get(name);
      if (!port) throw fault("not_found", "port_not_found", `Cannot find port ${name}`);
      return port;
    };
    const known = (name: string, names: readonly string[]) => {
      if (!names.includes(name)) throw fault("not_found", "not_found", `Cannot find ${name}`);
      return { meta: { id: `${name}_id`, name } };
    };
    const service = bind(PortService, {
      createPort: async (request) => {
        await this.hook("createPort");
        if (this.ports.has(request.name)) throw fault("already_exists", "port_exists", "Cannot create it twice");
        const port = create(PortSchema, {
          meta: { id: `port_${request.name}`, name: request.name },
          macAddress: "52:54:00:00:00:01",
          ipAddress: "10.0.0.2",
        });
        this.ports.set(request.name, port);
        return port;
      },
      getPort: ({ port }) => portOf(port),
      listPorts: () => ({ ports: [...this.ports.values()] }),
      setPortSecurityGroups: ({ port }) => portOf(port),
      bindPort: async ({ port, host, beside }) => {
        await this.hook("bindPort");
        const bound = portOf(port);
        if (beside && bound.host !== "") {
          if (!this.taps) throw fault("failed_precondition", "engine_unsupported", "Cannot bind it twice");
          if (bound.host === host || bound.arrivingHost === host) return bound;
          if (bound.arrivingHost !== "") throw fault("failed_precondition", "port_bound", "Cannot bind it thrice");
          bound.arrivingHost = host;
          return bound;
        }
        if (bound.host !== "" && bound.host !== host) {
          throw fault("failed_precondition", "port_bound", "Cannot bind it");
        }
        bound.host = host;
        bound.state = PortState.ACTIVE;
        const tap = { case: "tap" as const, value: { device: "ut0123456789ab", mtu: 1400 } };
        bound.binding = create(PortSchema, {
          binding: {
            engine: this.taps ? tap : {
              case: "user",
              value: {
                cidr: "10.0.0.0/24",
                gatewayIp: "10.0.0.1",
                dnsIp: "10.0.0.254",
                forwards: [{ protocol: Protocol.TCP, hostIp: "127.0.0.1", hostPort: 20000, guestPort: 80 }],
              },
            },
          },
        }).binding!;
        return bound;
      },
      unbindPort: async ({ port, host }) => {
        await this.hook("unbindPort");
        const bound = portOf(port);
        if (host !== "" && host !== bound.host && host !== bound.arrivingHost) return bound;
        if (host === "" || bound.arrivingHost === "") bound.host = "";
        else if (host === bound.host) bound.host = bound.arrivingHost;
        bound.arrivingHost = "";
        return bound;
      },
      waitPort: async ({ port }) => {
        await this.hook("waitPort");
        return portOf(port);
      },
      deletePort: async ({ port }) => {
        await this.hook("deletePort");
        if (portOf(port).host !== "") throw fault("failed_precondition", "port_bound", "Cannot delete it");
        this.ports.delete(port);
        return {};
      },
    }, {
      createPort: { public: "a test's network" },
      getPort: { public: "a test's network" },
      listPorts: { public: "a test's network" },
      setPortSecurityGroups: { public: "a test's network" },
      bindPort: { public: "a test's network" },
      unbindPort: { public: "a test's network" },
      waitPort: { public: "a test's network" },
      deletePort: { public: "a test's network" },
    });
    this.clients = {
      ports: inProcessClient(PortService, [service]),
      subnets: {
        getSubnet: ({ subnet }: { subnet: string }) =>
          Promise.resolve().then(() => create(SubnetSchema, known(subnet, ["front", "back"]))),
      } as unknown as Client<typeof SubnetService>,
      groups: {
        getSecurityGroup: ({ securityGroup }: { securityGroup: string }) =>
          Promise.resolve().then(() => create(SecurityGroupSchema, known(securityGroup, ["web"]))),
      } as unknown as Client<typeof SecurityGroupService>,
    };
  }
}

type Memory = ReturnType<typeof memoryBackend>;

/** What outlives a plasmavmc process. */
export class World implements AsyncDisposable {
  readonly kv: Memory = memoryBackend({ clock: systemClock });
  readonly agents = new Map<string, FakeAgent>();
  readonly network = new FakeNetwork();
  /** Moves on only when a test says so, for leases. */
  leaseMs = 0;
  readonly leases = localLeases({ ttlMs: 1000 }, { clock: { monotonicMs: () => this.leaseMs } });
  /** Who fetches from URLs; set it before a process is booted. */
  fetcher: Fetcher | undefined;
  readonly dir: string;

  private constructor(dir: string) {
    this.dir = dir;
  }

  static async open(): Promise<World> {
    return new World(await Deno.makeTempDir());
  }

  agent(name: string): FakeAgent {
    let agent = this.agents.get(name);
    if (!agent) this.agents.set(name, agent = new FakeAgent(name, (peer) => this.agents.get(peer)));
    return agent;
  }

  /** A plasmavmc process over this world. */
  async boot(o: { kv?: KvBackend; quota?: QuotaLimits; reconcileMs?: number; run?: boolean } = {}) {
    const platform = openPlatform({ service: "plasmavmc", sagaPollMs: 20 }, {
      kv: o.kv ?? this.kv,
      clock: systemClock,
      rng: seededRng(11),
      log: noopLogger,
    });
    const limits = o.quota ?? { vms: 100, vcpus: 100, memoryBytes: 100 * gib, diskBytes: 100 * gib };
    const { services, reconcile } = createPlasmavmc({
      images: { bytesMax: 4 * 1024 ** 2, virtualBytesMax: 1024 ** 4 },
      reconcileMs: o.reconcileMs ?? 20,
      settleMs: 0,
      fenceGraceMs: 0,
      scheduleMs: 20,
    }, {
      platform,
      images: await openLocalImages({ dir: this.dir }, { rng: seededRng(12) }),
      quota: localQuota(limits, platform),
      volumes: localVolumes,
      fetcher: this.fetcher,
      leases: this.leases,
      network: this.network.clients,
      agents: (url) => this.agent(new URL(url).hostname).client,
    });
    const stop = new AbortController();
    const running = o.run === false ? Promise.resolve() : reconcile(stop.signal);
    return {
      platform,
      services,
      vms: inProcessClient(VmService, services),
      volumes: inProcessClient(VolumeService, services),
      snapshots: inProcessClient(SnapshotService, services),
      keys: inProcessClient(SshKeyService, services),
      groups: inProcessClient(PlacementGroupService, services),
      placement: inProcessClient(PlacementService, services),
      maintenance: inProcessClient(NodeMaintenanceService, services),
      aliases: inProcessClient(ImageAliasService, services),
      intake: inProcessClient(ImageIntakeService, services),
      images: inProcessClient(ImageService, services),
      nodes: inProcessClient(NodeService, services),
      flavors: inProcessClient(FlavorService, services),
      operations: inProcessClient(OperationService, services),
      async [Symbol.asyncDispose]() {
        stop.abort(new Error("stopped"));
        await running;
      },
    };
  }

  /** Everything a VM may hold, outside its record. */
  async leftovers(platform: Platform): Promise<Record<string, unknown>> {
    const row = (key: string) => platform.transact((tx) => tx.row<object>(key));
    const rows = await this.kv.scan(buckets.rows, { limit: 1000 });
    const agents = [...this.agents.values()];
    const allocated = rows.filter((r) => r.key.startsWith(allocationKey("")))
      .flatMap((r) => Object.keys(JSON.parse(new TextDecoder().decode(r.value))));
    return {
      active: this.kv.count(buckets.active),
      ports: [...this.network.ports.keys()],
      guests: agents.flatMap((agent) => [...agent.vms.keys()]),
      volumes: agents.flatMap((agent) => [...agent.volumes.keys()]),
      snapshots: agents.flatMap((agent) => [...agent.snapshots.keys()]),
      allocated,
      quota: Object.keys(await row(quotaKey(project)) ?? {}),
      rows: rows.map((r) => r.key).filter((key) => key.startsWith("guest|") || key.startsWith("imageuse|")),
    };
  }

  async [Symbol.asyncDispose]() {
    await Deno.remove(this.dir, { recursive: true });
  }
}

export const nothing = {
  active: 0,
  ports: [],
  guests: [],
  volumes: [],
  snapshots: [],
  allocated: [],
  quota: [],
  rows: [],
};

export type Process = Awaited<ReturnType<World["boot"]>>;

export async function register(
  process: Process,
  name: string,
  o: { slots?: number; labels?: Record<string, string>; memoryBytes?: number } = {},
) {
  await process.nodes.registerNode({
    node: {
      name,
      agentUrl: `http://${name}:7141`,
      hypervisorType: HypervisorType.KVM,
      accelerator: "tcg",
      capacity: {
        vcpus: 64,
        memoryBytes: BigInt(o.memoryBytes ?? 8 * gib),
        diskBytes: BigInt(64 * gib),
        vmSlots: o.slots ?? 8,
      },
      labels: o.labels ?? {},
    },
  });
}

export async function importImage(
  process: Process,
  o: { name?: string; content?: Uint8Array; format?: ImageFormat; sha256?: string; bytes?: bigint } = {},
) {
  const content = o.content ?? bundle();
  return await process.images.importImage((async function* () {
    yield {
      part: {
        case: "header" as const,
        value: {
          project,
          name: o.name ?? "tiny",
          format: o.format ?? ImageFormat.KERNEL_BUNDLE,
          sha256: o.sha256 ?? "",
          bytes: o.bytes ?? 0n,
        },
      },
    };
    for (let at = 0; at < content.length; at += 700) {
      yield { part: { case: "chunk" as const, value: content.subarray(at, at + 700) } };
    }
  })());
}

/** Waits until the operation is over. */
export async function over(process: Process, operation: Operation, signal?: AbortSignal): Promise<Operation> {
  const request = { project, id: operation.id, timeoutMs: 20_000 };
  const done = await process.operations.waitOperation(request, signal ? { signal } : {});
  assert.ok(done.state >= OperationState.DONE, `operation is still at ${done.step}`);
  return done;
}

export async function code(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
  return "ok";
}

/** Waits for a condition. */
export async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!await holds()) {
    assert.ok(performance.now() < deadline, `never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const vmRequest = {
  project,
  name: "web",
  flavor: "tiny",
  image: "tiny",
  subnets: ["front"],
  securityGroups: ["web"],
};
