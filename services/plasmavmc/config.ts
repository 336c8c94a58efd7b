import { baseShape } from "@ultracloud/config";
import { z } from "zod";

const endpoints = z.array(z.url()).min(1);
const gib = 1024 ** 3;

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: endpoints.describe("Where records live"),
    chainfire: endpoints.describe("Where replicas agree on who reconciles, and nodes hold leases"),
    iam: endpoints.describe("Where policy comes from"),
    prismnet: endpoints.describe("Where ports come from"),
    fetcher: endpoints.optional().describe("Who fetches images from URLs; without it nobody does"),
    "vm-agent": endpoints.optional().describe("Not read: workers are called at the address they register"),
  }),
  imageBytesMax: z.number().int().positive().default(32 * gib).describe("Largest image that may be imported"),
  imageVirtualBytesMax: z.number().int().positive().default(2048 * gib).describe("Largest disk an image may unfold to"),
  // Three missed heartbeats of a third each, plus a slow one.
  nodeLeaseTtlMs: z.number().int().min(1000).default(10_000).describe(
    "After this long without heartbeat a node is lost",
  ),
  // A worker ends its guests before its lease can have run out; this is for a QEMU that dies slowly.
  fenceGraceMs: z.number().int().min(0).default(5_000).describe(
    "How long after the end of its lease a worker's VMs may be started elsewhere",
  ),
  reconcileMs: z.number().int().min(100).default(5_000).describe("How often workers are compared with the records"),
  // Most of an operation is waiting for a worker.
  operationsAtOnce: z.number().int().min(8).default(64).describe("Operations worked on at once"),
  quota: z.strictObject({
    vms: z.number().int().min(0).default(100),
    vcpus: z.number().int().min(0).default(200),
    memoryBytes: z.number().int().min(0).default(256 * gib),
    diskBytes: z.number().int().min(0).default(4096 * gib),
  }).default({ vms: 100, vcpus: 200, memoryBytes: 256 * gib, diskBytes: 4096 * gib }).describe(
    "Limits of each project",
  ),
});

export type PlasmavmcConfig = z.infer<typeof configSchema>;
