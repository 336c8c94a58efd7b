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

/** The cluster as it runs on a substrate: emulated processors want longer election timeouts. */
export function withSettings(file: ClusterFile, settings: SubstrateSettings): ClusterFile {
  const config = { ...file.config };
  for (const [component, own] of Object.entries(settings.config)) {
    if (nodesWith(file, component).length > 0) config[component] = { ...config[component], ...own };
  }
  return { ...file, config };
}
