import { fault } from "@ultracloud/base";

export const bundleParts = ["kernel", "initrd", "cmdline"] as const;
export type BundlePart = typeof bundleParts[number];

const blockBytes = 512;
/** The kernel's own limit on its command line is 2 048 characters on x86. */
const cmdlineBytesMax = 2048;

/** The parts of a kernel bundle: an uncompressed tar with exactly `kernel`, `initrd` and `cmdline`. */
export function readBundle(tar: Uint8Array): Record<BundlePart, Uint8Array> {
  const found = new Map<string, Uint8Array>();
  let at = 0;
  while (at + blockBytes <= tar.length && tar[at] !== 0) {
    const header = tar.subarray(at, at + blockBytes);
    const name = text(header, 0, 100).replace(/^\.\//, "");
    const size = parseInt(text(header, 124, 12).trim(), 8);
    const type = text(header, 156, 1);
    at += blockBytes;
    if (!Number.isSafeInteger(size) || size < 0 || at + size > tar.length) {
      throw refused(`member ${JSON.stringify(name.slice(0, 40))} reaches beyond the end`);
    }
    if (type !== "0" && type !== "") throw refused(`member ${JSON.stringify(name.slice(0, 40))} is no plain file`);
    if (!(bundleParts as readonly string[]).includes(name)) {
      throw refused(`it holds ${JSON.stringify(name.slice(0, 40))}`);
    }
    if (found.has(name)) throw refused(`it holds ${name} twice`);
    found.set(name, tar.subarray(at, at + size));
    at += Math.ceil(size / blockBytes) * blockBytes;
  }
  const part = (name: BundlePart) => {
    const data = found.get(name);
    if (data === undefined || data.length === 0) throw refused(`it has no ${name}`);
    return data;
  };
  const parts = { kernel: part("kernel"), initrd: part("initrd"), cmdline: part("cmdline") };
  if (parts.cmdline.length > cmdlineBytesMax || parts.cmdline.includes(0)) {
    throw refused(`its cmdline has ${parts.cmdline.length} bytes`);
  }
  return parts;
}

function refused(why: string): Error {
  return fault(
    "failed_precondition",
    "image_malformed",
    `Cannot use the kernel bundle as ${why}: wanted a tar of exactly kernel, initrd and cmdline`,
  );
}

function text(header: Uint8Array, offset: number, length: number): string {
  const field = header.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return new TextDecoder("latin1").decode(end < 0 ? field : field.subarray(0, end));
}
