import { concatBytes, utf8 } from "@ultracloud/base";

/** One name in an initramfs; directories come before what they hold. */
export type CpioEntry =
  | { readonly kind: "dir"; readonly path: string; readonly mode?: number }
  | { readonly kind: "file"; readonly path: string; readonly data: Uint8Array; readonly mode?: number }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | {
    readonly kind: "char";
    readonly path: string;
    readonly major: number;
    readonly minor: number;
    readonly mode?: number;
  };

const typeBits = { dir: 0o040000, file: 0o100000, link: 0o120000, char: 0o020000 } as const;
const modes = { dir: 0o755, file: 0o644, link: 0o777, char: 0o600 } as const;
const trailerName = "TRAILER!!!";

/**
 * The entries as a "newc" archive, the format the kernel unpacks as its initramfs
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Owner is root, times are 0, inode numbers follow
 * the order given: the same entries make the same bytes.
 */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  let inode = 0;
  for (const entry of entries) {
    inode++;
    const data = entry.kind === "file"
      ? entry.data
      : entry.kind === "link"
      ? utf8.encode(entry.target)
      : new Uint8Array(0);
    const mode = typeBits[entry.kind] | (entry.kind === "link" ? modes.link : entry.mode ?? modes[entry.kind]);
    const device = entry.kind === "char" ? [entry.major, entry.minor] as const : [0, 0] as const;
    parts.push(...record(inode, mode, entry.kind === "dir" ? 2 : 1, device, entry.path, data));
  }
  parts.push(...record(0, 0, 1, [0, 0], trailerName, new Uint8Array(0)));
  return concatBytes(parts);
}

function record(
  inode: number,
  mode: number,
  links: number,
  device: readonly [number, number],
  path: string,
  data: Uint8Array,
): Uint8Array[] {
  const name = utf8.encode(path + "\0");
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, device[0], device[1], name.length, 0];
  const header = utf8.encode("070701" + fields.map((value) => value.toString(16).padStart(8, "0")).join(""));
  return [header, name, padding(header.length + name.length), data, padding(data.length)];
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4);
}
