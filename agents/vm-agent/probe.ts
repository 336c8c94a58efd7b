import { type Clock, fault, utf8 } from "@ultracloud/base";
import type { Accelerator } from "./domain/argv.ts";
import { writeDurable } from "./files.ts";
import type { RunAs } from "./qemu.ts";

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** Why, for the log. */
  readonly reason: string;
}

/**
 * How long the firmware and a boot sector may take. Real KVM needs a tenth of a second; a KVM that answers its ioctls
 * but cannot run guests hangs, and one slower than this is slower than TCG.
 */
const probeTimeoutMs = 1_500;
/** A "no" costs the time limit, so it is remembered this long; a "yes" is cheap and always asked again. */
const refusalKeptMs = 3_600_000;
const exitPort = 0xf4;
/** isa-debug-exit ends QEMU with twice the byte plus one. */
const exitByte = 0x10;
const exitCode = exitByte * 2 + 1;
/** The firmware reads no disk smaller than a few tracks. */
const diskBytes = 1024 * 1024;

/** Version of the host's QEMU; a fault that names the package when there is none. */
export async function qemuVersion(): Promise<
  { readonly major: number; readonly minor: number; readonly text: string }
> {
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command("qemu-system-x86_64", {
      args: ["--version"],
      clearEnv: true,
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).output();
  } catch (cause) {
    throw fault(
      "failed_precondition",
      "qemu_missing",
      "Cannot run qemu-system-x86_64: wanted the packages qemu-system-x86 and qemu-utils",
      { cause },
    );
  }
  const match = /version (\d+)\.(\d+)[\d.]*/.exec(new TextDecoder().decode(output.stdout));
  if (!output.success || !match) throw fault("failed_precondition", "qemu_missing", "Cannot read QEMU's version");
  return { major: Number(match[1]), minor: Number(match[2]), text: match[0].slice("version ".length) };
}

/**
 * The accelerator to use. KVM counts as there only when a guest has booted under it with the CPU model VMs get:
 * the device file and the ioctls are present on hosts where no guest runs.
 */
export async function chooseAccelerator(
  options: { readonly configured: "auto" | "tcg" | "kvm"; readonly stateDir: string; readonly hostKey: string },
  deps: { readonly clock: Clock; readonly signal: AbortSignal },
): Promise<AcceleratorChoice> {
  if (options.configured === "tcg") return { accelerator: "tcg", reason: "configured" };
  const path = `${options.stateDir}/kvm-refusal.json`;
  const kept = options.configured === "auto" ? await readRefusal(path) : undefined;
  if (kept?.hostKey === options.hostKey && Math.abs(deps.clock.nowMs() - kept.atMs) < refusalKeptMs) {
    return { accelerator: "tcg", reason: `${kept.reason} (remembered)` };
  }
  const refusal = await bootUnder("kvm", `${options.stateDir}/probe.img`, deps);
  if (refusal === undefined) return { accelerator: "kvm", reason: "a guest booted under KVM" };
  if (options.configured === "kvm") {
    throw fault("failed_precondition", "kvm_unusable", `Cannot use KVM as configured: ${refusal}`);
  }
  const record = { hostKey: options.hostKey, atMs: deps.clock.nowMs(), reason: refusal };
  await writeDurable(path, utf8.encode(JSON.stringify(record)));
  return { accelerator: "tcg", reason: refusal };
}

/** Boots the probe's boot sector, as another user if one is named; undefined when it ran to its end, otherwise what went wrong. */
export async function bootUnder(
  accelerator: Accelerator,
  imagePath: string,
  deps: { readonly clock: Clock; readonly signal: AbortSignal },
  options: { readonly runAs?: RunAs; readonly timeoutMs?: number } = {},
): Promise<string | undefined> {
  const timeoutMs = options.timeoutMs ?? probeTimeoutMs;
  await Deno.writeFile(imagePath, bootDisk());
  // Nothing in it is anybody's secret.
  await Deno.chmod(imagePath, 0o644);
  const child = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35", "-m", "32"],
      ...["-accel", accelerator, "-cpu", accelerator === "kvm" ? "host" : "max"],
      ...["-drive", `file=${imagePath.replaceAll(",", ",,")},format=raw,if=none,id=boot,readonly=on`],
      ...["-device", "virtio-blk-pci,drive=boot,bootindex=0"],
      ...["-device", `isa-debug-exit,iobase=${exitPort},iosize=4`],
    ],
    clearEnv: true,
    ...options.runAs,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const stop = new AbortController();
  const late = deps.clock.sleep(timeoutMs, AbortSignal.any([stop.signal, deps.signal])).catch(() => {});
  const status = await Promise.race([child.status, late]);
  stop.abort();
  if (status) {
    return status.code === exitCode ? undefined : `the probe guest under ${accelerator} ended with ${status.code}`;
  }
  child.kill("SIGKILL");
  await child.status;
  deps.signal.throwIfAborted();
  return `the probe guest under ${accelerator} did not boot within ${timeoutMs} ms`;
}

function bootDisk(): Uint8Array {
  const disk = new Uint8Array(diskBytes);
  // mov dx, port; mov al, byte; out dx, al; halt: hlt; jmp halt
  disk.set([0xba, exitPort, 0x00, 0xb0, exitByte, 0xee, 0xf4, 0xeb, 0xfd]);
  disk.set([0x55, 0xaa], 510);
  return disk;
}

async function readRefusal(path: string): Promise<{ hostKey: string; atMs: number; reason: string } | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return undefined;
    throw error;
  }
}
