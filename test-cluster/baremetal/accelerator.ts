import { runTool } from "../harness/tools.ts";
import { exists } from "./store.ts";
import type { Kernel } from "./kernel.ts";
import { probeWord } from "./early.ts";

/** What the machines' processors are, and how that was found. */
export interface Accelerator {
  readonly mode: "kvm" | "tcg";
  readonly reason: string;
}

/** A kernel that comes up at all does so in a second. */
const probeTimeoutMs = 12_000;

/**
 * Boots a kernel under KVM and waits for its word. That `/dev/kvm` is there, and that its ioctls succeed, says nothing: on
 * some hosts every guest hangs in it.
 */
export async function probeAccelerator(cacheDir: string, kernel: Kernel): Promise<Accelerator> {
  // The answer holds as long as the host runs: it costs twelve seconds where KVM does not work.
  const boot = (await Deno.readTextFile("/proc/sys/kernel/random/boot_id")).trim();
  const file = `${cacheDir}/baremetal/accelerator.json`;
  const known = await Deno.readTextFile(file).then(JSON.parse, () => undefined);
  if (known?.boot === boot && known.kernel === kernel.digest) return { mode: known.mode, reason: known.reason };
  const found = await probe(kernel);
  await Deno.writeTextFile(file, JSON.stringify({ boot, kernel: kernel.digest, ...found }, null, 2) + "\n");
  return found;
}

async function probe(kernel: Kernel): Promise<Accelerator> {
  if (!await exists("/dev/kvm")) return { mode: "tcg", reason: "the host has no /dev/kvm" };
  const argv = [
    ...["timeout", "-k", "1", String(probeTimeoutMs / 1000), "qemu-system-x86_64", "-nodefaults", "-no-user-config"],
    ...["-machine", "q35,accel=kvm", "-cpu", "max", "-m", "512", "-display", "none", "-no-reboot"],
    ...["-kernel", `${kernel.dir}/vmlinuz`, "-initrd", `${kernel.dir}/initrd-medium`],
    ...["-append", `console=ttyS0 panic=-1 ${probeWord}`, "-serial", "stdio"],
  ];
  const { stdout, stderr } = await runTool(argv, { timeoutMs: 2 * probeTimeoutMs });
  if (stdout.includes(`${probeWord} is up`)) return { mode: "kvm", reason: "a kernel came up under it" };
  const said = stderr.trim().split("\n")[0] ?? "";
  return { mode: "tcg", reason: `no kernel comes up under /dev/kvm${said === "" ? "" : `: ${said.slice(0, 200)}`}` };
}
