import { assert } from "@ultracloud/base";
import { blockDevice, blockNode, type Disk, nodeOf } from "./block.ts";
import { hardwareOf, hotPlugPorts, isMicrovm, type MachineType, microvmBuses } from "./hardware.ts";
import type { Layout } from "./layout.ts";
import { netdev, nicDevice } from "./nics.ts";
import type { VmSpec } from "./spec.ts";

export type Accelerator = "tcg" | "kvm";

/** Files and sockets of one power-on; absolute paths. */
export interface VmFiles {
  readonly qmpSocket: string;
  readonly serialSocket: string;
  readonly pidFile: string;
  readonly consoleLog: string;
  readonly seed: string;
  /** The root disk, if any, and the volumes. */
  readonly disks: readonly Disk[];
  /** A kernel bundle's parts; undefined: the disk boots. */
  readonly kernel: { readonly kernel: string; readonly initrd: string; readonly cmdline: string } | undefined;
}

export interface Host {
  readonly accelerator: Accelerator;
  /** Major and minor version of QEMU. */
  readonly qemuMajor: number;
  readonly qemuMinor: number;
}

/** The hardware generation of this host's QEMU; guests keep theirs when they move to a host with a newer one. */
export function machineTypeOf(host: Host, wanted: MachineType = "q35"): string {
  if (wanted === "microvm") return wanted;
  return `pc-q35-${host.qemuMajor}.${host.qemuMinor}`;
}

/** QEMU may start nothing, gain no privilege and change no limit of its own; a violation kills it. */
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/** vCPUs the guest gets: QEMU 7 under TCG boots guests of two vCPUs only about half the time. */
export function vcpusOn(host: Host, wanted: number): number {
  return host.accelerator === "tcg" && host.qemuMajor < 8 ? 1 : wanted;
}

/**
 * A microvm tells its devices by the kernel's command line, where unikernels look for them: with ACPI it would not.
 * Under TCG no kernel finds the time there but by PIT, PIC and RTC.
 */
const microvmOptions = "acpi=off,auto-kernel-cmdline=on,pit=on,pic=on,rtc=on,isa-serial=on,usb=off";

/** Slots of the root complex: fixed, as a guest that migrates must find everything where it was. */
const slots = { video: "0x2", rng: "0x3", seed: "0x4", firstPort: 8 } as const;

/**
 * The arguments of qemu-system-x86_64 for a VM. The process stays in the foreground (`-daemonize` needs setsid,
 * which the sandbox denies), stops before the first instruction, and stays after a power-off so that whoever looks
 * later still learns how it ended. Nothing secret is in here: user data and keys are in the seed.
 *
 * With `incoming` it waits for a guest from another worker instead, and runs it as soon as it is whole: the source has
 * stopped it by then, and every moment counts as downtime.
 */
export function qemuArgs(
  spec: VmSpec,
  layout: Layout,
  files: VmFiles,
  host: Host,
  options: { readonly incoming: boolean } = { incoming: false },
): string[] {
  const args: string[] = [];
  const add = (...parts: string[]) => args.push(...parts);
  const device = (properties: Record<string, unknown>) => add("-device", JSON.stringify(properties));
  add("-name", `guest=${spec.vmId}`, "-nodefaults", "-no-user-config", "-display", "none");
  add(...(options.incoming ? ["-incoming", "defer"] : ["-S"]));
  add("-sandbox", sandbox);
  add("-action", "shutdown=pause");
  const small = isMicrovm(layout.machineType);
  add("-machine", `${layout.machineType},${small ? microvmOptions : "usb=off,vmport=off"}`);
  add("-accel", host.accelerator, "-cpu", host.accelerator === "kvm" ? "host" : "max");
  add("-smp", `cpus=${layout.vcpus}`, "-m", `size=${layout.memoryBytes / 1_024}K`);
  add("-rtc", "base=utc");
  add("-pidfile", files.pidFile);
  add("-chardev", `socket,id=qmp,path=${escaped(files.qmpSocket)},server=on,wait=off`);
  add("-mon", "chardev=qmp,mode=control");
  add(
    "-chardev",
    `socket,id=serial,path=${escaped(files.serialSocket)},server=on,wait=off,` +
      `logfile=${escaped(files.consoleLog)},logappend=on`,
  );
  add("-serial", "chardev:serial");
  if (small) add("-global", "virtio-mmio.force-legacy=false");
  // What a screenshot shows; firmware and kernels write text to it.
  else device({ driver: "VGA", addr: slots.video, vgamem_mb: 4 });
  device(
    small ? { driver: "virtio-rng-device", bus: microvmBuses.rng } : { driver: "virtio-rng-pci", addr: slots.rng },
  );
  if (files.kernel) {
    add("-kernel", files.kernel.kernel, "-initrd", files.kernel.initrd, "-append", files.kernel.cmdline);
  }
  const seed = { driver: "file", filename: files.seed, "read-only": true };
  add("-blockdev", JSON.stringify({ driver: "raw", "node-name": "seed", "read-only": true, file: seed }));
  device({
    driver: small ? "virtio-blk-device" : "virtio-blk-pci",
    drive: "seed",
    serial: "seed",
    ...(small ? { bus: microvmBuses.seed } : { addr: slots.seed }),
  });
  for (let port = 0; port < hotPlugPorts && !small; port++) {
    device({
      driver: "pcie-root-port",
      id: `rp${port}`,
      bus: "pcie.0",
      chassis: port + 1,
      addr: `0x${(slots.firstPort + Math.floor(port / 8)).toString(16)}.${port % 8}`,
      ...(port % 8 === 0 ? { multifunction: true } : {}),
    });
  }
  const hardware = hardwareOf(layout.machineType);
  for (const disk of files.disks) {
    add("-blockdev", JSON.stringify(blockNode(disk, nodeOf(disk.device))));
    device(blockDevice(disk, portOf(layout, disk.device), hardware));
  }
  for (const nic of spec.nics) {
    add("-netdev", JSON.stringify(netdev(nic)));
    device(nicDevice(nic, portOf(layout, nic.portId), hardware));
  }
  return args;
}

function portOf(layout: Layout, device: string): number {
  const port = layout.ports[device];
  assert(port !== undefined, `${device} has a port`);
  return port;
}

/** A comma ends an option's value unless doubled. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}
