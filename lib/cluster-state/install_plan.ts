import { z } from "zod";
import { storePathSchema } from "./store_path.ts";

/** Only a stable name counts: /dev/sda is another disk after the next boot. */
const byIdSchema = z.string().regex(
  /^\/dev\/disk\/by-id\/[A-Za-z0-9._:@+=-]{1,200}$/,
  "wanted a stable name /dev/disk/by-id/...",
);

const fields = {
  nixos_configuration: z.string().regex(/^[A-Za-z0-9_-]{1,100}$/).describe(
    "Name of the configuration in the flake bundle",
  ),
  disko_config_path: z.string().max(512).regex(
    /^(?!\/)(?!.*(^|\/)\.\.(\/|$))[A-Za-z0-9._\/-]+$/,
    "wanted a path below the bundle",
  )
    .describe("Disk layout, as a path in the flake bundle"),
  target_disk_by_id: byIdSchema.describe(
    "The disk that is written; it must be there under this name",
  ),
  expected_disk_serial: z.string().min(1).max(128).describe(
    "Refused when the disk says another one",
  ),
  expected_disk_bytes_min: z.number().int().min(1).describe(
    "Refused when the disk is smaller",
  ),
  expected_disk_bytes_max: z.number().int().min(1).describe(
    "Refused when the disk is larger",
  ),
  wipe_existing_data: z.boolean().describe(
    "Lets the installer write over data of nobody it knows; data of an enrolled node is never written over",
  ),
  target_system: storePathSchema.describe(
    "The closure to install; without it that of desired_system",
  ),
};

/** A part of an install plan: of a class, or what a node has of its own over its class. */
export const installPlanOverlaySchema = z.strictObject(fields).partial();

/** A plan that can be carried out. */
export const installPlanSchema = z.strictObject({
  ...fields,
  expected_disk_serial: fields.expected_disk_serial.optional(),
  expected_disk_bytes_min: fields.expected_disk_bytes_min.optional(),
  expected_disk_bytes_max: fields.expected_disk_bytes_max.optional(),
  wipe_existing_data: fields.wipe_existing_data.default(false),
  target_system: fields.target_system.optional(),
}).refine(
  (plan) =>
    (plan.expected_disk_bytes_min ?? 0) <=
      (plan.expected_disk_bytes_max ?? Infinity),
  {
    path: ["expected_disk_bytes_max"],
    error: "must not be below expected_disk_bytes_min",
  },
);

export type InstallPlanOverlay = z.infer<typeof installPlanOverlaySchema>;
export type InstallPlan = z.infer<typeof installPlanSchema>;
