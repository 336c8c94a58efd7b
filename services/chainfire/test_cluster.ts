import { createWorkloadSigner, generateIdentity, type Grant, standardGrants, svcId } from "@ultracloud/authz";
import { type Placement, systemClock } from "@ultracloud/base";
import {
  componentEnv,
  type ComponentProcess,
  freePort,
  loadFleet,
  sourceDeno,
  spawnComponent,
  spawnDetached,
  waitReady,
} from "@ultracloud/launch";
import {
  ClusterService,
  ElectionService,
  KvService,
  LeaseService,
  LockService,
  MaintenanceService,
  QuotaService,
  SessionService,
  WatchService,
} from "@ultracloud/proto/chainfire/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { workspaceRoot } from "@ultracloud/testing";
import { stringify } from "smol-toml";
import { FaultProxy } from "./test_fault_proxy.ts";

const clusterId = "test";

/** How a member is reached, as configuration and MemberAdd say it. */
export interface TestAddress {
  readonly name: string;
  readonly peerUrl: string;
  readonly clientUrl: string;
}

interface Place {
  /** Member there; 0 for a place that nobody has taken. */
  id: number;
  readonly address: TestAddress;
  readonly url: string;
  readonly placement: Placement;
  process: ComponentProcess | undefined;
}

/** Members as real processes under their pinned permissions, in a directory of their own. For tests. */
export class TestCluster implements AsyncDisposable {
  readonly #dir: string;
  readonly #places: readonly Place[];
  readonly #authorizations: Readonly<Record<string, () => Promise<string>>>;
  readonly #configure: (place: Place, more: Readonly<Record<string, unknown>>) => Promise<void>;
  readonly #entry: string | undefined;
  readonly #unpinned: boolean;
  readonly #clients = new DisposableStack();
  /** By member; the others reach it through its proxy. */
  readonly proxies: ReadonlyMap<number, FaultProxy>;

  constructor(
    dir: string,
    places: readonly Place[],
    deps: {
      readonly authorizations: Readonly<Record<string, () => Promise<string>>>;
      readonly configure: (place: Place, more: Readonly<Record<string, unknown>>) => Promise<void>;
      readonly proxies: ReadonlyMap<number, FaultProxy>;
      readonly entry?: string | undefined;
      readonly unpinned?: boolean | undefined;
    },
  ) {
    this.proxies = deps.proxies;
    this.#dir = dir;
    this.#places = places;
    this.#authorizations = deps.authorizations;
    this.#configure = deps.configure;
    this.#entry = deps.entry;
    this.#unpinned = deps.unpinned ?? false;
  }

  /** The address of the first place that nobody has taken. */
  spare(): TestAddress {
    return this.#places.find(({ id }) => id === 0)!.address;
  }

  /** Starts a member that was added to the others, at the place of its address. */
  async join(id: number, members: readonly ({ readonly id: number } & TestAddress)[]): Promise<void> {
    const { peerUrl } = members.find((member) => member.id === id)!;
    const place = this.#places.find(({ address }) => address.peerUrl === peerUrl)!;
    place.id = id;
    await this.#configure(place, { members, join: true });
    await this.start(id);
  }

  /** Ids of the members that run. */
  running(): number[] {
    return this.#places.filter((place) => place.process).map(({ id }) => id);
  }

  /** Where a member keeps its state, for tests that look at it or damage it while it does not run. */
  stateDir(id: number): string {
    return this.#place(id).placement.stateDir;
  }

