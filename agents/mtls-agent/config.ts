import { baseShape } from "@ultracloud/config";
import { z } from "zod";

export const certificateSchema = z.strictObject({
  identity: z.string().regex(/^(svc|node)\/[A-Za-z0-9._-]{1,63}$/).describe("svc/NAME or node/NAME of the cluster"),
  instance: z.string().regex(/^[A-Za-z0-9._-]{1,63}$/).optional().describe("Last part of its SPIFFE id: a node's name"),
  identityKeyFile: z.string().min(1).describe("Private JWK of that identity, whose public half is in the trust file"),
  dir: z.string().min(1).describe("Directory that gets tls.crt, tls.key and ca.crt"),
  authoritiesFile: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/).default("ca.crt").describe(
    "Name of the file with the authorities in that directory",
  ),
  names: z.array(z.string()).default([]).describe("DNS names and IP addresses beside the loopback ones"),
});

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    iam: z.array(z.url()).min(1).describe("Who issues certificates"),
    deployer: z.array(z.url()).default([]).describe(
      "Who says whom this node trusts; empty: the trust file stays as somebody wrote it",
    ),
  }),
  certificates: z.array(certificateSchema).max(64).default([]).describe("What is kept"),
  standingCaFile: z.string().min(1).optional().describe(
    "Authorities that are trusted beside iam's while this file is there: for certificates signed by hand",
  ),
  pollMs: z.number().int().min(100).max(600_000).default(60_000).describe(
    "How often authorities and ages are looked at; well below how long iam publishes a new authority",
  ),
});

export type MtlsAgentConfig = z.infer<typeof configSchema>;
