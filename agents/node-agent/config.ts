import { baseShape } from "@ultracloud/config";
import { z } from "zod";
import { confinementKinds } from "./domain/confinement.ts";

const gib = 2 ** 30;
const name = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    "fleet-scheduler": z.array(z.url()).min(1).describe("Where the node registers and learns what it shall run"),
  }),
  nodeName: name.default("local").describe("Name of this node in the cluster"),
  agentUrl: z.url().optional().describe("Where fleet-scheduler reaches this agent; by default http:// and rpc.listen"),
  class: name.optional().describe("Class of the node in the cluster state"),
  pool: name.optional().describe("Pool of the node in the cluster state"),
  labels: z.record(z.string(), z.string()).default({}).describe("What placement may select this node by"),
  launcher: z.string().startsWith("/").optional().describe(
    "Program that runs one instance; by default `launcher` beside the configuration",
  ),
  confinement: z.enum(["auto", ...confinementKinds]).default("auto").describe(
    "What holds instances together and within their limits: units of systemd, control groups of version 2, process " +
      "groups alone; auto: the first of them that this host has",
  ),
  capacity: z.strictObject({
    cpuMillis: z.number().int().positive().optional().describe("By default all cores"),
    memoryBytes: z.number().int().positive().optional().describe(
      "By default what is left of the host's after the reserve",
    ),
    memoryReserveBytes: z.number().int().min(0).default(gib).describe("Left to the host and its agents"),
  }).default({ memoryReserveBytes: gib }),
  tickMs: z.number().int().min(50).default(250).describe("How often instances are looked at"),
});

export type NodeAgentConfig = z.infer<typeof configSchema>;
