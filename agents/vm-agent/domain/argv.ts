import type { NicSpec, VmSpec } from "./spec.ts";

export type Accelerator = "tcg" | "kvm";

/** Files and sockets of one power-on; absolute paths. */
export interface VmFiles {
  readonly qmpSocket: string;
  readonly serialSocket: string;
  readonly pidFile: string;
  readonly consoleLog: string;
  readonly seed: string;
  /** qcow2; undefined: none. */
  readonly disk: string | undefined;
  /** A kernel bundle's parts; undefined: the disk boots. */
  readonly kernel: { readonly kernel: string; readonly initrd: string; readonly cmdline: string } | undefined;
}

export interface Host {
  readonly accelerator: Accelerator;
  /** Major version of QEMU. */
  readonly qemuMajor: number;
}

/** QEMU may start nothing, gain no privilege and change no limit of its own; a violation kills it. */
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/** vCPUs the guest gets: QEMU 7 under TCG boots guests of two vCPUs only about half the time. */
export function vcpusOn(host: Host, wanted: number): number {
  return host.accelerator === "tcg" && host.qemuMajor < 8 ? 1 : wanted;
}

/**
 * The arguments of qemu-system-x86_64 for a VM. The process stays in the foreground (`-daemonize` needs setsid,
 * which the sandbox denies), stops before the first instruction, and stays after a power-off so that whoever looks
 * later still learns how it ended. Nothing secret is in here: user data and keys are in the seed.
 */
export function qemuArgs(spec: VmSpec, files: VmFiles, host: Host): string[] {
  const args: string[] = [];
  const add = (...parts: string[]) => args.push(...parts);
  add("-name", `guest=${spec.vmId}`, "-S", "-nodefaults", "-no-user-config", "-display", "none");
  add("-sandbox", sandbox);
  add("-action", "shutdown=pause");
  add("-machine", "q35,usb=off,vmport=off");
  add("-accel", host.accelerator, "-cpu", host.accelerator === "kvm" ? "host" : "max");
  add("-smp", `cpus=${vcpusOn(host, spec.vcpus)}`, "-m", `size=${spec.memoryBytes / 2 ** 20}M`);
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
  add("-device", "virtio-rng-pci");
  if (files.kernel) {
    add("-kernel", files.kernel.kernel, "-initrd", files.kernel.initrd, "-append", files.kernel.cmdline);
  }
  if (files.disk !== undefined) {
    add(
      "-blockdev",
      JSON.stringify({
        driver: "qcow2",
        "node-name": "root",
        discard: "unmap",
        file: { driver: "file", filename: files.disk, discard: "unmap" },
      }),
      "-device",
      "virtio-blk-pci,drive=root,serial=root,bootindex=1",
    );
  }
  add(
    "-blockdev",
    JSON.stringify({
      driver: "raw",
      "node-name": "seed",
      "read-only": true,
      file: { driver: "file", filename: files.seed, "read-only": true },
    }),
    "-device",
    "virtio-blk-pci,drive=seed,serial=seed",
  );
  spec.nics.forEach((nic, i) => add(...nicArgs(nic, i)));
  return args;
}

function nicArgs(nic: NicSpec, index: number): string[] {
  const id = `net${index}`;
  const { binding } = nic;
  // Without a boot ROM no guest waits for a network boot.
  const device = `virtio-net-pci,netdev=${id},mac=${nic.mac},romfile=`;
  if (binding.kind === "tap") {
    // The switch in user space knows no offloads: with a virtio header TCP hangs although ping works.
    const tap = `tap,id=${id},ifname=${binding.device},script=no,downscript=no,vhost=off,vnet_hdr=off`;
    return ["-netdev", tap, "-device", binding.mtu === 0 ? device : `${device},host_mtu=${binding.mtu}`];
  }
  const user = [
    `user,id=${id}`,
    "ipv6=off",
    `net=${binding.cidr}`,
    `host=${binding.gatewayIp}`,
    ...(binding.dnsIp === "" ? [] : [`dns=${binding.dnsIp}`]),
    // The only lease, so the guest's DHCP client gets the port's address.
    `dhcpstart=${nic.ip}`,
    `restrict=${binding.restrict ? "on" : "off"}`,
    ...binding.forwards.map((forward) =>
      `hostfwd=${forward.protocol}:${forward.hostIp}:${forward.hostPort}-${nic.ip}:${forward.guestPort}`
    ),
  ];
  return ["-netdev", user.join(","), "-device", device];
}

/** A comma ends an option's value unless doubled. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}
