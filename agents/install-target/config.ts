import { handoverDir } from "@ultracloud/bootstrap";
import { z } from "zod";

export const configSchema = z.strictObject({
  cmdlineFile: z.string().startsWith("/").default("/proc/cmdline").describe("Names the system that was booted"),
  entriesDir: z.string().startsWith("/").default("/boot/loader/entries").describe("Entries of the boot loader"),
  handoverDir: z.string().startsWith("/").default(handoverDir).describe("What the installer left"),
  postTimeoutMs: z.number().int().min(100).default(10_000).describe(
    "A deployer that does not take the marker within this is not waited for: the console has it",
  ),
});

export type InstallTargetConfig = z.infer<typeof configSchema>;
