/** The built-in layout: an EFI partition and the root, both named after their node. */

const espType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/** Root of an x86-64 system (Discoverable Partitions Specification). */
const rootType = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/** File system labels of the built-in layout; a FAT label has at most eleven characters. */
export const espLabel = "UCESP";
export const rootLabel = "ucroot";

const prefixes = { esp: "uce-", root: "ucr-" } as const;

/**
 * Name of a partition in the table. It says whose disk this is: the table is written before any file system, so a power
 * cut right after it leaves a disk that is known to be the node's own. A node's name has at most 32 characters, a name in
 * a GPT 36.
 */
export function partitionName(part: keyof typeof prefixes, node: string): string {
  return `${prefixes[part]}${node}`;
}

/** The node a partition's name speaks of; empty for a name that is not ours. */
export function nodeOfPartition(name: string): string {
  const prefix = Object.values(prefixes).find((known) => name.startsWith(known));
  return prefix === undefined ? "" : name.slice(prefix.length);
}

/** Input of sfdisk that makes the layout. */
export function sfdiskScript(node: string, espBytes: number): string {
  return [
    "label: gpt",
    "",
    `size=${Math.ceil(espBytes / 1024)}KiB, type=${espType}, name="${partitionName("esp", node)}"`,
    `type=${rootType}, name="${partitionName("root", node)}"`,
    "",
  ].join("\n");
}
