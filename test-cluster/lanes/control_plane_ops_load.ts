import { createWorkloadSigner } from "@ultracloud/authz";
import { Fault, systemClock, utf8 } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import { Consistency, KvService as CoordinationService } from "@ultracloud/proto/chainfire/v1";
import { KvService, Level } from "@ultracloud/proto/flaredb/v1";
import { DeployerService } from "@ultracloud/proto/deployer/v1";
import { FleetNodeService } from "@ultracloud/proto/fleetscheduler/v1";
import { Health } from "@ultracloud/proto/grpc/health/v1";
import { ProjectService, TokenService } from "@ultracloud/proto/iam/v1";
import { NodeAgentService } from "@ultracloud/proto/nodeagent/v1";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { decodeJwt, decodeProtectedHeader } from "jose";
import type { Cluster } from "../harness/cluster.ts";
import { operatorDir, operatorName } from "../harness/keys.ts";
import { laneDatabase } from "../harness/stores.ts";

/** A pause between two calls of one client: it is the change that is tried here, not the throughput. */
const pauseMs = 25;
/** Nothing takes this long unless it hangs. */
const callTimeoutMs = 60_000;
/** Of the operator's writes: a store without a leader for a moment is no failed call. */
const writeRetries = 50;

/** An API key as a program holds it. */
export interface HeldKey {
  readonly id: string;
  readonly secret: string;
}

export interface LoadFailure {
  readonly at: string;
  readonly target: string;
  readonly code: string;
  readonly message: string;
}

/** Certificate, key and authorities of the operator. */
export function operatorTls(cluster: Cluster): TlsFiles {
  const dir = operatorDir(cluster.home.stateDir);
  return { certFile: `${dir}/tls.crt`, keyFile: `${dir}/tls.key`, caFile: `${dir}/tls-ca.crt` };
}

/** Every component that runs, with the node it runs on. */
export function everyProcess(cluster: Cluster, agents: readonly string[]): { node: string; component: string }[] {
  const own = cluster.nodes.flatMap((node) => cluster.componentsOf(node).map((component) => ({ node, component })));
  return [...own, ...agents.map((node) => ({ node, component: "mtls-agent" }))];
}

/**
 * Authenticated calls to every process of the cluster over mutual TLS, without a second try, until it is stopped: as
 * the operator at the stores and the agents, as a program with an API key at the others.
 */
export class ServiceLoad {
  readonly failures: LoadFailure[] = [];
  /** Calls that were answered, by target. */
  readonly answered: Record<string, number> = {};
  /** Keys that the program's tokens were signed with. */
  readonly kids = new Set<string>();
  /** What must stand in no log: keys and tokens. */
  readonly secrets: string[] = [];
  readonly #closing = new DisposableStack();
  readonly #targets: [name: string, call: () => Promise<unknown>][] = [];
  readonly #anyone;
  readonly #stop = new AbortController();
  #key: HeldKey = { id: "", secret: "" };
  #held: { readonly token: string; readonly renewAtMs: number } | undefined;
  #renewing: Promise<string> | undefined;
  #running: Promise<void>[] = [];

  private constructor(cluster: Cluster) {
    const endpoints = cluster.nodesWith("iam").map((node) => cluster.endpoint(node, "iam"));
    this.#anyone = this.#closing.use(createRpcClient(TokenService, { endpoints, tls: operatorTls(cluster) }));
  }

  static async open(
    cluster: Cluster,
    o: { readonly project: string; readonly agents: readonly string[] },
  ): Promise<ServiceLoad> {
    const load = new ServiceLoad(cluster);
    const signer = await createWorkloadSigner({
      clusterId: cluster.file.clusterId,
      name: operatorName,
      keyFile: `${operatorDir(cluster.home.stateDir)}/identity.key`,
    }, { clock: systemClock });
    const tls = operatorTls(cluster);
    for (const { node, component } of everyProcess(cluster, o.agents)) {
      const person = ["iam", "prismnet", "plasmavmc"].includes(component);
      const authorization = person ? () => load.#bearer() : signer.authorization(component);
      const at = {
        endpoints: [cluster.endpoint(node, component)],
        tls,
        retries: 0,
        timeoutMs: callTimeoutMs,
        authorization,
      };
      load.#targets.push([`${component} ${node}`, load.#call(component, at, o.project)]);
    }
    for (const store of ["chainfire", "flaredb"]) {
      const at = {
        endpoints: cluster.nodesWith(store).map((node) => cluster.endpoint(node, store)),
        tls,
        retries: writeRetries,
        timeoutMs: callTimeoutMs,
        authorization: signer.authorization(store),
      };
      load.#targets.push([`${store} writes`, load.#write(store, at)]);
    }
    return load;
  }

