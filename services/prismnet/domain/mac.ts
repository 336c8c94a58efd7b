import { invalidField, type Rng, uniform } from "@ultracloud/base";

/** Prefix that QEMU guests commonly have; its second-lowest bit says locally administered. */
const macPrefix = "52:54:00";

/** A random address under the prefix; uniqueness is the caller's to ensure. */
export function randomMac(rng: Rng): string {
  const n = uniform(rng, 2 ** 24);
  const parts = [n >>> 16, (n >>> 8) & 255, n & 255].map((part) => part.toString(16).padStart(2, "0"));
  return [macPrefix, ...parts].join(":");
}

/** The address in lower case, or an invalid_argument fault at `field`. */
export function checkMac(text: string, field: string): string {
  const mac = text.toLowerCase();
  if (/^52:54:00(:[0-9a-f]{2}){3}$/.test(mac)) return mac;
  throw invalidField(
    field,
    `Cannot use ${JSON.stringify(text.slice(0, 40))} as a MAC address: wanted ${macPrefix}:xx:xx:xx`,
    "invalid_mac",
  );
}

/** The address of a router's port: always the same for the same name, and never one of a guest. */
export function derivedMac(name: string): string {
  // FNV-1a, twice with different bases: 40 bits that differ between names.
  const hash = (basis: number) => {
    let h = basis;
    for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193) >>> 0;
    return h;
  };
  const [a, b] = [hash(0x811c9dc5), hash(0x2b5d3f17)];
  const bytes = [a >>> 24, (a >>> 16) & 255, (a >>> 8) & 255, a & 255, b & 255];
  return ["0a", ...bytes.map((byte) => byte.toString(16).padStart(2, "0"))].join(":");
}
