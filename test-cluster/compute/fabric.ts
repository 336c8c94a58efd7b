import type { Placement } from "@ultracloud/base";
import { startGate } from "@ultracloud/cli";
import {
  type ComponentProcess,
  endProcesses,
  freePort,
  identify,
  type ProcessIdentity,
  spawnComponent,
  type Stack,
} from "@ultracloud/launch";
import { stringify } from "smol-toml";
import type { WorkerNetwork } from "./workers.ts";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
/** What address pools call the network outside; the first worker is its gateway. */
export const uplink = "outside";
export const outside = { cidr: "172.30.0.0/24", gatewayIp: "172.30.0.1" } as const;
/** The veth between two workers, in each. */
const tunnelDevice = "tun0";
const tunnelMtu = 1600;

async function ip(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command("ip", { args, stdin: "null" }).output();
  if (!success) throw new Error(`Cannot run ip ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/**
 * OVN between two workers, each a host of its own as far as the network goes: a namespace with its own switch and daemons,
 * joined by geneve over a veth. Gates carry the calls between the loopback of each and the control plane's.
 */
export class Fabric implements WorkerNetwork {
  readonly overrides = { prismnet: { engine: "ovn" } } as const;
  readonly #names: readonly string[];
  readonly #processes: ComponentProcess[] = [];
  #made = false;

  constructor(workers: readonly [string, string]) {
    this.#names = workers;
  }

  namespaceOf(worker: string): string {
    return `ucf${Deno.pid}-${worker}`;
  }

  enter(worker: string): readonly string[] {
    return ["ip", "netns", "exec", this.namespaceOf(worker)];
  }

  async start(stack: Stack, workers: Parameters<WorkerNetwork["start"]>[1]): Promise<void> {
    this.#made = true;
    for (const name of this.#names) {
      await ip("netns", "add", this.namespaceOf(name));
      await ip("-n", this.namespaceOf(name), "link", "set", "lo", "up");
    }
    const [a, b] = this.#names.map((name) => this.namespaceOf(name));
    await ip("-n", a!, "link", "add", tunnelDevice, "type", "veth", "peer", "name", tunnelDevice, "netns", b!);
    for (const ns of [a!, b!]) {
      await ip("-n", ns, "link", "set", "dev", tunnelDevice, "mtu", String(tunnelMtu), "up");
      // The switch is in user space: it meets checksums that the kernel has left to hardware that is not there.
      await ip("netns", "exec", ns, "ethtool", "-K", tunnelDevice, "tx", "off");
    }
    const central = stack.placement("net-agent");
    for (const [i, { name, own, callees }] of workers.entries()) {
      const placement = await this.#configure(stack, central, name, i);
      await this.#openGates(stack, name, [...own, placement.listen.rpc!], [
        ...callees,
        ...central.callees["prismnet.rpc"]!,
      ]);
      const { manifest, dir } = stack.member("net-agent");
      this.#processes.push(spawnComponent({
        manifest,
        placement,
        program: { kind: "source", root, entry: `${dir}/${manifest.entry}` },
        logFile: `${stack.dataDir}/log/net-${name}.log`,
        enter: this.enter(name),
      }));
    }
  }

  /** The first worker holds the databases, where prismnet looks for them; the other one reaches them by socket. */
  async #configure(stack: Stack, central: Placement, worker: string, i: number): Promise<Placement> {
    const address = `10.90.0.${i + 1}`;
    const own = i === 0 ? central : {
      ...central,
      configDir: `${stack.dataDir}/etc/net-${worker}`,
      stateDir: `${stack.dataDir}/state/net-${worker}`,
      runDir: `${stack.runDir}/net-${worker}`,
    };
    const listen = { ...central.listen, rpc: `127.0.0.1:${freePort()}` };
    for (const dir of [own.configDir, own.stateDir, own.runDir]) {
      await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    }
    const config = {
      clusterId: "test",
      rpc: { listen: listen.rpc },
      stateDir: own.stateDir,
      runDir: own.runDir,
      identityKeyFile: `${own.configDir}/identity.key`,
      trustFile: central.trustFile,
      peers: { prismnet: [`http://${central.callees["prismnet.rpc"]![0]}`] },
      nodeName: worker,
      bridgePrefix: "ucf",
      encapIp: address,
      encapAddress: `${address}/24`,
      tunnelDevice,
      central: i === 0,
      ...(i === 0
        ? { uplinks: [{ name: uplink, address: `${outside.gatewayIp}/24` }] }
        : { southbound: `unix:${central.runDir}/sb.sock` }),
    };
    // A component reads its own directories alone.
    if (i > 0) await Deno.copyFile(`${central.configDir}/identity.key`, config.identityKeyFile);
    await Deno.writeTextFile(`${own.configDir}/config.toml`, stringify(config), { mode: 0o600 });
    return { ...own, listen };
  }

  async #openGates(stack: Stack, worker: string, own: readonly string[], callees: readonly string[]): Promise<void> {
    const dir = `${stack.runDir}/gate-${worker}`;
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    const [inner, outer] = [`${dir}/in.sock`, `${dir}/out.sock`];
    const same = (address: string) => ({ address, target: address });
    this.#processes.push(
      await startGate(
        `gate-out-${worker}`,
        { socket: outer, peerSocket: inner, targets: callees, listen: own.map(same) },
        stack,
        { root },
      ),
      await startGate(
        `gate-in-${worker}`,
        { socket: inner, peerSocket: outer, targets: own, listen: callees.map(same) },
        stack,
        { root, enter: this.enter(worker) },
      ),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#made) return;
    await Promise.all(this.#processes.map((process) => process.stop()));
    for (const name of this.#names) {
      // OVS and OVN outlive their agent.
      const pids = (await ip("netns", "pids", this.namespaceOf(name)).catch(() => "")).trim().split("\n").map(Number);
      const left = pids.map((pid) => identify(pid)).filter((found): found is ProcessIdentity => found !== undefined);
      await endProcesses(left, 2_000);
      await ip("netns", "delete", this.namespaceOf(name));
    }
  }
}
