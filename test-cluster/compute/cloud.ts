import type { DescService } from "@bufbuild/protobuf";
import { createWorkloadSigner, loadTrust } from "@ultracloud/authz";
import { type Placement, systemClock } from "@ultracloud/base";
import { buildTinyImage } from "@ultracloud/cli";
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
import { Direction, Protocol, SecurityGroupService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { stringify } from "smol-toml";
import { Gate } from "./gate.ts";

/** A whole control plane and several workers on one machine, each a process of its own under its own permissions. */

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const clusterId = "test";
export const project = "acme/prod";
const readyMs = 120_000;
const services = ["chainfire", "flaredb", "iam", "prismnet"] as const;
/** Beside user networking no guest port is reached. */
const guestHttpPort = 80;

/** Makes of the tiny guest a machine that counts and does what it is told over HTTP. */
const guestScript = `#!/bin/sh
mkdir -p /www/cgi-bin
cat >/www/cgi-bin/run <<'END'
#!/bin/sh
echo "Content-type: text/plain"
echo
cat >/tmp/command.$$
sh /tmp/command.$$ 2>&1
rm -f /tmp/command.$$
END
chmod 755 /www/cgi-bin/run
n=0
while :; do
  n=$((n + 1))
  echo $n >/tmp/count.new && mv /tmp/count.new /tmp/count
  sleep 0.1 2>/dev/null || sleep 1
done &
`;

/** Where workers run when their guests are on a network of their own. */
export interface WorkerNetwork extends AsyncDisposable {
  /** Merged into the configuration of components. */
  readonly overrides: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  /** Command that starts a worker's process in its place. */
  enter(worker: string): readonly string[];
  /** Starts the network; a worker listens on `own` in its place and calls `callees` outside of it. */
  start(
    stack: Stack,
    workers: readonly { readonly name: string; readonly own: readonly string[]; readonly callees: readonly string[] }[],
  ): Promise<void>;
}

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

interface Worker {
  readonly gate: Gate;
  readonly placement: Placement;
  process: ComponentProcess | undefined;
}

export class ComputeCloud implements AsyncDisposable {
  readonly stack: Stack;
  readonly dir: string;
  readonly #workers = new Map<string, Worker>();
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
      for (const name of o.workers) await cloud.#prepareWorker(name, o);
      await cloud.#configurePlane(o);
      for (const name of services) stack.start(name);
      cloud.startPlane();
      await o.network?.start(
        stack,
        [...cloud.#workers].map(([name, { gate, placement }]) => ({
          name,
          own: [placement.listen.rpc!],
          callees: [gate.address],
        })),
      );
      for (const name of o.workers) cloud.startWorker(name);
      const all = [...services, "plasmavmc"];
      await Promise.all(all.map((name) => waitReady(stack.endpoint(name), { name, timeoutMs: readyMs })));
      await Promise.all(o.workers.map((name) => cloud.untilNode(name, compute.NodeState.READY)));
      await cloud.#furnish();
      return cloud;
    } catch (error) {
      await cloud.tellLogs();
      await cloud[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Worker processes share the component's identity; everything else is each one's own. */
  async #prepareWorker(name: string, o: ComputeOptions): Promise<void> {
    const base = this.stack.placement("vm-agent");
    const configDir = `${this.dir}/etc/${name}`;
    const stateDir = `${this.dir}/state/${name}`;
    const runDir = `${this.stack.runDir}/${name}`;
    for (const dir of [configDir, stateDir, runDir]) await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    await Deno.copyFile(`${this.dir}/etc/vm-agent/identity.key`, `${configDir}/identity.key`);
    const listen = `127.0.0.1:${freePort()}`;
    const gate = this.#cleanup.use(new Gate(this.stack.placement("plasmavmc").listen.rpc!));
    const config = {
      clusterId,
      rpc: { listen },
      stateDir,
      runDir,
      identityKeyFile: `${configDir}/identity.key`,
      trustFile: base.trustFile,
      peers: { plasmavmc: [`http://${gate.address}`] },
      nodeName: name,
      accelerator: "tcg",
      ...o.workerConfig,
    };
    await Deno.writeTextFile(`${configDir}/config.toml`, stringify(config), { mode: 0o600 });
    const callees = { ...base.callees, "plasmavmc.rpc": [gate.address] };
    const placement = { ...base, configDir, stateDir, runDir, listen: { rpc: listen }, callees };
    this.#workers.set(name, { gate, placement, process: undefined });
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
    const agents = [...this.#workers.values()].map((w) => w.placement.listen.rpc!);
    const callees = { ...placement.callees, "vm-agent.rpc": agents };
    return this.#plane = this.#spawn("plasmavmc", { ...placement, callees }, "plasmavmc");
  }

  async killPlane(): Promise<void> {
    await this.#plane?.kill();
  }

  startWorker(name: string): ComponentProcess {
    const worker = this.#workers.get(name)!;
    return worker.process = this.#spawn("vm-agent", worker.placement, name);
  }

  /** SIGKILL; its guests run on. */
  async killWorker(name: string): Promise<void> {
    await this.#workers.get(name)!.process?.kill();
  }

  /** The worker's process, stopped or continued: a host that hangs, or a network that is cut. */
  signalWorker(name: string, signal: Deno.Signal): void {
    this.#workers.get(name)!.process?.signal(signal);
  }

  #spawn(component: string, placement: Placement, name: string): ComponentProcess {
    const { manifest, dir } = this.stack.member(component);
    return spawnComponent({
      manifest,
      placement,
      ...(this.#network && component === "vm-agent" ? { enter: this.#network.enter(name) } : {}),
      program: { kind: "source", root, entry: `${dir}/${manifest.entry}` },
      logFile: `${this.dir}/log/${name}.log`,
    });
  }

  runDirOf(name: string): string {
    return this.#workers.get(name)!.placement.runDir;
  }

  stateDirOf(name: string): string {
    return this.#workers.get(name)!.placement.stateDir;
  }

  /** Where plasmavmc keeps images, and what of them is being uploaded. */
  get imagesDir(): string {
    return `${this.stack.placement("plasmavmc").stateDir}/images`;
  }

  /** QEMU processes of a worker. */
  qemusOf(name: string): number[] {
    return this.#qemus(name).map((p) => p.pid);
  }

  /** Whom a process runs as, and what it may beyond a user: the bits of its effective capabilities. */
  async rightsOf(pid: number): Promise<{ readonly uid: number; readonly capabilities: string }> {
    const status = await Deno.readTextFile(`/proc/${pid}/status`);
    return {
      uid: Number(/^Uid:\t(\d+)/m.exec(status)![1]),
      capabilities: /^CapEff:\t([0-9a-f]+)/m.exec(status)![1]!,
    };
  }

  /** QEMU processes of one VM on a worker. */
  qemusWith(name: string, vmId: string): number[] {
    return this.#qemus(name, vmId).map((p) => p.pid);
  }

  #qemus(name: string, vmId?: string) {
    // By the pid file: disks of other workers may stand on a command line too.
    const own = findByCommandLine(`-pidfile ${this.runDirOf(name)}/`, "qemu-system");
    if (vmId === undefined) return own;
    const ofVm = new Set(findByCommandLine(vmId, "qemu-system").map((p) => p.pid));
    return own.filter((p) => ofVm.has(p.pid));
  }

  /** Ends the QEMUs of a worker, all or one VM's, as a crash would. */
  async killQemus(name: string, vmId?: string): Promise<number> {
    const found = this.#qemus(name, vmId);
    await endProcesses(found, 0);
    return found.length;
  }

  /** What a worker says of its VMs, asked as the control plane asks. */
  async #instances(name: string) {
    using agent = createRpcClient(VmAgentService, {
      endpoints: [`http://${this.#workers.get(name)!.placement.listen.rpc}`],
      authorization: this.#signer.authorization("vm-agent"),
    });
    return (await agent.listVms({})).vms;
  }

  async vmIdsOn(name: string): Promise<string[]> {
    return (await this.#instances(name)).map((vm) => vm.vmId);
  }

  /** Whether the VM's processors run on the worker. */
  async guestsRunning(name: string, vmId: string): Promise<boolean> {
    const found = (await this.#instances(name)).find((vm) => vm.vmId === vmId);
    return found?.state === compute.VmState.RUNNING;
  }

  /** Cuts the worker's way to the control plane, its processes untouched. Answers how to mend it. */
  cutOff(name: string): () => void {
    const { gate } = this.#workers.get(name)!;
    gate.cut();
    return () => gate.mend();
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

  async #furnish(): Promise<void> {
    const at = {
      endpoints: [this.stack.endpoint("prismnet")],
      authorization: this.#signer.authorization("prismnet"),
    };
    await using clients = new AsyncDisposableStack();
    const vpcs = clients.use(createRpcClient(VpcService, at));
    const subnets = clients.use(createRpcClient(SubnetService, at));
    const groups = clients.use(createRpcClient(SecurityGroupService, at));
    await vpcs.createVpc({ project, name: "net" });
    await subnets.createSubnet({ project, name: "lan", vpc: "net", cidr: "10.20.0.0/24" });
    await groups.createSecurityGroup({
      project,
      name: "web",
      rules: [
        { direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: guestHttpPort, portMax: guestHttpPort },
        { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
      ],
    });
    const image = await buildTinyImage({ cacheDir: `${root}/work/compute/images` });
    const bytes = await Deno.readFile(image.path);
    await this.images.importImage((async function* () {
      const header = {
        project,
        name: "tiny",
        format: compute.ImageFormat.KERNEL_BUNDLE,
        sha256: image.sha256,
        bytes: BigInt(bytes.length),
      };
      yield { part: { case: "header" as const, value: header } };
      for (let at = 0; at < bytes.length; at += 1 << 19) {
        yield { part: { case: "chunk" as const, value: bytes.subarray(at, at + (1 << 19)) } };
      }
    })());
  }

  /** What the tests ask for a VM with, beside its name. */
  vmRequest(name: string, o: { readonly network?: boolean } = {}) {
    return {
      project,
      name,
      flavor: "tiny",
      image: "tiny",
      userData: guestScript,
      ...(o.network === false ? {} : { subnets: ["lan"], securityGroups: ["web"] }),
    };
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
    await Promise.all([this.#plane, ...[...this.#workers.values()].map((w) => w.process)].map((p) => p?.stop()));
    await this.stack.stopAll();
    const left = ["qemu-system", "qemu-storage"].flatMap((program) => findByCommandLine(`${this.dir}/`, program));
    await endProcesses(left, 2_000);
    await this.#network?.[Symbol.asyncDispose]();
    await this.#cleanup.disposeAsync();
    await Deno.remove(this.dir, { recursive: true });
  }
}

/** The operator of these proofs may do everything: who may do what is proven elsewhere. */
async function grantAll(trustFile: string): Promise<void> {
  const trust = JSON.parse(await Deno.readTextFile(trustFile));
  const [operator] = Object.keys(trust.principals).filter((id) => id.endsWith("/operator"));
  for (const component of ["plasmavmc", "prismnet"]) {
    trust.principals[operator!].grants.push({ permission: `${component}.*.*`, scope: "" });
  }
  await Deno.writeTextFile(trustFile, JSON.stringify(trust));
  await loadTrust(trustFile, { clock: systemClock });
}

/** Waits for a condition; a look that fails counts as not yet. */
export async function until(what: string, ms: number, holds: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = performance.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      if (await holds()) return;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) throw new Error(`Waited ${ms} ms: ${what}`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
