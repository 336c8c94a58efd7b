import { createWorkloadSigner, generateIdentity, standardGrants, svcId } from "@ultracloud/authz";
import { type Placement, systemClock } from "@ultracloud/base";
import { type ComponentProcess, freePort, loadFleet, spawnComponent, waitReady } from "@ultracloud/launch";
import {
  ClusterService,
  ElectionService,
  KvService,
  LeaseService,
  LockService,
  SessionService,
  WatchService,
} from "@ultracloud/proto/chainfire/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { workspaceRoot } from "@ultracloud/testing";
import { stringify } from "smol-toml";
import { FaultProxy } from "./test_fault_proxy.ts";

const clusterId = "test";

interface Place {
  readonly id: number;
  readonly url: string;
  readonly placement: Placement;
  process: ComponentProcess | undefined;
}

/** Members as real processes under their pinned permissions, in a directory of their own. For tests. */
export class TestCluster implements AsyncDisposable {
  readonly #dir: string;
  readonly #places: readonly Place[];
  readonly #authorization: () => Promise<string>;
  readonly #clients = new DisposableStack();
  /** By member; the others reach it through its proxy. */
  readonly proxies: ReadonlyMap<number, FaultProxy>;

  constructor(
    dir: string,
    places: readonly Place[],
    authorization: () => Promise<string>,
    proxies: ReadonlyMap<number, FaultProxy>,
  ) {
    this.proxies = proxies;
    this.#dir = dir;
    this.#places = places;
    this.#authorization = authorization;
  }

  #place(id: number): Place {
    return this.#places.find((place) => place.id === id)!;
  }

  async start(id: number): Promise<void> {
    const place = this.#place(id);
    const { manifest, dir } = (await loadFleet(workspaceRoot)).get("chainfire")!;
    place.process = spawnComponent({
      manifest,
      placement: place.placement,
      program: { kind: "source", root: workspaceRoot, entry: `${dir}/${manifest.entry}` },
      logFile: `${this.#dir}/${id}.log`,
    });
    await waitReady(place.url, { name: `member ${id}`, timeoutMs: 60_000, process: place.process });
  }

  async startAll(): Promise<void> {
    await Promise.all(this.#places.map(({ id }) => this.start(id)));
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
  async address(id: number): Promise<{ readonly url: string; readonly authorization: string }> {
    return { url: this.#place(id).url, authorization: await this.#authorization() };
  }

  /** Clients of one member, or of all: those follow the leader. */
  clients(id?: number) {
    const endpoints = this.#places.filter((place) => id === undefined || place.id === id).map(({ url }) => url);
    const at = { endpoints, authorization: this.#authorization, timeoutMs: 10_000 };
    const use = this.#clients;
    return {
      kv: use.use(createRpcClient(KvService, at)),
      locks: use.use(createRpcClient(LockService, at)),
      elections: use.use(createRpcClient(ElectionService, at)),
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

/** Prepares a cluster of `size` members; nothing runs yet. */
export async function prepareCluster(
  size: number,
  overrides: Readonly<Record<string, unknown>> = {},
  options: { readonly proxied?: boolean } = {},
): Promise<TestCluster> {
  const dir = await Deno.makeTempDir({ prefix: "chainfire-" });
  const identities = { chainfire: await generateIdentity(), operator: await generateIdentity() };
  const principals = Object.fromEntries(
    Object.entries(identities).map(([name, { publicKey }]) => [
      svcId(clusterId, name),
      { publicKey, grants: standardGrants(name) },
    ]),
  );
  const trustFile = `${dir}/trust.json`;
  await Deno.writeTextFile(trustFile, JSON.stringify({ clusterId, principals }));
  const ports = Array.from({ length: size }, () => ({ rpc: freePort(), peer: freePort() }));
  const proxies = new Map(options.proxied ? ports.map(({ peer }, i) => [i + 1, new FaultProxy(peer)]) : []);
  const reachedAt = ports.map(({ peer }, i) => `127.0.0.1:${proxies.get(i + 1)?.port ?? peer}`);
  const members = ports.map(({ rpc }, i) => ({
    id: i + 1,
    name: `m${i + 1}`,
    peerUrl: `http://${reachedAt[i]}`,
    clientUrl: `http://127.0.0.1:${rpc}`,
  }));
  const places = await Promise.all(ports.map(async ({ rpc, peer }, i): Promise<Place> => {
    const id = i + 1;
    const placement: Placement = {
      configDir: `${dir}/${id}/etc`,
      stateDir: `${dir}/${id}/state`,
      runDir: `${dir}/${id}/run`,
      trustFile,
      listen: { rpc: `127.0.0.1:${rpc}`, peer: `127.0.0.1:${peer}` },
      callees: { "chainfire.peer": reachedAt },
    };
    const { configDir, stateDir, runDir } = placement;
    for (const made of [configDir, stateDir, runDir]) await Deno.mkdir(made, { recursive: true });
    const identityKeyFile = `${configDir}/identity.key`;
    await Deno.writeTextFile(identityKeyFile, JSON.stringify(identities.chainfire.privateKey), { mode: 0o600 });
    const config = {
      clusterId,
      instance: String(id),
      memberId: id,
      rpc: { listen: placement.listen.rpc },
      stateDir,
      runDir,
      identityKeyFile,
      trustFile,
      ...(size > 1 ? { members, peer: { listen: placement.listen.peer } } : {}),
      ...overrides,
    };
    await Deno.writeTextFile(`${configDir}/config.toml`, stringify(config));
    return { id, url: `http://127.0.0.1:${rpc}`, placement, process: undefined };
  }));
  const keyFile = `${dir}/operator.key`;
  await Deno.writeTextFile(keyFile, JSON.stringify(identities.operator.privateKey), { mode: 0o600 });
  const signer = await createWorkloadSigner({ clusterId, name: "operator", keyFile }, { clock: systemClock });
  return new TestCluster(dir, places, signer.authorization("chainfire"), proxies);
}
