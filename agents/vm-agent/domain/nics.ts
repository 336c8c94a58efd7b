import type { Hardware } from "./hardware.ts";
import type { Forward, NicSpec } from "./spec.ts";

/** Ids of a NIC's two halves in QEMU. */
export function netdevOf(portId: string): string {
  return `net-${portId}`;
}
export function nicDeviceOf(portId: string): string {
  return `nic-${portId}`;
}

/** Arguments of `netdev_add`. */
export function netdev(nic: NicSpec): Record<string, unknown> {
  const id = netdevOf(nic.portId);
  const { binding } = nic;
  if (binding.kind === "tap") {
    // The switch in user space knows no offloads: with a virtio header TCP hangs although ping works.
    return {
      type: "tap",
      id,
      ifname: binding.device,
      script: "no",
      downscript: "no",
      vhost: false,
      vnet_hdr: false,
    };
  }
  return {
    type: "user",
    id,
    ipv6: false,
    net: binding.cidr,
    host: binding.gatewayIp,
    ...(binding.dnsIp === "" ? {} : { dns: binding.dnsIp }),
    // The only lease, so the guest's DHCP client gets the port's address.
    dhcpstart: nic.ip,
    restrict: binding.restrict,
    ...(binding.forwards.length === 0 ? {} : {
      hostfwd: binding.forwards.map((forward) => ({ str: `${outside(forward)}-${nic.ip}:${forward.guestPort}` })),
    }),
  };
}

/** Arguments of `device_add`. Without a boot ROM no guest waits for a network boot. */
export function nicDevice(nic: NicSpec, port: number, { transport, busOf, isPci }: Hardware): Record<string, unknown> {
  const mtu = nic.binding.kind === "tap" ? nic.binding.mtu : 0;
  return {
    driver: `virtio-net-${transport}`,
    id: nicDeviceOf(nic.portId),
    netdev: netdevOf(nic.portId),
    mac: nic.mac,
    bus: busOf(port),
    ...(isPci ? { romfile: "" } : {}),
    ...(mtu === 0 ? {} : { host_mtu: mtu }),
  };
}

/** The host's end of a forward. */
function outside({ protocol, hostIp, hostPort }: Forward): string {
  return `${protocol}:${hostIp}:${hostPort}`;
}

/**
 * How a plugged NIC becomes the wanted one by its forwards alone, as words for `hostfwd_remove` and `hostfwd_add`;
 * undefined when it has to be plugged anew, which its guest notices.
 */
export function forwardChanges(
  was: NicSpec,
  is: NicSpec,
): { readonly remove: readonly string[]; readonly add: readonly string[] } | undefined {
  if (was.binding.kind !== "user" || is.binding.kind !== "user") return undefined;
  const bare = (nic: NicSpec) => JSON.stringify({ ...nic, binding: { ...nic.binding, forwards: [] } });
  if (bare(was) !== bare(is)) return undefined;
  const rulesOf = (nic: NicSpec, forwards: readonly Forward[]) =>
    new Map(forwards.map((forward) => [`${outside(forward)}-${nic.ip}:${forward.guestPort}`, outside(forward)]));
  const had = rulesOf(was, was.binding.forwards);
  const wanted = rulesOf(is, is.binding.forwards);
  return {
    remove: [...had].filter(([rule]) => !wanted.has(rule)).map(([, end]) => end),
    add: [...wanted.keys()].filter((rule) => !had.has(rule)),
  };
}
