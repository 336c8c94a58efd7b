import { baseShape } from "@ultracloud/config";
import { z } from "zod";
import { parseRange } from "./domain/addresses.ts";

const rangesSchema = z.array(
  z.string().refine((range) => parseRange(range) !== undefined, "is no range like 10.1.0.0/16"),
).max(32).default([]);

export const hookSchema = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9-]{0,62}$/).describe(
    "Names the hook in requests, in its files and in metrics",
  ),
  database: z.string().min(1).describe(
    "Database of flaredb, with the setting capture",
  ),
  tables: z.array(z.string().min(1)).max(100).default([]).describe(
    "Tables whose changes are posted; empty: all",
  ),
  url: z.url({ protocol: /^https?$/ }).refine(
    (url) => new URL(url).username === "",
    "has a user in it",
  ).describe(
    "Where changes are posted; https, or http with insecure",
  ),
  secretFile: z.string().min(1).describe(
    "Secret that requests are signed with, shared with the receiver",
  ),
  insecure: z.boolean().default(false).describe(
    "Allows http: signed all the same, but anybody on the way can read",
  ),
  caFile: z.string().min(1).optional().describe(
    "PEM file of the receiver's authorities beside the well-known ones",
  ),
}).refine(
  ({ url, insecure }) => insecure || url.startsWith("https:"),
  "needs https, or insecure",
);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    flaredb: z.array(z.url()).min(1).describe("Members of flaredb"),
  }),
  hooks: z.array(hookSchema).max(64).default([]).refine(
    (hooks) => new Set(hooks.map(({ name }) => name)).size === hooks.length,
    "two hooks have one name",
  ).describe("What is posted where"),
  privateRanges: rangesSchema.describe(
    "Private ranges that hooks and images may reach all the same, once the component is granted them; not those of tenants",
  ),
  tenants: z.strictObject({
    enabled: z.boolean().default(true).describe("Delivers the webhooks that tenants made in flaredb"),
    allowPlain: z.boolean().default(false).describe(
      "Delivers to http, too: signed all the same, but anybody on the way can read; flaredb must allow it, too",
    ),
    privateRanges: rangesSchema.describe(
      "Private ranges that tenants' webhooks may reach all the same, once the component is granted them",
    ),
    deniedRanges: rangesSchema.describe(
      "Public ranges that tenants' webhooks may not reach, as the platform's own addresses",
    ),
    caFile: z.string().min(1).optional().describe(
      "PEM file of receivers' authorities beside the well-known ones",
    ),
    pollMs: z.number().int().min(50).max(60_000).default(1_000).describe(
      "How often flaredb is asked which webhooks there are",
    ),
  }).prefault({}),
  requestMsMax: z.number().int().min(100).max(120_000).default(15_000).describe(
    "A request that takes longer has failed",
  ),
  fetchSilenceMsMax: z.number().int().min(1_000).max(600_000).default(30_000).describe(
    "A server that says nothing for this long is not fetched from any longer",
  ),
  giveUpMs: z.number().int().min(1_000).max(604_800_000).default(86_400_000)
    .describe(
      "A hook whose receiver refuses the same changes for this long stops until the next start",
    ),
});

export type FetcherConfig = z.infer<typeof configSchema>;
