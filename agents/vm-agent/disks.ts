import { fault } from "@ultracloud/base";
import { checkQcow2, qcow2HeaderBytes } from "./domain/qcow2.ts";
import { type DiskFormat, limits } from "./domain/spec.ts";
import { readAt, removeAll, sizeOf } from "./files.ts";

/** Makes the disk `path`, blank or from an image, unless it is there; a half-made one never gets that name. */
export async function createDisk(
  path: string,
  wanted: {
    readonly bytes: number;
    readonly image: { readonly path: string; readonly format: DiskFormat } | undefined;
  },
): Promise<void> {
  if (await sizeOf(path) !== undefined) return;
  const temporary = `${path}.tmp`;
  await removeAll(temporary);
  if (wanted.image === undefined) {
    await qemuImg(["create", "-q", "-f", "qcow2", temporary, String(wanted.bytes)]);
  } else {
    const virtualBytes = await virtualSize(wanted.image.path, wanted.image.format);
    if (virtualBytes > limits.diskBytesMax) {
      throw fault(
        "failed_precondition",
        "image_too_large",
        `Cannot use an image of ${virtualBytes} bytes: wanted at most ${limits.diskBytesMax}`,
      );
    }
    if (wanted.bytes !== 0 && virtualBytes > wanted.bytes) {
      throw fault(
        "failed_precondition",
        "image_too_large",
        `Cannot put an image of ${virtualBytes} bytes on a disk of ${wanted.bytes}`,
      );
    }
    if (wanted.image.format === "qcow2") await checkWhole(wanted.image.path);
    await qemuImg(["convert", "-q", "-O", "qcow2", alone(wanted.image.path, wanted.image.format), temporary]);
    if (wanted.bytes > virtualBytes) await growDisk(temporary, wanted.bytes);
  }
  await Deno.chmod(temporary, 0o600);
  await Deno.rename(temporary, path);
}

/**
 * How qemu-img is to open an image: the format is said, never guessed (a raw disk whose guest wrote a qcow2 header
 * would be believed), and a backing file is not opened whatever the header says.
 */
export function alone(path: string, format: DiskFormat): string {
  const file = { driver: "file", filename: path };
  return `json:${
    JSON.stringify(format === "qcow2" ? { driver: format, backing: null, file } : { driver: format, file })
  }`;
}

/** `qemu-img check` ends with this when clusters are merely lost. */
const checkLeaks = 3;

/** Refuses a qcow2 image whose tables point at what is not there: one that was cut off, or that lies. */
async function checkWhole(path: string): Promise<void> {
  const output = await new Deno.Command("qemu-img", {
    args: ["check", "-q", alone(path, "qcow2")],
    clearEnv: true,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).output();
  if (output.success || output.code === checkLeaks) return;
  throw fault(
    "failed_precondition",
    "image_malformed",
    "Cannot use the qcow2 image as it is cut off or damaged: wanted one that qemu-img check passes",
  );
}

/** Makes a qcow2 disk that nobody has open larger. */
export async function growDisk(path: string, bytes: number): Promise<void> {
  await qemuImg(["resize", "-q", "-f", "qcow2", path, String(bytes)]);
}

/** Size of a qcow2 disk as a guest sees it; 0 when there is none. */
export async function virtualSizeOf(path: string): Promise<number> {
  if (await sizeOf(path) === undefined) return 0;
  return checkQcow2(await readAt(path, 0, qcow2HeaderBytes)).virtualBytes;
}

async function virtualSize(path: string, format: DiskFormat): Promise<number> {
  if (format === "raw") return await sizeOf(path) ?? 0;
  return checkQcow2(await readAt(path, 0, qcow2HeaderBytes)).virtualBytes;
}

/** Runs qemu-img; a fault with its last words when it fails. */
export async function qemuImg(args: readonly string[]): Promise<void> {
  const output = await new Deno.Command("qemu-img", {
    args: [...args],
    clearEnv: true,
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (output.success) return;
  const said = new TextDecoder().decode(output.stderr).trim().slice(-400);
  throw fault("failed_precondition", "disk_failed", `Cannot run qemu-img ${args[0]}: ${said}`);
}
