import { baseShape } from "@ultracloud/config";
import { z } from "zod";

const mib = 2 ** 20;
const gib = 2 ** 30;
const bytes = z.number().int().positive();

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    plasmavmc: z.array(z.url()).min(1).describe("Where the worker registers and fetches images"),
  }),
  // One machine needs no telling apart.
  nodeName: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/).default("local").describe(
    "Name of this worker in the cluster",
  ),
  agentUrl: z.url().optional().describe("Where plasmavmc reaches this agent; by default http:// and rpc.listen"),
  labels: z.record(z.string(), z.string()).default({}).describe("What placement may select this worker by"),
  accelerator: z.enum(["auto", "tcg", "kvm"]).default("auto").describe(
    "auto: KVM when a guest boots under it, else TCG; kvm: refuse to work without",
  ),
  capacity: z.strictObject({
    // Guests of a small cloud idle; four to one is what such hosts run with.
    vcpusPerCore: z.number().min(1).max(64).default(4),
    memoryReserveBytes: z.number().int().min(0).default(gib).describe("Left to the host and this agent"),
    // The platform lets no confined process ask a file system for its room.
    diskBytes: bytes.default(64 * gib).describe("Room for disks below stateDir"),
  }).default({ vcpusPerCore: 4, memoryReserveBytes: gib, diskBytes: 64 * gib }),
  // Above those of Debian's packages and of people, below those of containers.
  qemuUids: z.union([z.literal("auto"), z.literal("own"), z.number().int().min(1_000).max(2 ** 31)]).default("auto")
    .describe("First of 1 024 uids QEMUs run as, one each; auto: 640000 where root and reachable; own: as the agent"),
  // Above what Linux hands out by itself, below nothing that DECISIONS names.
  migration: z.strictObject({
    address: z.ipv4().describe("Of this host, as the QEMUs of other workers reach it"),
    portFirst: z.number().int().min(1_024).max(65_535 - 128).default(7300).describe(
      "First of 128 TCP ports: two for each VM that arrives, its memory and its disks",
    ),
  }).optional().describe("Takes in guests of other hosts by TLS; without it only those of workers on this host"),
  consoleBytesMax: bytes.default(mib).describe("Console history kept for each VM"),
  imageCacheBytesMax: bytes.default(16 * gib).describe("Images no VM uses are removed beyond this"),
  tickMs: z.number().int().min(50).default(1_000).describe("How often consoles are trimmed and silent VMs looked at"),
});

export type VmAgentConfig = z.infer<typeof configSchema>;
