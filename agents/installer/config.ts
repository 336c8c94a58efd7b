import { z } from "zod";

const program = z.array(z.string().min(1).max(4096)).min(1).max(8);

export const configSchema = z.strictObject({
  cmdlineFile: z.string().startsWith("/").default("/proc/cmdline").describe("Where the kernel's parameters stand"),
  dmiDir: z.string().startsWith("/").default("/sys/class/dmi/id").describe("Where the board says who it is"),
  efiDir: z.string().startsWith("/").default("/sys/firmware/efi").describe("There when the machine booted by UEFI"),
  byIdDir: z.string().startsWith("/").default("/dev/disk/by-id").describe("Stable names of the disks"),
  mediumLabel: z.string().min(1).default("UCISO").describe("Label of what the installer itself was started from"),
  targetDir: z.string().regex(/^\/.*[^/]$/).default("/mnt").describe("Where the new system is put together"),
  stateDir: z.string().startsWith("/").default("/var/lib/ultracloud/installer").describe(
    "What is needed for the length of one installation: Nix's home, a place to look at other file systems",
  ),
  disko: z.boolean().default(false).describe(
    "Partition with the program `ultracloud-disko CONFIGURATION DISK ROOT` of the medium instead of the built-in layout",
  ),
  nixosInstall: z.boolean().default(false).describe(
    "Finish with `nixos-install` of the medium; otherwise with the closure's own switch-to-configuration",
  ),
  // The firmware, two loaders and a handful of kernels.
  espBytes: z.number().int().min(64 * 2 ** 20).default(512 * 2 ** 20).describe("Built-in layout: the EFI partition"),
  rebootCommand: program.default(["systemctl", "reboot"]).describe("Ends the installer's boot"),
  retryMsMin: z.number().int().min(10).default(2_000).describe("Pause after the first failure; it doubles"),
  retryMsMax: z.number().int().min(10).default(60_000).describe("Longest pause between two attempts"),
  copyTimeoutMs: z.number().int().min(1_000).default(3_600_000).describe("Longest copy of a closure"),
});

export type InstallerConfig = z.infer<typeof configSchema>;
