import { baseShape } from "@ultracloud/config";
import { z } from "zod";

const endpoints = z.array(z.url()).min(1);

export const configSchema = z.strictObject({
  ...baseShape,
  peers: z.strictObject({
    deployer: endpoints.describe("Who says what the node should become"),
    chainfire: endpoints.describe("Where drains are agreed on, and where desired systems stand too"),
  }),
  // One machine needs no telling apart.
  nodeName: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/).default("local").describe("Name of this node"),
  source: z.enum(["deployer", "chainfire"]).default("deployer").describe("Where the desired system is read"),
  root: z.string().regex(/^(\/.*[^/])?$/).default("").describe(
    "Directory that is the root of the store and its profiles, as for installers; empty: the host itself",
  ),
  profile: z.string().startsWith("/").default("/nix/var/nix/profiles/system").describe("The profile of the system"),
  nixConfDir: z.string().startsWith("/").optional().describe("Directory of nix.conf, when it is not Nix's own"),
  launcher: z.enum(["auto", "systemd", "setsid"]).default("auto").describe(
    "What runs a trial apart from the agent: a transient unit, or a session of its own; auto: a unit where systemd runs",
  ),
  bootIdFile: z.string().startsWith("/").default("/proc/sys/kernel/random/boot_id").describe(
    "Tells one boot of the host from the next",
  ),
  rebootCommand: z.array(z.string().min(1)).min(1).max(8).default(["systemctl", "reboot"]).describe(
    "Run for activation `reboot`, once the generation is the boot default",
  ),
  pollMs: z.number().int().min(50).max(600_000).default(15_000).describe("Longest wait for a change of intent"),
  retryMs: z.number().int().min(50).max(3_600_000).default(30_000).describe(
    "Pause before something that did not touch the profile is tried again: an unreachable cache, a refused drain",
  ),
  copyTimeoutMs: z.number().int().min(1_000).max(24 * 3_600_000).default(3_600_000).describe("Longest copy"),
  markers: z.boolean().default(false).describe(
    "Print markers of a change's end on standard output, which an installed host shows on its console",
  ),
  switchTimeoutMs: z.number().int().min(1_000).max(3_600_000).default(600_000).describe(
    "Longest switch; one that takes longer is rolled back",
  ),
});

export type NixAgentConfig = z.infer<typeof configSchema>;
