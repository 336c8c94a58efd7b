import type { DescService } from "@bufbuild/protobuf";
import { createWorkloadSigner } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import {
  componentEnv,
  type ComponentProcess,
  endProcesses,
  findByCommandLine,
  freePort,
  loadFleet,
  prepareStack,
  sourceDeno,
  spawnComponent,
  spawnDetached,
  type Stack,
  waitReady,
} from "@ultracloud/launch";
import { OperationService, OperationState } from "@ultracloud/proto/common/v1";
import type { Operation } from "@ultracloud/proto/common/v1";
import * as compute from "@ultracloud/proto/plasmavmc/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { stringify } from "smol-toml";
import { grantAll, guestHttpPort, importTiny, makeNetwork, project } from "./tenant.ts";
import { until } from "./until.ts";
import { type WorkerNetwork, Workers } from "./workers.ts";

export { project, vmRequest } from "./tenant.ts";
export { until } from "./until.ts";

/** A whole control plane and several workers on one machine, each a process of its own under its own permissions. */

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const clusterId = "test";
const readyMs = 120_000;
const services = ["chainfire", "flaredb", "iam", "prismnet"] as const;

export interface ComputeOptions {
  readonly workers: readonly string[];
  /** How long a worker's lease lasts without heartbeat. */
  readonly leaseTtlMs?: number;
  readonly workerConfig?: Readonly<Record<string, unknown>>;
  readonly planeConfig?: Readonly<Record<string, unknown>>;
  /** Components beside those of a cloud of VMs; prepared, and started by whoever wants them. */
  readonly also?: readonly string[];
  /** Without it guests have user networking. */
  readonly network?: WorkerNetwork;
  /** plasmavmc runs without its permission flags under V8's profiler, see `_profiled_plane_main.ts`; where it writes. */
  readonly profileDir?: string;
}

export class ComputeCloud implements AsyncDisposable {
  readonly stack: Stack;
  readonly dir: string;
  readonly workers: Workers;
  readonly #cleanup = new AsyncDisposableStack();
  readonly #profileDir: string | undefined;
  readonly #network: WorkerNetwork | undefined;
  #plane: ComponentProcess | undefined;
  readonly #signer: Awaited<ReturnType<typeof createWorkloadSigner>>;
  readonly vms;
  readonly volumes;
  readonly snapshots;
  readonly nodes;
  readonly maintenance;
  readonly placement;
  readonly groups;
  readonly images;
  readonly operations;

