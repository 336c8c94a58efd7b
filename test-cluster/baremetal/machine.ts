import { isAlive, type ProcessIdentity, signalProcess, spawnDetached, waitGone } from "@ultracloud/launch";
import { type MarkerLine, parseMarkers } from "@ultracloud/cluster-state";
import { tool } from "../harness/tools.ts";

const firmware = { code: "/usr/share/OVMF/OVMF_CODE_4M.fd", vars: "/usr/share/OVMF/OVMF_VARS_4M.fd" } as const;
/** Code that the emulator has translated; beyond this it begins anew. */
const translatedMib = 256;
const gib = 2 ** 30;

/** A machine of bare metal as QEMU plays it. */
export interface MachineSpec {
  /** Directory of its own: disk, firmware's variables, console. */
  readonly dir: string;
  readonly name: string;
  /** What its board says it is. */
  readonly serial: string;
  /** Serial of its disk; `/dev/disk/by-id/virtio-<diskSerial>` leads to it. At most 20 characters. */
  readonly diskSerial: string;
  readonly accelerator?: "kvm" | "tcg";
  readonly memoryMib?: number;
  readonly diskBytes?: number;
}

/** Makes the disk and the firmware's variables of a machine that was never switched on. */
export async function makeMachine(spec: MachineSpec): Promise<void> {
  await Deno.mkdir(spec.dir, { recursive: true, mode: 0o700 });
  await Deno.copyFile(firmware.vars, `${spec.dir}/vars.fd`);
  await tool(["truncate", "-s", String(spec.diskBytes ?? 4 * gib), `${spec.dir}/disk.img`]);
}

/**
 * Program and arguments of the machine: firmware, memory, board, network and disk. Without a medium, a serial line and a
 * monitor, which its user adds. The disk comes first in the boot order: an empty one falls through to the medium, an
 * installed one wins. One processor: under emulation Debian's QEMU 7.2 is unreliable with two.
 */
export function machineArgs(spec: MachineSpec): string[] {
  const { dir } = spec;
  const accelerator = spec.accelerator === "kvm" ? "kvm" : `tcg,tb-size=${translatedMib}`;
  return [
    ...["qemu-system-x86_64", "-name", spec.name, "-nodefaults", "-no-user-config", "-display", "none"],
    ...["-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "1"],
    ...["-m", String(spec.memoryMib ?? 1536)],
    ...["-drive", `if=pflash,format=raw,unit=0,readonly=on,file=${firmware.code}`],
    ...["-drive", `if=pflash,format=raw,unit=1,file=${dir}/vars.fd`],
    ...["-smbios", `type=1,manufacturer=UltraCloud,product=Test Machine,serial=${spec.serial}`],
    ...["-netdev", "user,id=lan", "-device", "virtio-net-pci,netdev=lan,romfile="],
    ...["-device", "virtio-rng-pci"],
    ...["-drive", `file=${dir}/disk.img,if=none,id=disk,format=raw,cache=writeback,discard=unmap`],
    ...["-device", `virtio-blk-pci,drive=disk,serial=${spec.diskSerial},bootindex=1`],
  ];
}

/** A CD with the image, after the disk in the boot order. */
export function mediumArgs(iso: string): string[] {
  return [
    ...["-drive", `file=${iso},if=none,id=medium,media=cdrom,readonly=on,format=raw`],
    ...["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=medium,bootindex=2"],
  ];
}

/** The serial line, appended to the file over every start. */
export function consoleArgs(file: string): string[] {
  return ["-chardev", `file,id=console,path=${file},append=on`, "-serial", "chardev:console"];
}

/** A machine under power, or not. Power is the process: taken away, what the guest had not flushed is lost. */
export class Machine implements AsyncDisposable {
  readonly spec: MachineSpec;
  #process: ProcessIdentity | undefined;

  constructor(spec: MachineSpec) {
    this.spec = spec;
  }

  get consoleFile(): string {
    return `${this.spec.dir}/console.log`;
  }

  get powered(): boolean {
    return this.#process !== undefined && isAlive(this.#process);
  }

  powerOn(medium?: string): void {
    if (this.powered) return;
    const child = spawnDetached({
      name: this.spec.name,
      command: [
        ...machineArgs(this.spec),
        ...medium === undefined ? [] : mediumArgs(medium),
        ...consoleArgs(this.consoleFile),
      ],
      logFile: `${this.spec.dir}/qemu.log`,
      env: { PATH: Deno.env.get("PATH") ?? "/usr/bin:/bin" },
    });
    child.unref();
    this.#process = child.identity;
  }

  async powerOff(): Promise<void> {
    if (this.#process === undefined) return;
    signalProcess(this.#process, "SIGKILL");
    await waitGone([this.#process], 10_000);
    this.#process = undefined;
  }

  async console(): Promise<string> {
    return (await Deno.readTextFile(this.consoleFile).catch(() => "")).replaceAll("\r", "");
  }

  /** Markers that the console has shown since its first start. */
  async markers(): Promise<MarkerLine[]> {
    return parseMarkers(await this.console());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.powerOff();
  }
}