  #place(id: number): Place {
    return this.#places.find((place) => place.id === id)!;
  }

  async start(id: number): Promise<void> {
    const place = this.#place(id);
    const { manifest, dir } = (await loadFleet(workspaceRoot)).get("chainfire")!;
    const entry = `${dir}/${this.#entry ?? manifest.entry}`;
    const logFile = `${this.#dir}/${id}.log`;
    place.process = this.#unpinned
      ? spawnDetached({
        name: manifest.name,
        command: [...sourceDeno(workspaceRoot), "-A", entry, "--config", `${place.placement.configDir}/config.toml`],
        logFile,
        env: componentEnv(),
      })
      : spawnComponent({
        manifest,
        placement: place.placement,
        program: { kind: "source", root: workspaceRoot, entry },
        logFile,
      });
    await waitReady(place.url, { name: `member ${id}`, timeoutMs: 60_000, process: place.process });
  }

  async startAll(): Promise<void> {
    await Promise.all(this.#places.filter(({ id }) => id !== 0).map(({ id }) => this.start(id)));
  }

  async kill(id: number): Promise<void> {
    const place = this.#place(id);
    await place.process!.kill();
    place.process = undefined;
  }

  /** SIGSTOP and SIGCONT: a process that stands still. */
  signal(id: number, signal: "SIGSTOP" | "SIGCONT"): void {
    this.#place(id).process?.signal(signal);
  }

  isRunning(id: number): boolean {
    return this.#place(id).process !== undefined;
  }

  async stop(id: number): Promise<void> {
    const place = this.#place(id);
    await place.process!.stop();
    place.process = undefined;
  }

  /** Process id of a running member. */
  pid(id: number): number {
    return this.#place(id).process!.identity.pid;
  }

  /** Where a member answers and what its callers show, for programs that are no clients. */
  async address(id: number, principal = "operator"): Promise<{ readonly url: string; readonly authorization: string }> {
    return { url: this.#place(id).url, authorization: await this.#authorizations[principal]!() };
  }

  /** Clients of some members, or of all: those follow the leader. */
  clients(...ids: readonly number[]) {
    return this.clientsOf("operator", ...ids);
  }

  /** The same for one of the other principals. */
  clientsOf(principal: string, ...ids: readonly number[]) {
    const endpoints = this.#places.filter(({ id }) => ids.length === 0 ? id !== 0 : ids.includes(id))
      .map(({ url }) => url);
    const at = { endpoints, authorization: this.#authorizations[principal]!, timeoutMs: 10_000 };
    const use = this.#clients;
    return {
      kv: use.use(createRpcClient(KvService, at)),
      locks: use.use(createRpcClient(LockService, at)),
      elections: use.use(createRpcClient(ElectionService, at)),
      maintenance: use.use(createRpcClient(MaintenanceService, at)),
      quotas: use.use(createRpcClient(QuotaService, at)),
      sessions: use.use(createRpcClient(SessionService, at)),
      leases: use.use(createRpcClient(LeaseService, at)),
      watches: use.use(createRpcClient(WatchService, at)),
      cluster: use.use(createRpcClient(ClusterService, { ...at, retries: 0 })),
    };
  }

  /** The leader as the running members see it, once all agree. */
  async leader(timeoutMs = 10_000): Promise<number> {
    const running = this.#places.filter((place) => place.process).map(({ id }) => this.clients(id).cluster);
    const end = performance.now() + timeoutMs;
    for (;;) {
      const seen = await Promise.all(
        running.map((cluster) => cluster.status({}).then((s) => Number(s.leader), () => 0)),
      );
      if (seen[0] !== 0 && new Set(seen).size === 1) return seen[0]!;
      if (performance.now() > end) throw new Error(`No leader in ${timeoutMs} ms: members see ${seen}`);
      await systemClock.sleep(20);
    }
  }

  async log(id: number): Promise<string> {
    return await Deno.readTextFile(`${this.#dir}/${id}.log`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#clients.dispose();
    await Promise.all(this.#places.map((place) => place.process?.kill()));
    await Promise.all(this.proxies.values().map((proxy) => proxy[Symbol.asyncDispose]()));
    await Deno.remove(this.#dir, { recursive: true });
  }
}

/** Prepares a cluster of `size` members, and places for `spares` more to come; nothing runs yet. */
export async function prepareCluster(
  size: number,
  overrides: Readonly<Record<string, unknown>> = {},
  { proxied = false, spares = 0, grants = {}, entry, unpinned }: {
    readonly proxied?: boolean;
    readonly spares?: number;
    /** Principals beside the operator, with what they are granted. */
    readonly grants?: Readonly<Record<string, readonly Grant[]>>;
    /** In the place of the component's own. */
    readonly entry?: string;
    /** Under all permissions: what looks into the runtime itself cannot be granted alone. */
    readonly unpinned?: boolean;
  } = {},
): Promise<TestCluster> {
  const dir = await Deno.makeTempDir({ prefix: "chainfire-" });
  const granted = { chainfire: standardGrants("chainfire"), operator: standardGrants("operator"), ...grants };
  const identities: Record<string, Awaited<ReturnType<typeof generateIdentity>>> = {};
  for (const name of Object.keys(granted)) identities[name] = await generateIdentity();
  const principals = Object.fromEntries(
    Object.entries(granted).map(([name, grants]) => [
      svcId(clusterId, name),
      { publicKey: identities[name]!.publicKey, grants },
    ]),
  );
  const trustFile = `${dir}/trust.json`;
  await Deno.writeTextFile(trustFile, JSON.stringify({ clusterId, principals }));
  const ports = Array.from({ length: size + spares }, () => ({ rpc: freePort(), peer: freePort() }));
  const proxies = new Map(proxied ? ports.map(({ peer }, i) => [i + 1, new FaultProxy(peer)]) : []);
  const reachedAt = ports.map(({ peer }, i) => `127.0.0.1:${proxies.get(i + 1)?.port ?? peer}`);
  const addresses = ports.map(({ rpc }, i) => ({
    name: `m${i + 1}`,
    peerUrl: `http://${reachedAt[i]}`,
    clientUrl: `http://127.0.0.1:${rpc}`,
  }));
  const members = addresses.slice(0, size).map((address, i) => ({ id: i + 1, ...address }));
  const configure = async ({ id, placement }: Place, more: Readonly<Record<string, unknown>>) => {
    const { configDir, stateDir, runDir, listen } = placement;
    const config = {
      clusterId,
      instance: String(id),
      memberId: id,
      rpc: { listen: listen.rpc },
      stateDir,
      runDir,
      identityKeyFile: `${configDir}/identity.key`,
      trustFile,
      ...(size + spares > 1 ? { peer: { listen: listen.peer } } : {}),
      ...more,
      ...overrides,
    };
    await Deno.writeTextFile(`${configDir}/config.toml`, stringify(config));
  };
  const places = await Promise.all(ports.map(async ({ rpc, peer }, i): Promise<Place> => {
    const placement: Placement = {
      configDir: `${dir}/${i + 1}/etc`,
      stateDir: `${dir}/${i + 1}/state`,
      runDir: `${dir}/${i + 1}/run`,
      trustFile,
      listen: { rpc: `127.0.0.1:${rpc}`, peer: `127.0.0.1:${peer}` },
      callees: { "chainfire.peer": reachedAt },
    };
    const { configDir, stateDir, runDir } = placement;
    for (const made of [configDir, stateDir, runDir]) await Deno.mkdir(made, { recursive: true });
    const identityKeyFile = `${configDir}/identity.key`;
    await Deno.writeTextFile(identityKeyFile, JSON.stringify(identities.chainfire!.privateKey), { mode: 0o600 });
    const address = addresses[i]!;
    const place: Place = {
      id: i < size ? i + 1 : 0,
      address,
      url: address.clientUrl,
      placement,
      process: undefined,
    };
    if (i < size) await configure(place, size > 1 ? { members } : {});
    return place;
  }));
  const authorizations: Record<string, () => Promise<string>> = {};
  for (const name of Object.keys(granted)) {
    const keyFile = `${dir}/${name}.key`;
    await Deno.writeTextFile(keyFile, JSON.stringify(identities[name]!.privateKey), { mode: 0o600 });
    const signer = await createWorkloadSigner({ clusterId, name, keyFile }, { clock: systemClock });
    authorizations[name] = signer.authorization("chainfire");
  }
  return new TestCluster(dir, places, { authorizations, configure, proxies, entry, unpinned });
}