  #call(component: string, at: Parameters<typeof createRpcClient>[1], project: string): () => Promise<unknown> {
    const use = this.#closing;
    switch (component) {
      case "chainfire": {
        const kv = use.use(createRpcClient(CoordinationService, at));
        return () => kv.range({ key: utf8.encode("/lane/ops"), consistency: Consistency.SERIALIZABLE });
      }
      case "flaredb": {
        const kv = use.use(createRpcClient(KvService, at));
        const read = { level: Level.STALE, maxAgeMs: BigInt(callTimeoutMs) };
        return () => kv.get({ database: laneDatabase, bucket: "lane", key: "ops", read });
      }
      case "iam": {
        const projects = use.use(createRpcClient(ProjectService, at));
        return () => projects.getProject({ project });
      }
      case "prismnet": {
        const vpcs = use.use(createRpcClient(VpcService, at));
        return () => vpcs.listVpcs({ project });
      }
      case "plasmavmc": {
        const vms = use.use(createRpcClient(VmService, at));
        return () => vms.listVms({ project });
      }
      case "vm-agent": {
        const vms = use.use(createRpcClient(VmAgentService, at));
        return () => vms.listVms({});
      }
      case "deployer": {
        const deployer = use.use(createRpcClient(DeployerService, at));
        return () => deployer.getStatus({});
      }
      case "fleet-scheduler": {
        const nodes = use.use(createRpcClient(FleetNodeService, at));
        return () => nodes.listNodes({});
      }
      case "node-agent": {
        const instances = use.use(createRpcClient(NodeAgentService, at));
        return () => instances.listInstances({});
      }
      default: {
        // It serves nothing of its own; the token is checked all the same.
        const health = use.use(createRpcClient(Health, at));
        return () => health.check({});
      }
    }
  }

  #write(store: string, at: Parameters<typeof createRpcClient>[1]): () => Promise<unknown> {
    let n = 0;
    const headers = () => ({ headers: { "idempotency-key": `ops-${crypto.randomUUID()}` } });
    if (store === "chainfire") {
      const kv = this.#closing.use(createRpcClient(CoordinationService, at));
      return () => kv.put({ key: utf8.encode("/lane/ops"), value: utf8.encode(String(n++)) }, headers());
    }
    const kv = this.#closing.use(createRpcClient(KvService, at));
    const place = { database: laneDatabase, bucket: "lane", key: "ops" };
    return () => kv.put({ ...place, value: utf8.encode(String(n++)) }, headers());
  }

  /** A program's token as any library keeps it: renewed when two thirds of its life are over. */
  async #bearer(): Promise<string> {
    const token = this.#held && Date.now() < this.#held.renewAtMs
      ? this.#held.token
      : await (this.#renewing ??= this.#renew().finally(() => this.#renewing = undefined));
    return `Bearer ${token}`;
  }

  async #renew(): Promise<string> {
    const { accessToken } = await this.exchange(this.#key);
    this.secrets.push(accessToken);
    this.kids.add(decodeProtectedHeader(accessToken).kid!);
    const { iat, exp } = decodeJwt(accessToken);
    this.#held = { token: accessToken, renewAtMs: (iat! + (exp! - iat!) * 2 / 3) * 1_000 };
    return accessToken;
  }

  /** The program's present token. */
  async token(): Promise<string> {
    return (await this.#bearer()).slice("Bearer ".length);
  }

  exchange({ id, secret }: HeldKey) {
    return this.#anyone.exchangeApiKey({ keyId: id, secret });
  }

  /** The program uses another key from now on, as after a change of its configuration. */
  useKey(key: HeldKey): void {
    this.#key = key;
    this.secrets.push(key.secret);
    this.#held = undefined;
  }

  get targets(): string[] {
    return this.#targets.map(([name]) => name);
  }

  /** One call of each target; names those that fail. */
  async tryAll(): Promise<string[]> {
    const outcomes = await Promise.all(
      this.#targets.map(([name, call]) => call().then(() => "", (error) => `${name}: ${error.message}`)),
    );
    return outcomes.filter((outcome) => outcome !== "");
  }

  start(): void {
    this.#running = this.#targets.map(async ([target, call]) => {
      while (!this.#stop.signal.aborted) {
        try {
          await call();
          this.answered[target] = (this.answered[target] ?? 0) + 1;
        } catch (error) {
          const code = error instanceof Fault ? `${error.kind}/${error.code}` : "";
          const message = error instanceof Error ? error.message : String(error);
          this.failures.push({ at: new Date().toISOString(), target, code, message });
        }
        await systemClock.sleep(pauseMs, this.#stop.signal).catch(() => {});
      }
    });
  }

  get total(): number {
    return Object.values(this.answered).reduce((sum, count) => sum + count, 0);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#running);
  }

  [Symbol.dispose](): void {
    this.#closing.dispose();
  }
}
