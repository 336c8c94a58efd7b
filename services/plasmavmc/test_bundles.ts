import { utf8 } from "@ultracloud/base";

/** Kernel bundles for tests: real archives of content that no machine would boot. */

/** An uncompressed ustar archive. */
export function tar(entries: readonly (readonly [string, Uint8Array])[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [name, data] of entries) {
    const header = new Uint8Array(512);
    const put = (offset: number, text: string) => header.set(utf8.encode(text), offset);
    put(0, name);
    put(100, "0000644\0");
    put(124, data.length.toString(8).padStart(11, "0") + "\0");
    put(136, "00000000000\0");
    put(156, "0");
    put(257, "ustar\x0000");
    put(148, "        ");
    const sum = header.reduce((a, b) => a + b, 0);
    put(148, sum.toString(8).padStart(6, "0") + "\0 ");
    const body = new Uint8Array(Math.ceil(data.length / 512) * 512);
    body.set(data);
    parts.push(header, body);
  }
  parts.push(new Uint8Array(1024));
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export function kernel(): Uint8Array {
  const bytes = new Uint8Array(1024);
  bytes.set(utf8.encode("HdrS"), 0x202);
  return bytes;
}

export function bundle(salt = ""): Uint8Array {
  return tar([["kernel", kernel()], ["initrd", utf8.encode(`initrd${salt}`)], [
    "cmdline",
    utf8.encode("console=ttyS0\n"),
  ]]);
}
