import { nodePrincipals } from "@ultracloud/authz";
import { handoverDir } from "@ultracloud/bootstrap";
import { z } from "zod";

export const configSchema = z.strictObject({
  handoverDir: z.string().startsWith("/").default(handoverDir).describe("What the installer left"),
  credentialsDir: z.string().startsWith("/").default("/var/lib/ultracloud/credentials").describe(
    "Where the trust file and one directory for each agent are written",
  ),
  agents: z.array(z.enum(nodePrincipals)).min(1).default(["nix-agent", "mtls-agent"]).describe(
    "Agents of this node that get keys of their own and a first certificate",
  ),
  retryMsMin: z.number().int().min(10).default(2_000).describe("Pause after the first failure; it doubles"),
  retryMsMax: z.number().int().min(10).default(60_000).describe("Longest pause between two attempts"),
  agent: z.record(z.string(), z.unknown()).default({}).describe(
    "Goes over what nix-agent is configured with, for hosts that differ: `launcher`, `rebootCommand`",
  ),
});

export type FirstBootConfig = z.infer<typeof configSchema>;
