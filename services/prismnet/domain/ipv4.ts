import { fault, invalidField } from "@ultracloud/base";

/** An IPv4 network in numbers. */
export interface Network {
  readonly cidr: string;
  readonly prefix: number;
  /** The network address. */
  readonly first: number;
  /** The broadcast address. */
  readonly last: number;
}

/** Reserved for the hosts of test clusters; tenants never get it. */
const reservedCidr = "10.77.0.0/16";
export const prefixMin = 16;
export const prefixMax = 29;

/** The address as a number, undefined when the text is not one in plain dotted form. */
export function parseIp(text: string): number | undefined {
  const match = /^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/.exec(text);
  if (!match) return undefined;
  let value = 0;
  for (let i = 1; i <= 4; i++) {
    const part = Number(match[i]);
    if (part > 255) return undefined;
    value = value * 256 + part;
  }
  return value;
}

export function formatIp(value: number): string {
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
}

/** The network, undefined when the text is not one or has bits behind its prefix. */
export function parseNetwork(text: string): Network | undefined {
  const match = /^([0-9.]+)\/(0|[1-9]|[12]\d|3[0-2])$/.exec(text);
  const address = match && parseIp(match[1]!);
  if (!match || address === undefined || address === null) return undefined;
  const prefix = Number(match[2]);
  const size = 2 ** (32 - prefix);
  if (address % size !== 0) return undefined;
  return { cidr: text, prefix, first: address, last: address + size - 1 };
}

export function overlaps(a: Network, b: Network): boolean {
  return a.first <= b.last && b.first <= a.last;
}

export function contains(network: Network, address: number): boolean {
  return address >= network.first && address <= network.last;
}

/** A CIDR that a subnet may have, or an invalid_argument fault at `field`. */
export function checkSubnetCidr(text: string, field: string): Network {
  const network = parseNetwork(text);
  const shown = JSON.stringify(text.slice(0, 40));
  if (!network || network.prefix < prefixMin || network.prefix > prefixMax) {
    throw invalidField(
      field,
      `Cannot use ${shown} as a subnet: wanted IPv4 a.b.c.d/${prefixMin} to /${prefixMax} without bits behind the prefix`,
      "invalid_cidr",
    );
  }
  const top = Math.floor(network.first / 2 ** 24);
  if (top === 0 || top === 127 || top >= 224) {
    throw invalidField(field, `Cannot use ${shown} as a subnet: wanted unicast addresses`, "invalid_cidr");
  }
  if (overlaps(network, parseNetwork(reservedCidr)!)) {
    throw invalidField(field, `Cannot use ${shown} as a subnet as ${reservedCidr} is the platform's`, "invalid_cidr");
  }
  return network;
}

/** An address that hosts of the network may have, or an invalid_argument fault at `field`. */
export function checkHostIp(network: Network, text: string, field: string): number {
  const address = parseIp(text);
  if (address === undefined || address <= network.first || address >= network.last) {
    throw invalidField(
      field,
      `Cannot use ${JSON.stringify(text.slice(0, 40))} as an address in ${network.cidr}: wanted ${
        formatIp(network.first + 1)
      } to ${formatIp(network.last - 1)}`,
      "invalid_ip",
    );
  }
  return address;
}

/** Refuses a network that overlaps one of the others. */
export function checkNoOverlap(network: Network, others: readonly { name: string; cidr: string }[]): void {
  for (const other of others) {
    if (overlaps(network, parseNetwork(other.cidr)!)) {
      throw fault(
        "failed_precondition",
        "cidr_overlaps",
        `Cannot use ${network.cidr} as it overlaps subnet ${other.name} (${other.cidr}) of the VPC`,
        { field: "cidr" },
      );
    }
  }
}
