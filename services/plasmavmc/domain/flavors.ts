import { fault } from "@ultracloud/base";
import type { Flavor } from "./types.ts";

const mib = 1024 ** 2;
const gib = 1024 ** 3;

/** Sizes every project may use, smallest first. */
export const flavors: readonly Flavor[] = [
  { name: "tiny", vcpus: 1, memoryBytes: 128 * mib, diskBytes: 0 },
  { name: "small", vcpus: 1, memoryBytes: 512 * mib, diskBytes: 4 * gib },
  { name: "medium", vcpus: 2, memoryBytes: 2 * gib, diskBytes: 16 * gib },
];

export function flavorOf(name: string): Flavor {
  const flavor = flavors.find((f) => f.name === name);
  if (flavor) return flavor;
  throw fault(
    "not_found",
    "flavor_not_found",
    `Cannot find flavor ${JSON.stringify(name.slice(0, 40))}: wanted one of ${flavors.map((f) => f.name).join(", ")}`,
    { field: "flavor" },
  );
}
