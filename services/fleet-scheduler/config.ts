import { baseShape } from "@ultracloud/config";
import { z } from "zod";

const endpoints = z.array(z.url()).min(1);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: endpoints.describe("Where records live"),
    chainfire: endpoints.describe("Where replicas agree on who decides, and nodes hold leases"),
    iam: endpoints.describe("Where policy comes from"),
    "node-agent": endpoints.optional().describe("Not read: agents are called at the address they register"),
  }),
  // Three missed heartbeats of a third each, plus a slow one.
  nodeLeaseTtlMs: z.number().int().min(4_000).default(10_000).describe(
    "After this long without heartbeat a node is lost, and what it ran has stopped",
  ),
  tickMs: z.number().int().min(50).default(500).describe("How often the fleet is looked at"),
});

export type FleetSchedulerConfig = z.infer<typeof configSchema>;
