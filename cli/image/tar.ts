import { assert, concatBytes, utf8 } from "@ultracloud/base";

const blockBytes = 512;

/** An uncompressed ustar archive (POSIX.1-1988) of small flat names; times and owners are 0, so bytes repeat. */
export function writeTar(
  files: readonly { readonly name: string; readonly data: Uint8Array }[],
): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  for (const file of files) {
    parts.push(header(file.name, file.data.length), file.data);
    parts.push(new Uint8Array((blockBytes - (file.data.length % blockBytes)) % blockBytes));
  }
  parts.push(new Uint8Array(2 * blockBytes));
  return concatBytes(parts);
}

function header(name: string, bytes: number): Uint8Array {
  assert(name.length < 100, "a tar name has at most 99 characters");
  const block = new Uint8Array(blockBytes);
  const put = (offset: number, text: string) => block.set(utf8.encode(text), offset);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0") + "\0";
  put(0, name);
  put(100, octal(0o644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(bytes, 11));
  put(136, octal(0, 11));
  put(148, " ".repeat(8));
  put(156, "0");
  put(257, "ustar\0" + "00");
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(148, sum.toString(8).padStart(6, "0") + "\0 ");
  return block;
}
