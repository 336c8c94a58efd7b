import { fault, invalidField } from "@ultracloud/base";
import type { Flavor, StoredFlavor } from "./types.ts";

const mib = 1024 ** 2;
const gib = 1024 ** 3;
const vcpusMax = 256;
const memoryBytesMax = 4096 * gib;
const diskBytesMax = 64 * 1024 * gib;
const descriptionCharsMax = 200;

/** Sizes every platform has, smallest first. */
export const builtinFlavors: readonly Flavor[] = [
  { name: "tiny", vcpus: 1, memoryBytes: 128 * mib, diskBytes: 0, builtin: true, description: "no root disk" },
  { name: "small", vcpus: 1, memoryBytes: 512 * mib, diskBytes: 4 * gib, builtin: true, description: "" },
  { name: "medium", vcpus: 2, memoryBytes: 2 * gib, diskBytes: 16 * gib, builtin: true, description: "" },
];

export function builtinFlavor(name: string): Flavor | undefined {
  return builtinFlavors.find((f) => f.name === name);
}

export function flavorNotFound(name: string, known: readonly string[]) {
  return fault(
    "not_found",
    "flavor_not_found",
    `Cannot find flavor ${JSON.stringify(name.slice(0, 40))}: wanted one of ${known.slice(0, 50).join(", ")}`,
    { field: "flavor" },
  );
}

/** A size an administrator asks for, checked. */
export function checkFlavor(
  flavor: { vcpus: number; memoryBytes: number; diskBytes: number; description: string },
): StoredFlavor {
  const bounds = [
    ["vcpus", flavor.vcpus, 1, vcpusMax, 1],
    ["memoryBytes", flavor.memoryBytes, 16 * mib, memoryBytesMax, mib],
    ["diskBytes", flavor.diskBytes, 0, diskBytesMax, mib],
  ] as const;
  for (const [name, value, min, max, unit] of bounds) {
    if (Number.isSafeInteger(value) && value >= min && value <= max && value % unit === 0) continue;
    const units = unit === 1 ? "" : ` in multiples of ${unit}`;
    throw invalidField(`flavor.${name}`, `Cannot make a flavor with ${name} ${value}: wanted ${min} to ${max}${units}`);
  }
  if (flavor.description.length > descriptionCharsMax) {
    throw invalidField(
      "flavor.description",
      `Cannot keep ${flavor.description.length} characters: wanted at most ${descriptionCharsMax}`,
    );
  }
  const { vcpus, memoryBytes, diskBytes, description } = flavor;
  return { vcpus, memoryBytes, diskBytes, description };
}
