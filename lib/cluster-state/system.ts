import { z } from "zod";
import { commandSchema } from "./_names.ts";
import { storePathSchema } from "./store_path.ts";

const minuteMs = 60_000;

const fields = {
  target_system: storePathSchema.describe(
    "The closure that becomes the system; it carries bin/switch-to-configuration",
  ),
  activation: z.enum(["switch", "reboot"]).describe(
    "switch: in the running system; reboot: as the next boot's trial",
  ),
  pre_switch_checks: z.array(commandSchema).max(16).describe(
    "Run before the profile is touched; one that fails keeps the node as it is",
  ),
  health_check_command: commandSchema.describe(
    "Exit code 0 means healthy; /bin/... below the target is found there",
  ),
  health_check_grace_ms: z.number().int().min(0).max(30 * minuteMs).describe(
    "Wait between the switch and the first try",
  ),
  health_check_timeout_ms: z.number().int().min(10).max(10 * minuteMs).describe(
    "How long one try may take",
  ),
  health_check_attempts: z.number().int().min(1).max(100).describe(
    "Tries in all; one success is enough",
  ),
  health_check_interval_ms: z.number().int().min(10).max(10 * minuteMs)
    .describe("Pause between two tries"),
  contact_timeout_ms: z.number().int().min(100).max(60 * minuteMs).describe(
    "After the switch the deployer must be reached within this, else the node goes back; 0 is not possible",
  ),
  free_bytes_min: z.number().int().min(0).describe(
    "Free space in the store that must remain after the copy",
  ),
  drain: z.enum(["required", "skip"]).describe(
    "Whether the services of the node are moved away before the switch",
  ),
  drain_timeout_ms: z.number().int().min(1000).max(24 * 60 * minuteMs).describe(
    "How long the drain may take; after it nothing is switched",
  ),
  intent: z.string().max(128).describe(
    "Any text; a new one tries a generation again that was rejected before",
  ),
};

export const desiredSystemOverlaySchema = z.strictObject(fields).partial();

/** What a node should become. The defaults are those of a server that takes a minute to settle. */
export const desiredSystemSchema = z.strictObject({
  target_system: fields.target_system,
  activation: fields.activation.default("switch"),
  pre_switch_checks: fields.pre_switch_checks.default([]),
  health_check_command: fields.health_check_command.optional(),
  health_check_grace_ms: fields.health_check_grace_ms.default(2_000),
  health_check_timeout_ms: fields.health_check_timeout_ms.default(30_000),
  health_check_attempts: fields.health_check_attempts.default(5),
  health_check_interval_ms: fields.health_check_interval_ms.default(5_000),
  contact_timeout_ms: fields.contact_timeout_ms.default(5 * minuteMs),
  free_bytes_min: fields.free_bytes_min.default(64 * 2 ** 20),
  drain: fields.drain.default("skip"),
  drain_timeout_ms: fields.drain_timeout_ms.default(30 * minuteMs),
  intent: fields.intent.default(""),
});

export type DesiredSystemOverlay = z.infer<typeof desiredSystemOverlaySchema>;
export type DesiredSystem = z.infer<typeof desiredSystemSchema>;

/** Where a node's system stands; the words of nix-agent's journal, of the deployer's records and of `uc`. */
export const systemStates = [
  "idle",
  "preflight",
  "copying",
  "activating",
  "verifying",
  "active",
  "rolled-back",
  "failed",
] as const;
export type SystemState = typeof systemStates[number];
