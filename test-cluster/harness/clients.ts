import type { DescService } from "@bufbuild/protobuf";
import { createWorkloadSigner, type WorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import type { ClusterFile } from "@ultracloud/launch";
import { TokenService } from "@ultracloud/proto/iam/v1";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";
import { iamSecrets, operatorDir, operatorName } from "./keys.ts";
import { patient } from "./wait.ts";

/** Components whose callers are workloads alone. */
const workloadsOnly: ReadonlySet<string> = new Set(["chainfire", "flaredb", "vm-agent", "node-agent", "nix-agent"]);
/** A token is renewed when this little of its life is left. */
const renewBeforeMs = 60_000;

export interface ClientOptions {
  /** One node alone; by default every node that runs the component. */
  readonly node?: string | undefined;
  readonly timeoutMs?: number;
  readonly retries?: number;
}

/** Clients of a cluster's components, as its operator at the stores and as its first administrator elsewhere. */
export class Clients implements Disposable {
  readonly #cluster: ClusterFile;
  readonly #endpoint: (node: string, component: string) => string;
  readonly #nodes: (component: string) => string[];
  readonly #dir: string;
  readonly #made = new Map<string, Disposable>();
  #signer: Promise<WorkloadSigner> | undefined;
  #token: { readonly header: string; readonly endMs: number } | undefined;
  #http: Deno.HttpClient | undefined;

  constructor(
    cluster: ClusterFile,
    stateDir: string,
    places: { endpoint: (node: string, component: string) => string; nodes: (component: string) => string[] },
  ) {
    this.#cluster = cluster;
    this.#endpoint = places.endpoint;
    this.#nodes = places.nodes;
    this.#dir = operatorDir(stateDir);
  }

  get #tls() {
    return { certFile: `${this.#dir}/tls.crt`, keyFile: `${this.#dir}/tls.key`, caFile: `${this.#dir}/tls-ca.crt` };
  }

  /** For plain HTTP beside RPC: `fetch(url, { client: clients.http })`. */
  get http(): Deno.HttpClient {
    const { certFile, keyFile, caFile } = this.#tls;
    const text = (path: string) => Deno.readTextFileSync(path);
    return this.#http ??= Deno.createHttpClient({
      cert: text(certFile),
      key: text(keyFile),
      caCerts: [text(caFile)],
      http2: false,
    });
  }

  /** A client that is kept: asking again gives the same one. */
  of<S extends DescService>(service: S, component: string, options: ClientOptions = {}): RpcClient<S> {
    const key = JSON.stringify([service.typeName, component, options]);
    const held = this.#made.get(key);
    if (held) return held as RpcClient<S>;
    const nodes = options.node === undefined ? this.#nodes(component) : [options.node];
    const client = createRpcClient(service, {
      endpoints: nodes.map((node) => this.#endpoint(node, component)),
      tls: this.#tls,
      timeoutMs: patient(options.timeoutMs ?? 10_000),
      ...(options.retries === undefined ? {} : { retries: options.retries }),
      authorization: () => workloadsOnly.has(component) ? this.#workload(component) : this.#administrator(),
    });
    this.#made.set(key, client);
    return client;
  }

  async #workload(component: string): Promise<string> {
    this.#signer ??= createWorkloadSigner({
      clusterId: this.#cluster.clusterId,
      name: operatorName,
      keyFile: `${this.#dir}/identity.key`,
    }, { clock: systemClock });
    return await (await this.#signer).authorization(component)();
  }

  async #administrator(): Promise<string> {
    if (this.#token && this.#token.endMs > performance.now()) return this.#token.header;
    const adminToken = (await Deno.readTextFile(`${this.#dir}/${iamSecrets.adminTokenFile}`)).trim();
    const endpoints = this.#nodes("iam").map((node) => this.#endpoint(node, "iam"));
    using iam = createRpcClient(TokenService, { endpoints, tls: this.#tls, timeoutMs: patient(10_000) });
    const { accessToken, expiresInMs } = await iam.bootstrapToken({ adminToken });
    this.#token = {
      header: `Bearer ${accessToken}`,
      endMs: performance.now() + Number(expiresInMs) - renewBeforeMs,
    };
    return this.#token.header;
  }

  [Symbol.dispose](): void {
    for (const client of this.#made.values()) client[Symbol.dispose]();
    this.#made.clear();
    this.#http?.close();
    this.#http = undefined;
    // Whoever goes on after this logs in again: an iam that began anew knows no token of before.
    this.#token = undefined;
  }
}
