import { baseShape, tlsFilesSchema } from "@ultracloud/config";
import { z } from "zod";

const memberSchema = z.strictObject({
  id: z.number().int().min(1).max(2 ** 31).describe("Never used again after the member is gone"),
  name: z.string().min(1).max(63),
  peerUrl: z.url().describe("Where the other members reach its peer listener"),
  clientUrl: z.url().describe("Where clients reach it; told to those who ask a follower"),
});
export type MemberConfig = z.infer<typeof memberSchema>;

export const configSchema = z.strictObject({
  ...baseShape,
  memberId: z.number().int().min(1).default(1).describe("Which of the members this is"),
  members: z.array(memberSchema).max(9).default([]).describe("Founding voters; empty for a member that decides alone"),
  peer: z.strictObject({
    listen: z.string().min(1).describe("host:port of the peer listener; only loopback without tls"),
    tls: tlsFilesSchema.optional(),
  }).optional().describe("Needed as soon as there are several members"),
  // The same proportions as chainfire's; under emulation an operator makes these longer.
  tickMs: z.number().int().min(5).max(10_000).default(50).describe("Length of a Raft tick"),
  electionTicks: z.number().int().min(3).max(1_000).default(10).describe("Ticks without a leader before an election"),
  heartbeatTicks: z.number().int().min(1).max(100).default(2).describe("Ticks between a leader's heartbeats"),
  sql: z.strictObject({
    // A scan visits some 10 million rows a second, and nothing else of the process runs meanwhile.
    costRowsMax: z.number().int().min(1_000).max(1_000_000_000).default(20_000_000).describe(
      "Rows the plan of one statement may visit, by estimate",
    ),
    queryMsMax: z.number().int().min(10).max(60_000).default(5_000).describe(
      "A query that still yields rows after this long is cut",
    ),
    backupAgeMsMax: z.number().int().min(1_000).max(30 * 86_400_000).default(86_400_000).describe(
      "A migration that loses data needs a full backup at most this old",
    ),
  }).default({ costRowsMax: 20_000_000, queryMsMax: 5_000, backupAgeMsMax: 86_400_000 }),
  webhooks: z.strictObject({
    allowPlain: z.boolean().default(false).describe(
      "Takes webhooks with http: signed all the same, but anybody on the way can read; the fetcher must allow it, too",
    ),
  }).default({ allowPlain: false }),
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
});

export type FlaredbConfig = z.infer<typeof configSchema>;
