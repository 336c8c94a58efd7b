import { fault } from "@ultracloud/base";
import type { HostReport } from "../doctor/mod.ts";
import { aptRetries } from "../image/mod.ts";
import type { Progress } from "./progress.ts";

/** Installs what the host lacks, as root only; says first what it installs. Answers whether VMs can run. */
export async function installMissing(report: HostReport, progress: Progress, signal: AbortSignal): Promise<boolean> {
  if (report.missingPackages.length === 0) return true;
  if (!report.root) {
    progress.say(
      `Missing packages: ${report.missingPackages.join(", ")}. Install them with:\n  ${report.installCommand}`,
    );
    return !report.missingPackages.some((pkg) => pkg.startsWith("qemu"));
  }
  progress.say(`Installing with apt-get: ${report.missingPackages.join(", ")}`);
  await apt(["update"], progress, signal);
  await apt(["install", "-y", "--no-install-recommends", ...report.missingPackages], progress, signal);
  return true;
}

async function apt(args: readonly string[], progress: Progress, signal: AbortSignal): Promise<void> {
  progress.note(`apt-get ${args[0]}`);
  const command = new Deno.Command("apt-get", {
    args: ["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120", ...aptRetries, ...args],
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal,
  });
  const { success, code, stderr } = await command.output();
  signal.throwIfAborted();
  if (!success) {
    const tail = new TextDecoder().decode(stderr).trimEnd().split("\n").slice(-5).join("\n");
    throw fault(
      "failed_precondition",
      "packages_failed",
      `Cannot install packages: apt-get ${args[0]} ended with ${code}\n${tail}`,
    );
  }
}
