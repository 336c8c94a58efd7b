import { baseShape, tlsFilesSchema } from "@ultracloud/config";
import { z } from "zod";

const memberSchema = z.strictObject({
  id: z.number().int().min(1).max(2 ** 31).describe("Never used again after the member is gone"),
  name: z.string().min(1).max(63),
  peerUrl: z.url().describe("Where the other members reach its peer listener"),
  clientUrl: z.url().describe("Where clients reach it; told to those who ask a follower"),
});
/** The log takes room in steps of this. */
const logSegmentBytes = 16 * 2 ** 20;

export type MemberConfig = z.infer<typeof memberSchema>;

export const configSchema = z.strictObject({
  ...baseShape,
  memberId: z.number().int().min(1).default(1).describe("Which of the members this is"),
  members: z.array(memberSchema).max(9).default([]).describe(
    "Founding voters, or those to join; empty for a member that decides alone. Once running, the store's own table counts",
  ),
  join: z.boolean().default(false).describe(
    "Founds nothing and waits for the leader of the others: for a member that MemberAdd or MemberReplace has announced",
  ),
  peer: z.strictObject({
    listen: z.string().min(1).describe("host:port of the peer listener; only loopback without tls"),
    tls: tlsFilesSchema.optional(),
  }).optional().describe("Needed as soon as there are several members"),
  // etcd's proportions: ten heartbeats to an election. Under emulation an operator makes these longer.
  tickMs: z.number().int().min(5).max(10_000).default(50).describe("Length of a Raft tick"),
  electionTicks: z.number().int().min(3).max(1_000).default(10).describe("Ticks without a leader before an election"),
  heartbeatTicks: z.number().int().min(1).max(100).default(2).describe("Ticks between a leader's heartbeats"),
  historyRevisionsMax: z.number().int().min(0).default(100_000).describe(
    "Revisions of history kept at least; the leader compacts at twice as many, 0 keeps all",
  ),
  historyAgeMsMax: z.number().int().min(0).max(400 * 86_400_000).default(0).describe(
    "History older than this is compacted too; 0 keeps it",
  ),
  diskBytesFreeMin: z.number().int().min(0).default(64 * 2 ** 20).describe(
    "Free space of the disk below which writes are refused and the alarm NOSPACE is raised; 0 does not look",
  ),
  diskReserveBytes: z.number().int().min(0).max(2 ** 30).default(16 * 2 ** 20).describe(
    "Size of a file that is given up when the disk fills, so that the log never runs out in the middle of a record",
  ),
  hashCheckMs: z.number().int().min(0).default(30_000).describe(
    "How often members compare the hash of their state when it has changed; 0 never does",
  ),
  restoreRevisionBump: z.number().int().min(1).max(2 ** 40).default(1_000_000_000).describe(
    "How far above its backup a restored store goes on, so that nobody mistakes it for the old one",
  ),
  stateBytesMax: z.number().int().min(1 << 20).default(2 * 2 ** 30).describe(
    "Size of the state at which writes are refused; reads, deletes and compaction go on",
  ),
}).refine((c) => c.heartbeatTicks * 3 <= c.electionTicks, {
  path: ["heartbeatTicks"],
  error: "must be at most a third of electionTicks",
}).refine((c) => c.members.length === 0 || c.members.some((member) => member.id === c.memberId), {
  path: ["memberId"],
  error: "must be the id of one of members",
}).refine((c) => new Set(c.members.map((member) => member.id)).size === c.members.length, {
  path: ["members"],
  error: "must have different ids",
}).refine((c) => c.members.length < 2 || c.peer !== undefined, {
  path: ["peer"],
  error: "is needed with several members",
}).refine((c) => c.diskBytesFreeMin === 0 || c.diskBytesFreeMin >= 2 * logSegmentBytes, {
  path: ["diskBytesFreeMin"],
  error: `must be 0 or at least ${2 * logSegmentBytes}, as the log grows by ${logSegmentBytes} at once`,
}).refine((c) => !c.join || c.members.length > 1, {
  path: ["members"],
  error: "must hold this member and at least one to join",
});

export type ChainfireConfig = z.infer<typeof configSchema>;
