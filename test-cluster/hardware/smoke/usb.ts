import { fault } from "@ultracloud/base";
import { createHash } from "node:crypto";
import { runTool } from "../../harness/tools.ts";
import type { SiteImage } from "./site_iso.ts";

interface BlockDevice {
  readonly path: string;
  readonly type: string;
  readonly rm: boolean;
  readonly tran: string | null;
  readonly size: number;
  readonly ro: boolean;
  readonly mountpoints: readonly (string | null)[];
  readonly children?: readonly BlockDevice[];
}

/** Why this device must not be written; undefined when it is a stick that the operator named twice. */
export async function judgeStick(
  device: string,
  confirm: string | undefined,
  iso: string,
): Promise<string | undefined> {
  if (!device.startsWith("/dev/")) return `${device} is no device: wanted /dev/disk/by-id/usb-...`;
  const { code, stdout, stderr } = await runTool([
    "lsblk",
    "--json",
    "--bytes",
    "--output",
    "PATH,TYPE,RM,TRAN,SIZE,RO,MOUNTPOINTS",
    device,
  ]);
  if (code !== 0) return `${device} cannot be examined: ${stderr.trim().slice(0, 200)}`;
  const found = (JSON.parse(stdout) as { blockdevices: BlockDevice[] }).blockdevices[0];
  if (found === undefined) return `${device} is no block device`;
  const isoBytes = await Deno.stat(iso).then(({ size }) => size, () => 0);
  return judgeDevice(device, found, isoBytes, confirm);
}

/** The rules by themselves, most telling first. */
export function judgeDevice(
  device: string,
  found: BlockDevice,
  isoBytes: number,
  confirm: string | undefined,
): string | undefined {
  if (found.type !== "disk") return `${device} is a ${found.type}: wanted a whole disk`;
  if (!found.rm && found.tran !== "usb") return `${device} is neither removable nor on USB`;
  if (found.ro) return `${device} is read-only`;
  const mounted = mountsOf(found);
  if (mounted.length > 0) return `${device} is mounted at ${mounted.join(", ")}`;
  if (found.size < isoBytes) return `${device} has ${found.size} bytes: wanted the ${isoBytes} of the image`;
  if (confirm !== device) return `everything on ${device} would be lost: wanted --usb-confirm ${device}`;
  return undefined;
}

function mountsOf(device: BlockDevice): string[] {
  const own = device.mountpoints.filter((point): point is string => point !== null);
  return [...own, ...(device.children ?? []).flatMap(mountsOf)];
}

/** Writes the image, reads it back, and answers the SHA-256 that both have. */
export async function writeStick(image: SiteImage, device: string, signal?: AbortSignal): Promise<string> {
  const wanted = createHash("sha256");
  {
    using out = await Deno.open(device, { write: true });
    for await (const chunk of image.read(0, image.bytesCount)) {
      signal?.throwIfAborted();
      wanted.update(chunk);
      for (let at = 0; at < chunk.length;) at += await out.write(chunk.subarray(at));
    }
    await out.sync();
  }
  const seen = createHash("sha256");
  using back = await Deno.open(device);
  const buffer = new Uint8Array(256 * 1024);
  for (let left = image.bytesCount; left > 0;) {
    signal?.throwIfAborted();
    const n = await back.read(buffer.subarray(0, Math.min(buffer.length, left)));
    if (n === null) break;
    seen.update(buffer.subarray(0, n));
    left -= n;
  }
  const [want, have] = [wanted.digest("hex"), seen.digest("hex")];
  if (want === have) return want;
  throw fault("data_loss", "stick_differs", `Cannot trust ${device}: it reads back as ${have}, wanted ${want}`);
}
