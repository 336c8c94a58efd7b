import type { Placement } from "@ultracloud/base";
import {
  type ComponentProcess,
  endProcesses,
  findByCommandLine,
  freePort,
  spawnComponent,
  type Stack,
} from "@ultracloud/launch";
import { VmState } from "@ultracloud/proto/plasmavmc/v1";
import { VmAgentService } from "@ultracloud/proto/vmagent/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { stringify } from "smol-toml";
import { Gate } from "./gate.ts";

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

export interface WorkersOptions {
  readonly root: string;
  readonly dir: string;
  readonly clusterId: string;
  /** Merged into each worker's configuration. */
  readonly config: Readonly<Record<string, unknown>>;
}

export interface WorkersDeps {
  readonly stack: Stack;
  readonly network: WorkerNetwork | undefined;
  /** Of the operator, for calls to agents. */
  readonly authorization: () => Promise<string> | string;
}

interface Worker {
  readonly gate: Gate;
  readonly placement: Placement;
  process: ComponentProcess | undefined;
}

/** Several workers on one machine: agents as processes of their own, each behind a gate, and the QEMUs they run. */
export class Workers implements AsyncDisposable {
  readonly #options: WorkersOptions;
  readonly #deps: WorkersDeps;
  readonly #workers = new Map<string, Worker>();

  constructor(options: WorkersOptions, deps: WorkersDeps) {
    this.#options = options;
    this.#deps = deps;
  }

  /** Workers share the component's identity; everything else is each one's own. */
  async prepare(name: string): Promise<void> {
    const { dir, clusterId, config: more } = this.#options;
    const { stack } = this.#deps;
    const base = stack.placement("vm-agent");
    const configDir = `${dir}/etc/${name}`;
    const stateDir = `${dir}/state/${name}`;
    const runDir = `${stack.runDir}/${name}`;
    for (const path of [configDir, stateDir, runDir]) await Deno.mkdir(path, { recursive: true, mode: 0o700 });
    await Deno.copyFile(`${dir}/etc/vm-agent/identity.key`, `${configDir}/identity.key`);
    const listen = `127.0.0.1:${freePort()}`;
    const gate = new Gate(stack.placement("plasmavmc").listen.rpc!);
    const callees = { ...base.callees, "plasmavmc.rpc": [gate.address] };
    const placement = { ...base, configDir, stateDir, runDir, listen: { rpc: listen }, callees };
    this.#workers.set(name, { gate, placement, process: undefined });
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
      ...more,
    };
    await Deno.writeTextFile(`${configDir}/config.toml`, stringify(config), { mode: 0o600 });
  }

  /** Where each listens, and what it calls outside of its place. */
  ways(): { readonly name: string; readonly own: readonly string[]; readonly callees: readonly string[] }[] {
    return [...this.#workers].map(([name, { gate, placement }]) => ({
      name,
      own: [placement.listen.rpc!],
      callees: [gate.address],
    }));
  }

  start(name: string): ComponentProcess {
    const { stack, network } = this.#deps;
    const { root, dir } = this.#options;
    const { manifest, dir: folder } = stack.member("vm-agent");
    const worker = this.#of(name);
    return worker.process = spawnComponent({
      manifest,
      placement: worker.placement,
      ...(network ? { enter: network.enter(name) } : {}),
      program: { kind: "source", root, entry: `${folder}/${manifest.entry}` },
      logFile: `${dir}/log/${name}.log`,
    });
  }

  /** SIGKILL; its guests run on. */
  async kill(name: string): Promise<void> {
    await this.#of(name).process?.kill();
  }

  /** Cuts the worker's way to the control plane, its processes untouched. Answers how to mend it. */
  cutOff(name: string): () => void {
    const { gate } = this.#of(name);
    gate.cut();
    return () => gate.mend();
  }

  runDirOf(name: string): string {
    return this.#of(name).placement.runDir;
  }

  stateDirOf(name: string): string {
    return this.#of(name).placement.stateDir;
  }

  /** QEMU processes of a worker, all or one VM's. */
  qemusOf(name: string, vmId?: string): number[] {
    return this.#qemus(name, vmId).map((p) => p.pid);
  }

  /** Ends the QEMUs of a worker, all or one VM's, as a crash would. */
  async killQemus(name: string, vmId?: string): Promise<number> {
    const found = this.#qemus(name, vmId);
    await endProcesses(found, 0);
    return found.length;
  }

  async vmIdsOn(name: string): Promise<string[]> {
    return (await this.#instances(name)).map((vm) => vm.vmId);
  }

  /** Whether the VM's processors run on the worker. */
  async guestsRunning(name: string, vmId: string): Promise<boolean> {
    const found = (await this.#instances(name)).find((vm) => vm.vmId === vmId);
    return found?.state === VmState.RUNNING;
  }

  /** Ends the agents; guests that are left are for whoever took the worker's directory down. */
  async stop(): Promise<void> {
    await Promise.all([...this.#workers.values()].map(({ process }) => process?.stop()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#workers.values()].map(({ gate }) => gate[Symbol.asyncDispose]()));
  }

  #of(name: string): Worker {
    const worker = this.#workers.get(name);
    if (worker === undefined) throw new Error(`Cannot find the worker ${name} among ${[...this.#workers.keys()]}`);
    return worker;
  }

  #qemus(name: string, vmId?: string) {
    // By the pid file: disks of other workers may stand on a command line too.
    const own = findByCommandLine(`-pidfile ${this.runDirOf(name)}/`, "qemu-system");
    if (vmId === undefined) return own;
    const ofVm = new Set(findByCommandLine(vmId, "qemu-system").map((p) => p.pid));
    return own.filter((p) => ofVm.has(p.pid));
  }

  /** What a worker says of its VMs, asked as the control plane asks. */
  async #instances(name: string) {
    using agent = createRpcClient(VmAgentService, {
      endpoints: [`http://${this.#of(name).placement.listen.rpc}`],
      authorization: this.#deps.authorization,
    });
    return (await agent.listVms({})).vms;
  }
}

/** Whom a process runs as, and what it may beyond a user: the bits of its effective capabilities. */
export async function rightsOf(pid: number): Promise<{ readonly uid: number; readonly capabilities: string }> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return {
    uid: Number(/^Uid:\t(\d+)/m.exec(status)![1]),
    capabilities: /^CapEff:\t([0-9a-f]+)/m.exec(status)![1]!,
  };
}
