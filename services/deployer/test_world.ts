import type { ClusterStateInput } from "@ultracloud/cluster-state";
import { type Clock, seededRng, systemClock } from "@ultracloud/base";
import { noopLogger } from "@ultracloud/observe";
import { type KvBackend, memoryBackend, openPlatform } from "@ultracloud/platform";
import {
  AgentService,
  DeployerService,
  NodeService,
  RolloutService,
  SystemState,
  TrustService,
} from "@ultracloud/proto/deployer/v1";
import { serveLocally } from "@ultracloud/testing";
import type { IdentityDeps } from "./identities.ts";
import { createDeployer } from "./mod.ts";

export const gib = 2 ** 30;
export const system = (letter: string) => `/nix/store/${letter.repeat(32)}-nixos-system`;
export const diskName = "/dev/disk/by-id/virtio-uc-worker-root";

/** A cluster of one class with `workers` nodes in one rollout, as a file would say it. */
export function clusterOf(workers: number, target = system("a")): ClusterStateInput {
  const nodes: ClusterStateInput["nodes"] = {
    control: { role: "control-plane", address: "10.77.0.11", member: 1, serial: "SN-control" },
  };
  for (let i = 1; i <= workers; i++) {
    nodes[`worker${i}`] = {
      role: "worker",
      address: `10.77.0.${20 + i}`,
      member: 10 + i,
      class: "worker",
      serial: `SN-${i}`,
    };
  }
  return {
    version: 1,
    clusterId: "test",
    profile: "bare-metal-bootstrap",
    network: { cidr: "10.77.0.0/24", operatorAddress: "10.77.0.1" },
    nodes,
    classes: {
      worker: {
        install_plan: {
          nixos_configuration: "worker",
          disko_config_path: "disko/worker.nix",
          target_disk_by_id: diskName,
          expected_disk_bytes_min: 2 * gib,
        },
        desired_system: { target_system: target },
      },
    },
    rollouts: { workers: { classes: ["worker"] } },
    deployer: {
      binaryCacheUrl: "http://127.0.0.1:8090",
      trustedKeys: [`cache-1:${"A".repeat(43)}=`],
    },
  };
}

export const factsOf = (serial: string, disk: Record<string, unknown> = {}) => ({
  serial,
  disks: [{ by_id: [diskName], serial: `D-${serial}`, bytes_count: 20 * gib, ...disk }],
});

/** What the deployer's own trust file says, and documents that anybody can read. */
const identities: IdentityDeps = {
  trust: { file: { clusterId: "test", principals: {} } },
  sign: (file) => Promise.resolve(JSON.stringify(file)),
};

const signer = { publicKey: "cHVibGlj", sign: (text: string) => Promise.resolve(btoa(`signed ${text}`)) };

/** The machine's clock, which a test may put forward. */
export class TestClock implements Clock {
  aheadMs = 0;
  nowMs = () => systemClock.nowMs() + this.aheadMs;
  monotonicMs = () => systemClock.monotonicMs() + this.aheadMs;
  sleep = (ms: number, signal?: AbortSignal) => systemClock.sleep(ms, signal);
}

/** One replica of the deployer over a store that others may share. */
export async function openWorld(o: {
  readonly kv?: KvBackend;
  readonly clock?: TestClock;
  readonly instance?: string;
  readonly lead?: boolean;
  readonly options?: Record<string, unknown>;
  readonly identities?: IdentityDeps;
} = {}) {
  const clock = o.clock ?? new TestClock();
  const kv = o.kv ?? memoryBackend({ clock });
  const platform = openPlatform({ service: "deployer" }, { kv, clock, rng: seededRng(7), log: noopLogger });
  const instance = o.instance ?? "0";
  const deployer = createDeployer({
    instance,
    advertiseUrl: `http://${instance}`,
    bootstrapUrl: `http://${instance}-bootstrap`,
    allow_unauthenticated: false,
    pendingMax: 4,
    pendingTtlMs: 60_000,
    unreachableMs: 120_000,
    reconcileMs: 10,
    version: "test",
    ...o.options,
  }, { platform, bundleSigner: signer, identities: o.identities ?? identities });
  const stack = new AsyncDisposableStack();
  const server = stack.use(await serveLocally("deployer", deployer.services));
  const leading = new AbortController();
  let led: Promise<void> | undefined;
  const lead = async () => {
    led = deployer.lead(leading.signal);
    led.catch(() => {});
    await until(async () => (await clients.deployer.getStatus({})).writing);
  };
  const clients = {
    deployer: server.client(DeployerService),
    nodes: server.client(NodeService),
    rollouts: server.client(RolloutService),
    agents: server.client(AgentService),
    trust: server.client(TrustService),
  };
  const call = async (
    path: string,
    o: { token?: string; body?: unknown; method?: string; headers?: Record<string, string> } = {},
  ) => {
    const response = await deployer.api.answer(
      new Request(`http://deployer${path}`, {
        method: o.method ?? (o.body === undefined ? "GET" : "POST"),
        headers: { ...o.headers, ...(o.token === undefined ? {} : { authorization: `Bearer ${o.token}` }) },
        ...(o.body === undefined ? {} : { body: typeof o.body === "string" ? o.body : JSON.stringify(o.body) }),
      }),
      "192.0.2.1",
    );
    const text = await response.text();
    // deno-lint-ignore no-explicit-any -- each test knows what it asked for
    return { status: response.status, body: (text.startsWith("{") ? JSON.parse(text) : text) as any };
  };
  const world = {
    ...clients,
    clock,
    kv,
    replica: deployer,
    server,
    lead,
    call,
    phoneHome: (serial: string, token?: string, more: Record<string, unknown> = {}, disk = {}) =>
      call("/api/v1/phone-home", { body: { facts: factsOf(serial, disk), ...more }, ...(token ? { token } : {}) }),
    apply: (state: ClusterStateInput, dryRun = false) =>
      clients.deployer.applyClusterState({ stateJson: JSON.stringify(state), dryRun }),
    async fetchBytes(path: string, token: string, node: string) {
      const headers = { authorization: `Bearer ${token}`, "x-ultracloud-node": node };
      const response = await deployer.api.answer(new Request(`http://deployer${path}`, { headers }), "192.0.2.1");
      return await response.bytes();
    },
    report: (node: string, state: SystemState, intentId: string, reason = "") =>
      clients.agents.reportObserved({ node, observed: { state, intentId, reason, currentSystem: system("0") } }),
    stopLeading: async () => {
      leading.abort();
      await led?.catch(() => {});
    },
    async [Symbol.asyncDispose]() {
      await world.stopLeading();
      await stack.disposeAsync();
    },
  };
  if (o.lead !== false) await lead();
  return world;
}

/** Waits for a condition, for the time that a busy machine needs. */
export async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 20_000; !(await holds());) {
    if (performance.now() > end) throw new Error("Waited too long");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
