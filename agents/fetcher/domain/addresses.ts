/** A range of IPv4 addresses: those that agree with `base` in the first `bits` bits. */
export interface Range {
  readonly base: number;
  readonly bits: number;
}

/**
 * Addresses that no server on the internet has (RFC 6890 and its registry): a request to one would reach what only this
 * machine or its network sees.
 */
const special = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/3",
].map((text) => parseRange(text)!);

/** The number of a dotted IPv4 address; undefined for anything else. */
export function parseAddress(text: string): number | undefined {
  const parts = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)
    ?.slice(1).map(Number);
  if (parts === undefined || parts.some((part) => part > 255)) return undefined;
  return parts.reduce((sum, part) => sum * 256 + part, 0);
}

/** "10.1.0.0/16"; undefined for anything else, and where bits beyond the prefix are set. */
export function parseRange(text: string): Range | undefined {
  const [address = "", length, more] = text.split("/");
  const base = parseAddress(address), bits = Number(length);
  if (
    base === undefined || more !== undefined ||
    !/^\d{1,2}$/.test(length ?? "") || bits > 32
  ) return undefined;
  return base % 2 ** (32 - bits) === 0 ? { base, bits } : undefined;
}

function within(address: number, { base, bits }: Range): boolean {
  return Math.floor(address / 2 ** (32 - bits)) ===
    Math.floor(base / 2 ** (32 - bits));
}

/**
 * Whether a hook may be posted to the address: a public one, or one of a range that was allowed by name, and of none
 * that was denied by name.
 */
export function mayReach(
  address: string,
  allowed: readonly Range[] = [],
  denied: readonly Range[] = [],
): boolean {
  const number = parseAddress(address);
  if (number === undefined || denied.some((range) => within(number, range))) return false;
  return allowed.some((range) => within(number, range)) ||
    !special.some((range) => within(number, range));
}

/** Every public address as ranges, which is what the component is granted. */
export function publicRanges(): string[] {
  const found: string[] = [];
  const split = (range: Range): void => {
    const last = range.base + 2 ** (32 - range.bits) - 1;
    if (
      special.some((taken) => within(range.base, taken) && within(last, taken))
    ) return;
    const touched = special.some(({ base }) => within(base, range));
    if (!touched) {
      const octets = [24, 16, 8, 0].map((shift) => Math.floor(range.base / 2 ** shift) % 256);
      found.push(`${octets.join(".")}/${range.bits}`);
      return;
    }
    const bits = range.bits + 1;
    split({ base: range.base, bits });
    split({ base: range.base + 2 ** (32 - bits), bits });
  };
  split({ base: 0, bits: 0 });
  return found;
}
