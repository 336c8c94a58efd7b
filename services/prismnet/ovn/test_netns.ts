import { utf8 } from "@ultracloud/base";
import { hostPrograms } from "@ultracloud/net-agent";

/** Why packet tests cannot run here; undefined: they can. */
export const noPackets: string | undefined = await (async () => {
  if (Deno.uid() !== 0) return "needs root for network namespaces";
  const missing: string[] = [];
  const needed = {
    "openvswitch-switch": "ovs-vswitchd",
    "ovn-host": "ovn-controller",
    "ovn-central": "ovn-northd",
    "iproute2": "ip",
    "ethtool": "ethtool",
    "busybox": "busybox",
    "iputils-ping": "ping",
  };
  for (const [name, program] of Object.entries(needed)) {
    const found = await new Deno.Command(program, { args: ["--help"], stdout: "null", stderr: "null" }).output()
      .then(() => true, () => false);
    if (!found) missing.push(name);
  }
  if (missing.length > 0) return `missing packages: ${missing.join(" ")}`;
  const made = await new Deno.Command("ip", { args: ["netns", "add", `uc-probe-${Deno.pid}`], stderr: "piped" })
    .output();
  if (!made.success) return `network namespaces cannot be made: ${utf8.decode(made.stderr).trim()}`;
  await new Deno.Command("ip", { args: ["netns", "delete", `uc-probe-${Deno.pid}`] }).output();
  return undefined;
})();

const host = hostPrograms();
export const ip = (...args: string[]) => host.run("ip", args);

/** A network namespace, gone with everything in it when disposed. */
export class Netns implements AsyncDisposable {
  readonly name: string;
  private constructor(name: string) {
    this.name = name;
  }

  static async make(name: string): Promise<Netns> {
    await ip("netns", "add", name);
    const made = new Netns(name);
    await made.run("ip", "link", "set", "lo", "up");
    return made;
  }

  /** The namespace this process is in, by a name; disposing of it forgets the name. */
  static async current(name: string): Promise<Netns> {
    await ip("netns", "attach", name, String(Deno.pid));
    return new Netns(name);
  }

  /** Runs a program in it; answers what it wrote and whether it succeeded. */
  async try(program: string, ...args: string[]): Promise<{ ok: boolean; text: string }> {
    const { success, stdout, stderr } = await new Deno.Command("ip", {
      args: ["netns", "exec", this.name, program, ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).output();
    return { ok: success, text: utf8.decode(stdout) + utf8.decode(stderr) };
  }

  async run(program: string, ...args: string[]): Promise<string> {
    const { ok, text } = await this.try(program, ...args);
    if (!ok) throw new Error(`Cannot run ${program} ${args.join(" ")} in ${this.name}: ${text}`);
    return text;
  }

  spawn(program: string, ...args: string[]): Deno.ChildProcess {
    return new Deno.Command("ip", {
      args: ["netns", "exec", this.name, program, ...args],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await ip("netns", "delete", this.name);
  }
}

/** Joins two namespaces by a pair of devices whose ends have checksums computed in software. */
export async function join(a: [Netns, string], b: [Netns, string], mtu: number): Promise<void> {
  await ip("-n", a[0].name, "link", "add", a[1], "type", "veth", "peer", "name", b[1], "netns", b[0].name);
  for (const [ns, device] of [a, b]) {
    await ns.run("ip", "link", "set", "dev", device, "mtu", String(mtu), "up");
    await ns.run("ethtool", "-K", device, "tx", "off");
  }
}