  private constructor(
    stack: Stack,
    dir: string,
    signer: Awaited<ReturnType<typeof createWorkloadSigner>>,
    o: ComputeOptions,
  ) {
    this.stack = stack;
    this.dir = dir;
    this.#profileDir = o.profileDir;
    this.#network = o.network;
    this.#signer = signer;
    const config = o.workerConfig ?? {};
    const authorization = signer.authorization("vm-agent");
    this.workers = this.#cleanup.use(
      new Workers({ root, dir, clusterId, config }, { stack, network: o.network, authorization }),
    );
    const at = {
      endpoints: [stack.endpoint("plasmavmc")],
      authorization: signer.authorization("plasmavmc"),
      retries: 0,
    };
    const use = <T extends Disposable>(client: T): T => this.#cleanup.use(client);
    this.vms = use(createRpcClient(compute.VmService, at));
    this.volumes = use(createRpcClient(compute.VolumeService, at));
    this.snapshots = use(createRpcClient(compute.SnapshotService, at));
    this.nodes = use(createRpcClient(compute.NodeService, at));
    this.maintenance = use(createRpcClient(compute.NodeMaintenanceService, at));
    this.placement = use(createRpcClient(compute.PlacementService, at));
    this.groups = use(createRpcClient(compute.PlacementGroupService, at));
    this.images = use(createRpcClient(compute.ImageService, at));
    this.operations = use(createRpcClient(OperationService, at));
  }

  static async open(o: ComputeOptions): Promise<ComputeCloud> {
    const dir = await Deno.makeTempDir({ prefix: "ucp" });
    const ports: Record<string, number> = {};
    for (const [name, { manifest }] of await loadFleet(root)) {
      for (const listener of Object.keys(manifest.listen)) ports[`${name}.${listener}`] = freePort();
    }
    const stack = await prepareStack({
      root,
      dataDir: dir,
      components: [...services, "plasmavmc", "vm-agent", ...(o.network ? ["net-agent"] : []), ...(o.also ?? [])],
      ...(o.network ? { overrides: o.network.overrides } : {}),
      ports,
      clusterId,
    });
    // QEMUs are users of their own: they have to get through to what is theirs.
    for (const path of [dir, `${dir}/state`, stack.runDir]) await Deno.chmod(path, 0o711);
    await grantAll(`${dir}/etc/trust.json`);
    const signer = await createWorkloadSigner(
      { clusterId, name: "operator", keyFile: stack.operatorKeyFile },
      { clock: systemClock },
    );
    const cloud = new ComputeCloud(stack, dir, signer, o);
    try {
      for (const name of o.workers) await cloud.workers.prepare(name);
      await cloud.#configurePlane(o);
      for (const name of services) stack.start(name);
      cloud.startPlane();
      await o.network?.start(stack, cloud.workers.ways());
      for (const name of o.workers) cloud.workers.start(name);
      const all = [...services, "plasmavmc"];
      await Promise.all(all.map((name) => waitReady(stack.endpoint(name), { name, timeoutMs: readyMs })));
      await Promise.all(o.workers.map((name) => cloud.untilNode(name, compute.NodeState.READY)));
      await makeNetwork({
        endpoints: [stack.endpoint("prismnet")],
        authorization: signer.authorization("prismnet"),
      });
      await importTiny(cloud.images, `${root}/work/compute/images`);
      return cloud;
    } catch (error) {
      await cloud.tellLogs();
      await cloud[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #configurePlane(o: ComputeOptions): Promise<void> {
    const file = `${this.dir}/etc/plasmavmc/config.toml`;
    const plain = { nodeLeaseTtlMs: o.leaseTtlMs ?? 10_000, reconcileMs: 1_000, ...o.planeConfig };
    const quota = { vms: 1000, vcpus: 1000, memoryBytes: 2 ** 40, diskBytes: 2 ** 44 };
    // Tables come last in the file as it is: plain values go before them.
    const text = await Deno.readTextFile(file);
    await Deno.writeTextFile(file, `${stringify(plain)}\n${text}\n${stringify({ quota })}`);
  }

  startPlane(): ComponentProcess {
    const placement = this.stack.placement("plasmavmc");
    if (this.#profileDir !== undefined) {
      const entry = `${root}/test-cluster/compute/_profiled_plane_main.ts`;
      return this.#plane = spawnDetached({
        name: "plasmavmc",
        command: [...sourceDeno(root), "-A", entry, "--config", `${placement.configDir}/config.toml`],
        logFile: `${this.dir}/log/plasmavmc.log`,
        env: { ...componentEnv(), PROFILE_DIR: this.#profileDir },
      });
    }
    const callees = { ...placement.callees, "vm-agent.rpc": this.workers.ways().flatMap(({ own }) => own) };
    const { manifest, dir } = this.stack.member("plasmavmc");
    return this.#plane = spawnComponent({
      manifest,
      placement: { ...placement, callees },
      program: { kind: "source", root, entry: `${dir}/${manifest.entry}` },
      logFile: `${this.dir}/log/plasmavmc.log`,
    });
  }

  async killPlane(): Promise<void> {
    await this.#plane?.kill();
  }

  /** Where plasmavmc keeps images, and what of them is being uploaded. */
  get imagesDir(): string {
    return `${this.stack.placement("plasmavmc").stateDir}/images`;
  }

  /** What `uc` needs to know to reach this cloud as the operator; its token lasts a minute. */
  async ucEnvironment(): Promise<Record<string, string>> {
    const file = `${this.dir}/uc.json`;
    const context = { endpoints: { plasmavmc: this.stack.endpoint("plasmavmc") }, project };
    await Deno.writeTextFile(file, JSON.stringify({ version: 1, current: "test", contexts: { test: context } }));
    const header = await this.#signer.authorization("plasmavmc")();
    return { UC_CONFIG: file, UC_TOKEN: header.replace(/^Bearer /, "") };
  }

  /** A client of a component as the operator, who may do everything there. */
  client<S extends DescService>(service: S, component = "plasmavmc") {
    const at = { endpoints: [this.stack.endpoint(component)], authorization: this.#signer.authorization(component) };
    return this.#cleanup.use(createRpcClient(service, { ...at, retries: 0 }));
  }

  /** The operation once it is over, whatever became of it. */
  async over(operation: Operation, o: { readonly project?: string; readonly timeoutMs?: number } = {}) {
    const deadline = performance.now() + (o.timeoutMs ?? 240_000);
    for (;;) {
      try {
        const request = { project: o.project ?? project, id: operation.id, timeoutMs: 5_000 };
        const seen = await this.operations.waitOperation(request, { timeoutMs: 15_000 });
        if (seen.state >= OperationState.DONE) return seen;
      } catch (error) {
        // The control plane may be killed and started again meanwhile.
        if (performance.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      if (performance.now() > deadline) throw new Error(`${operation.kind} ${operation.id} is not over`);
    }
  }

  async done(work: Promise<Operation>, o: { readonly project?: string } = {}): Promise<Operation> {
    const operation = await this.over(await work, o);
    if (operation.state !== OperationState.DONE) {
      throw new Error(`${operation.kind} ended ${OperationState[operation.state]}: ${operation.error?.message}`);
    }
    return operation;
  }

  async untilNode(name: string, state: compute.NodeState): Promise<void> {
    await until(`worker ${name} is ${compute.NodeState[state]}`, 180_000, async () => {
      const { nodes } = await this.nodes.listNodes({});
      return nodes.find((n) => n.name === name)?.state === state;
    });
  }

  /** Runs a command as root in the guest; answers what it printed. */
  async guest(vm: string, command: string, timeoutMs = 60_000): Promise<string> {
    let answer = "";
    await until(`guest ${vm} answers`, timeoutMs, async () => {
      const { nics } = await this.vms.getVm({ project, vm });
      const endpoint = nics.flatMap((n) => n.endpoints).find((e) => e.guestPort === guestHttpPort);
      if (!endpoint) return false;
      const response = await fetch(`http://${endpoint.address}/cgi-bin/run`, {
        method: "POST",
        body: command,
        signal: AbortSignal.timeout(20_000),
      });
      answer = await response.text();
      return response.ok;
    });
    return answer.trim();
  }

  /** Last lines of every log, for a person who looks for the reason of a failure. */
  async tellLogs(): Promise<void> {
    for await (const { name } of Deno.readDir(`${this.dir}/log`)) {
      const lines = (await Deno.readTextFile(`${this.dir}/log/${name}`)).trimEnd().split("\n");
      console.error(`--- ${name}\n${lines.slice(-15).join("\n")}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#plane?.stop(), this.workers.stop()]);
    await this.stack.stopAll();
    const left = ["qemu-system", "qemu-storage"].flatMap((program) => findByCommandLine(`${this.dir}/`, program));
    await endProcesses(left, 2_000);
    await this.#network?.[Symbol.asyncDispose]();
    await this.#cleanup.disposeAsync();
    await Deno.remove(this.dir, { recursive: true });
  }
}
