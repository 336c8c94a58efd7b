import { baseShape, tlsFilesSchema } from "@ultracloud/config";
import { z } from "zod";

const endpoints = z.array(z.url()).min(1);
const hourMs = 3_600_000;

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: endpoints.describe("Where records live"),
    chainfire: endpoints.describe("Where replicas agree on who writes"),
    // A cluster is bootstrapped before it has an iam: then there is the operator, and there are the agents.
    iam: z.array(z.url()).default([]).describe("Where policy comes from; empty: no person is let in"),
  }),
  advertiseUrl: z.url().optional().describe(
    "Where callers of a standby are sent when this one writes; by default rpc.listen",
  ),
  bootstrap: z.strictObject({
    listen: z.string().min(1).describe("host:port that machines phone home to; only loopback without tls"),
    tls: tlsFilesSchema.optional().describe("The CA in caFile is what machines pin and are given"),
    url: z.url().optional().describe("How machines reach it; by default bootstrap.listen"),
  }),
  allow_unauthenticated: z.boolean().default(false).describe(
    "Lab only: machines enrol without a token. Shown as a warning wherever the deployer says how it is",
  ),
  // A rack that is powered on at once.
  pendingMax: z.number().int().min(1).max(10_000).default(1_000).describe(
    "Unknown machines kept; further ones are refused",
  ),
  pendingTtlMs: z.number().int().min(1_000).max(30 * 24 * hourMs).default(24 * hourMs).describe(
    "How long an unknown machine that is silent stays in the list",
  ),
  leaseTtlMs: z.number().int().min(1_000).max(600_000).default(10_000).describe(
    "A writer that is silent for this long is replaced by a standby",
  ),
  unreachableMs: z.number().int().min(1_000).max(24 * hourMs).default(120_000).describe(
    "A node whose agent is silent for this long counts as unavailable",
  ),
  reconcileMs: z.number().int().min(50).max(60_000).default(1_000).describe("How often rollouts are looked at"),
});

export type DeployerConfig = z.infer<typeof configSchema>;
