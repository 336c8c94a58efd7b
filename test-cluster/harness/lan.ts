import type { ClusterFile } from "@ultracloud/launch";
import { fault } from "@ultracloud/base";
import type { ClusterHome } from "./home.ts";
import type { Journal } from "./journal.ts";
import { namespaces } from "./clean.ts";
import { tool, whichTool } from "./tools.ts";

/** The bridge between the nodes; it lives in a namespace of its own, so that the host's network stays as it is. */
const bridge = "br0";

/** Namespace with the bridge and the operator's address in it; the harness runs there. */
export function lanName(home: ClusterHome): string {
  return `${home.prefix}-lan`;
}

/** Arguments that run a program inside a namespace. Only its network changes: mounts stay those of the host. */
export function enterNamespace(name: string): string[] {
  return ["nsenter", `--net=/run/netns/${name}`, "--"];
}

/** Why this machine cannot have network namespaces; undefined when it can. */
export function reasonAgainstNamespaces(): string | undefined {
  if (Deno.build.os !== "linux") return "network namespaces need Linux";
  if (Deno.uid() !== 0) return "network namespaces need root";
  const missing = ["ip", "nsenter"].filter((name) => whichTool(name) === undefined);
  if (missing.length > 0) return `${missing.join(" and ")} not installed (packages iproute2 and util-linux)`;
  const probe = `ucprobe-${crypto.randomUUID().slice(0, 8)}`;
  const made = new Deno.Command("ip", { args: ["netns", "add", probe], stdout: "null", stderr: "null" }).outputSync();
  if (!made.success) return "this root may not make network namespaces";
  const link = ["-n", probe, "link", "add", bridge, "type", "bridge"];
  const bridged = new Deno.Command("ip", { args: link, stdout: "null", stderr: "null" }).outputSync();
  new Deno.Command("ip", { args: ["netns", "del", probe], stdout: "null", stderr: "null" }).outputSync();
  return bridged.success ? undefined : "this kernel has no network bridge";
}

/** Makes the network of the cluster; nothing when it stands. */
export async function createLan(home: ClusterHome, network: ClusterFile["network"], journal: Journal): Promise<void> {
  const name = lanName(home);
  if ((await namespaces()).includes(name)) return;
  journal.record({ kind: "namespace", name });
  await tool(["ip", "netns", "add", name]);
  const on = (...args: string[]) => tool(["ip", "-n", name, ...args]);
  await on("link", "set", "lo", "up");
  await on("link", "add", bridge, "type", "bridge");
  await on("addr", "add", `${network.operatorAddress}/${network.cidr.split("/")[1]}`, "dev", bridge);
  await on("link", "set", bridge, "up");
}

/** True when the network of the cluster stands. */
export async function lanStands(home: ClusterHome): Promise<boolean> {
  return whichTool("ip") !== undefined && (await namespaces()).includes(lanName(home));
}

/** The port of a node on the bridge: a name of at most 15 characters. */
export function portName(index: number): string {
  if (index > 99) throw fault("invalid_argument", "too_many_nodes", `Cannot connect node ${index}: wanted at most 99`);
  return `port${String(index).padStart(2, "0")}`;
}

/** Puts a device of the lan's namespace on the bridge. */
export async function plug(home: ClusterHome, device: string): Promise<void> {
  await tool(["ip", "-n", lanName(home), "link", "set", device, "master", bridge, "up"]);
}
