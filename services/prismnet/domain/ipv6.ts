import { invalidField } from "@ultracloud/base";
import { parseIp } from "./ipv4.ts";

/** The eight groups of an IPv6 address, undefined when the text is none. */
export function parseIp6(text: string): number[] | undefined {
  if (!/^[0-9a-f:]{2,39}$/i.test(text)) return undefined;
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const groups = (half: string | undefined) => half === undefined || half === "" ? [] : half.split(":");
  const [head, tail] = [groups(halves[0]), groups(halves[1])];
  const missing = 8 - head.length - tail.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const all = [...head, ...Array<string>(missing).fill("0"), ...tail];
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined;
  return all.map((group) => Number.parseInt(group, 16));
}

/** Lower case, the longest run of zero groups shortened (RFC 5952). */
export function formatIp6(groups: readonly number[]): string {
  let best = { at: -1, length: 1 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === 0) length++;
    if (length > best.length) best = { at, length };
  }
  const hex = (part: readonly number[]) => part.map((group) => group.toString(16)).join(":");
  if (best.at < 0) return hex(groups);
  return `${hex(groups.slice(0, best.at))}::${hex(groups.slice(best.at + best.length))}`;
}

/** An IPv6 CIDR without bits behind its prefix, in its shortest form; undefined when the text is none. */
export function parseNetwork6(text: string): { cidr: string; groups: number[]; prefix: number } | undefined {
  const match = /^([0-9a-f:]+)\/(\d{1,3})$/i.exec(text);
  const groups = match && parseIp6(match[1]!);
  const prefix = Number(match?.[2]);
  if (!match || !groups || prefix > 128) return undefined;
  const clear = groups.every((group, i) => {
    const bits = Math.min(16, Math.max(0, prefix - i * 16));
    return (group & (0xffff >> bits)) === 0;
  });
  return clear ? { cidr: `${formatIp6(groups)}/${prefix}`, groups, prefix } : undefined;
}

/** The /64 of a subnet, or an invalid_argument fault at `field`. */
export function checkSubnetCidr6(text: string, field: string): string {
  const network = parseNetwork6(text);
  const first = network?.groups[0] ?? 0;
  const routable = (first & 0xe000) === 0x2000 || (first & 0xfe00) === 0xfc00;
  if (network?.prefix === 64 && routable) return network.cidr;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(text.slice(0, 50))} as an IPv6 subnet: wanted a /64 of 2000::/3 or fc00::/7`,
    "invalid_cidr",
  );
}

/** The subnet's gateway: its first address. */
export function gatewayOf(cidr6: string): string {
  return formatIp6([...parseNetwork6(cidr6)!.groups.slice(0, 7), 1]);
}

/** A port's address: the /64 with the port's IPv4 address behind it, so that one claim covers both. */
export function addressOf(cidr6: string, ipv4: string): string {
  const low = parseIp(ipv4)!;
  return formatIp6([...parseNetwork6(cidr6)!.groups.slice(0, 6), Math.floor(low / 65536), low % 65536]);
}
