import { fault } from "@ultracloud/base";
import { importMessages } from "@ultracloud/cli";
import { type Operation, OperationService, OperationState } from "@ultracloud/proto/common/v1";
import { OrgService, ProjectService } from "@ultracloud/proto/iam/v1";
import { ImageFormat, ImageService, type Vm, VmService, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { Direction, Protocol, SecurityGroupService, SubnetService, VpcService } from "@ultracloud/proto/prismnet/v1";
import type { Cluster } from "./cluster.ts";
import { patient, waitFor } from "./wait.ts";

/** Boot of a guest under emulation on a busy machine. */
const guestTimeoutMs = 180_000;
const httpPort = 80;
const names = { org: "acme", image: "tiny", network: "net", subnet: "lan", group: "web" } as const;

/** A tenant of the cluster and what it owns, through the public APIs alone. */
export class Tenant {
  readonly project: string;
  readonly #cluster: Cluster;
  readonly #signal: AbortSignal;

  constructor(cluster: Cluster, name: string, signal: AbortSignal) {
    this.#cluster = cluster;
    this.project = `${names.org}/${name}`;
    this.#signal = signal;
  }

  get #vms() {
    return this.#cluster.clients.of(VmService, "plasmavmc", { timeoutMs: 30_000 });
  }

  /** Makes organisation, project, network, a group that lets HTTP in, and the image. */
  async setUp(image: { readonly path: string; readonly sha256: string }): Promise<void> {
    const { clients } = this.#cluster;
    const { project } = this;
    const orgs = clients.of(OrgService, "iam");
    const { orgs: present } = await orgs.listOrgs({});
    if (!present.some((org) => org.meta?.name === names.org)) await orgs.createOrg({ name: names.org });
    await clients.of(ProjectService, "iam").createProject({ org: names.org, name: project.split("/")[1]! });
    const vpcs = clients.of(VpcService, "prismnet");
    // Policy reaches prismnet by long poll: the new project is known there a moment later.
    await waitFor(
      { timeoutMs: 20_000, what: "the project at prismnet", signal: this.#signal },
      async () => await vpcs.createVpc({ project, name: names.network }),
    );
    await clients.of(SubnetService, "prismnet").createSubnet({
      project,
      name: names.subnet,
      vpc: names.network,
      cidr: "10.20.0.0/24",
    });
    await clients.of(SecurityGroupService, "prismnet").createSecurityGroup({
      project,
      name: names.group,
      rules: [
        { direction: Direction.INGRESS, protocol: Protocol.TCP, portMin: httpPort, portMax: httpPort },
        { direction: Direction.EGRESS, protocol: Protocol.UNSPECIFIED },
      ],
    });
    const header = { project, name: names.image, format: ImageFormat.KERNEL_BUNDLE, sha256: image.sha256 };
    await clients.of(ImageService, "plasmavmc", { timeoutMs: 120_000 }).importImage(
      importMessages(image.path, header, () => {}),
    );
  }

  /** Creates a VM and waits until it runs; `node` says on which worker. */
  async createVm(
    name: string,
    options: { readonly node?: string; readonly userData?: string; readonly flavor?: string } = {},
  ): Promise<Vm> {
    await this.#done(
      await this.#vms.createVm({
        project: this.project,
        name,
        flavor: options.flavor ?? "tiny",
        image: names.image,
        subnets: [names.subnet],
        securityGroups: [names.group],
        ...(options.node === undefined ? {} : { nodeSelector: { node: options.node } }),
        ...(options.userData === undefined ? {} : { userData: options.userData }),
      }),
    );
    return await this.vm(name);
  }

  async vm(name: string): Promise<Vm> {
    return await this.#vms.getVm({ project: this.project, vm: name });
  }

  async start(name: string): Promise<Vm> {
    await this.#done(await this.#vms.startVm({ project: this.project, vm: name }));
    return await this.vm(name);
  }

  /** Moves the running guest to another worker, which placement chooses; answers it with what the move cost. */
  async migrate(name: string): Promise<Vm> {
    await this.#done(await this.#vms.migrateVm({ project: this.project, vm: name }));
    return await this.vm(name);
  }

  /** An orderly stop: the guest is asked first. */
  async stop(name: string): Promise<Vm> {
    await this.#done(await this.#vms.stopVm({ project: this.project, vm: name, graceMs: 30_000 }));
    return await this.vm(name);
  }

  async delete(name: string): Promise<void> {
    await this.#done(await this.#vms.deleteVm({ project: this.project, vm: name }));
  }

  /** Waits until the VM is seen in the state. */
  async waitState(name: string, state: VmState, timeoutMs: number): Promise<Vm> {
    const what = `VM ${name} to be ${VmState[state]}`;
    return await waitFor({ timeoutMs, what, everyMs: 200, signal: this.#signal }, async () => {
      const vm = await this.vm(name);
      return vm.state === state ? vm : undefined;
    });
  }

  /** Waits for a line of the serial console; answers it. */
  async waitConsole(name: string, pattern: RegExp): Promise<string> {
    const what = `${pattern} on the console of ${name}`;
    return await waitFor({ timeoutMs: guestTimeoutMs, what, everyMs: 200, signal: this.#signal }, async () => {
      const { data } = await this.#vms.getConsoleLog({ project: this.project, vm: name, offset: 0n });
      const lines = new TextDecoder().decode(data).split(/\r?\n/);
      const found = lines.slice(0, -1).find((line) => pattern.test(line))?.trim();
      if (found === undefined) throw new Error(`the console ends with ${JSON.stringify(lines.slice(-3).join("\n"))}`);
      return found;
    });
  }

  /** Where the guest's web server is reached, as its worker sees it: `127.0.0.1:20001`. */
  endpointOf(vm: Vm): string {
    const address = vm.nics.flatMap((nic) => nic.endpoints).find((e) => e.guestPort === httpPort)?.address;
    if (address !== undefined) return address;
    throw fault("internal", "no_endpoint", `Cannot reach VM ${vm.meta?.name}: it has no endpoint for port ${httpPort}`);
  }

  /** Gets a page of the guest from its worker, where its forwards listen. */
  async fetchPage(vm: Vm, path: string, options: { readonly body?: string } = {}): Promise<string> {
    const address = this.endpointOf(vm);
    const what = `an HTTP answer of VM ${vm.meta?.name}`;
    const code = `const r = await fetch(Deno.args[0], { signal: AbortSignal.timeout(${
      patient(5_000)
    }), ...JSON.parse(Deno.args[1]) });
      const text = await r.text(); if (!r.ok) throw new Error(r.status + text); console.log(text);`;
    const init = options.body === undefined ? {} : { method: "POST", body: options.body };
    const argv = [
      this.#cluster.substrate.deno,
      "eval",
      "--quiet",
      code,
      `http://${address}${path}`,
      JSON.stringify(init),
    ];
    return await waitFor({ timeoutMs: guestTimeoutMs, what, everyMs: 200, signal: this.#signal }, async () => {
      const { code, stdout, stderr } = await this.#cluster.substrate.exec(vm.node, argv, { timeoutMs: 20_000 });
      if (code !== 0) throw new Error(stderr.trim().slice(-200) || `it ended with ${code}`);
      return stdout;
    });
  }

  async #done(started: Operation): Promise<void> {
    const client = this.#cluster.clients.of(OperationService, "plasmavmc", { timeoutMs: 30_000 });
    const { project } = this;
    let operation = started;
    await waitFor({ timeoutMs: guestTimeoutMs, what: `the end of ${started.kind}`, signal: this.#signal }, async () => {
      const { state } = operation;
      if (state !== OperationState.PENDING && state !== OperationState.RUNNING) return true;
      operation = await client.waitOperation({ project, id: operation.id, timeoutMs: 5_000 });
      return undefined;
    });
    if (operation.state === OperationState.DONE) return;
    const { code, message } = operation.error ?? {};
    throw fault("failed_precondition", code || "operation_failed", message || `${started.kind} did not succeed`);
  }
}
