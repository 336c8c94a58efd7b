import { formatIp, parseIp, parseNetwork } from "../domain/ipv4.ts";

/** Room for the geneve header in an Ethernet of 1500. */
export const guestMtu = 1400;

/** A subnet's port on its router, and the router's on the subnet's switch. */
export const routerPort = (subnetId: string) => `lr-${subnetId}`;
export const switchRouterPort = (subnetId: string) => `ls-${subnetId}`;

/** The way from a pool's switch to the hosts' uplink; its name becomes part of a device's, so it has no slash. */
export const uplinkPort = (poolId: string) => `ln-${poolId}`;

/** The tap of a port on its host: a device's name has at most 15 characters, the random end of the id tells it apart. */
export function deviceOf(portId: string): string {
  return `ut${portId.slice(-12).toLowerCase()}`;
}

/** The address with its subnet's prefix length, as router ports have it. */
export function withPrefix(address: string, cidr: string): string {
  return `${formatIp(parseIp(address)!)}/${parseNetwork(cidr)!.prefix}`;
}
