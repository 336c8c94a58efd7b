import { type ClusterFile, nodesWith } from "@ultracloud/launch";
import { z } from "zod";
import type { Substrate } from "./substrate.ts";

const memory = z.number().int().min(64);

/** What differs between substrates, as data: profiles/substrates/<name>.json. */
const settingsSchema = z.strictObject({
  patience: z.number().min(1).describe("How many times longer than on netns anything may take"),
  vm: z.strictObject({
    memoryMib: z.strictObject({ "control-plane": memory, worker: memory, gateway: memory }).describe("By role"),
    diskBytes: z.number().int().min(2 ** 26).describe("Of a node's disk where the cluster file names none"),
    v8Flags: z.array(z.string().startsWith("--")).describe("Of every Deno on a node"),
  }).optional().describe("For nodes that are VMs"),
  placement: z.record(z.string(), z.string()).default({}).describe(
    "Components that run once, with the node they run on instead: one emulated processor does not carry all of them",
  ),
  config: z.record(z.string(), z.record(z.string(), z.unknown())).describe(
    "Settings by component, over those of the cluster file",
  ),
});

export type SubstrateSettings = z.infer<typeof settingsSchema>;

export async function readSettings(name: Substrate["name"]): Promise<SubstrateSettings> {
  const path = new URL(`../profiles/substrates/${name}.json`, import.meta.url);
  return settingsSchema.parse(JSON.parse(await Deno.readTextFile(path)));
}

/** Flags of every Deno on a node that is a VM, as DENO_V8_FLAGS takes them. */
export function v8FlagsOf(settings: SubstrateSettings): string {
  return settings.vm?.v8Flags.join(",") ?? "";
}

/** The cluster without some components. */
export function without(file: ClusterFile, components: readonly string[]): ClusterFile {
  if (components.length === 0) return file;
  const kept = (names: readonly string[]) => names.filter((name) => !components.includes(name));
  const nodes = Object.entries(file.nodes).map(([name, node]) => [
    name,
    { ...node, components: kept(node.components), standby: kept(node.standby) },
  ]);
  const config = Object.entries(file.config).filter(([name]) => !components.includes(name));
  return { ...file, nodes: Object.fromEntries(nodes), config: Object.fromEntries(config) };
}

/** The cluster as it runs on a substrate: emulated processors want longer election timeouts, and less on each. */
export function withSettings(file: ClusterFile, settings: SubstrateSettings): ClusterFile {
  const nodes = { ...file.nodes };
  for (const [component, to] of Object.entries(settings.placement)) {
    const [from, ...more] = nodesWith(file, component);
    if (from === undefined || more.length > 0 || nodes[to] === undefined || from === to) continue;
    nodes[from] = { ...nodes[from]!, components: nodes[from]!.components.filter((name) => name !== component) };
    nodes[to] = { ...nodes[to], components: [...nodes[to].components, component] };
  }
  const config = { ...file.config };
  for (const [component, own] of Object.entries(settings.config)) {
    if (nodesWith(file, component).length > 0) config[component] = { ...config[component], ...own };
  }
  return { ...file, nodes, config };
}
