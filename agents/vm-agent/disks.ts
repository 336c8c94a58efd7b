import { type Clock, fault } from "@ultracloud/base";
import { checkQcow2, qcow2HeaderBytes } from "./domain/qcow2.ts";
import { type DiskFormat, limits } from "./domain/spec.ts";
import { readAt, removeAll, sizeOf } from "./files.ts";
import type { HostUser } from "./host_user.ts";
import { within } from "./waiting.ts";

/** Copies of large disks on a busy host take this long; what takes longer does not end. */
const toolTimeoutMs = 1_800_000;
/** `qemu-img check` ends with this when clusters are merely lost. */
const checkLeaks = 3;

export interface DisksDeps {
  readonly clock: Clock;
  readonly user: HostUser;
}

/** A disk to make. */
export interface WantedDisk {
  /** 0: as large as its image. */
  readonly bytes: number;
  /** Undefined: blank. */
  readonly image: { readonly path: string; readonly format: DiskFormat } | undefined;
}

/** A disk to copy from. */
export type DiskContent =
  | { readonly kind: "file"; readonly path: string; readonly format: DiskFormat }
  | { readonly kind: "nbd"; readonly uri: string };

/**
 * Files of disks, made and changed by qemu-img. It reads what strangers have made, so where the host allows it runs as
 * a user that owns nothing but the files of its runs, and it gets a time within which to end.
 */
export class Disks {
  readonly #deps: DisksDeps;
  /** How many runs have each file just now. */
  readonly #given = new Map<string, number>();

  constructor(deps: DisksDeps) {
    this.#deps = deps;
  }

  /** Makes the disk `path`, blank or from an image, unless it is there; a half-made one never gets that name. */
  async create(path: string, wanted: WantedDisk): Promise<void> {
    if (await sizeOf(path) !== undefined) return;
    const temporary = `${path}.tmp`;
    await removeAll(temporary);
    try {
      await this.#make(temporary, wanted);
    } catch (error) {
      await removeAll(temporary);
      throw error;
    }
    await Deno.chmod(temporary, 0o600);
    await Deno.rename(temporary, path);
  }

  /** Makes a qcow2 disk that nobody has open larger. */
  async grow(path: string, bytes: number): Promise<void> {
    await this.#run(["resize", "-q", "-f", "qcow2", path, String(bytes)], { files: [path] });
  }

  /** Copies a disk that nobody writes to into a new qcow2 file. */
  async copy(from: DiskContent, path: string): Promise<void> {
    const source = from.kind === "file" ? [alone(from.path, from.format)] : ["-f", "raw", from.uri];
    const files = from.kind === "file" ? [from.path] : [];
    await this.#run(["convert", "-q", "-O", "qcow2", ...source, path], { files, made: path });
    await Deno.chmod(path, 0o600);
  }

  /** Copies a qcow2 file onto a disk that is exported. */
  async fill(uri: string, path: string): Promise<void> {
    await this.#run(["convert", "-q", "-n", "-O", "raw", alone(path, "qcow2"), uri], { files: [path] });
  }

  async #make(path: string, { bytes, image }: WantedDisk): Promise<void> {
    if (image === undefined) {
      return await this.#run(["create", "-q", "-f", "qcow2", path, String(bytes)], { made: path });
    }
    const virtualBytes = await virtualSize(image.path, image.format);
    if (virtualBytes > limits.diskBytesMax) {
      throw fault(
        "failed_precondition",
        "image_too_large",
        `Cannot use an image of ${virtualBytes} bytes: wanted at most ${limits.diskBytesMax}`,
      );
    }
    if (bytes !== 0 && virtualBytes > bytes) {
      throw fault(
        "failed_precondition",
        "image_too_large",
        `Cannot put an image of ${virtualBytes} bytes on a disk of ${bytes}`,
      );
    }
    if (image.format === "qcow2") await this.#checkWhole(image.path);
    await this.copy({ kind: "file", ...image }, path);
    if (bytes > virtualBytes) await this.grow(path, bytes);
  }

  /** Refuses a qcow2 image whose tables point at what is not there: one that was cut off, or that lies. */
  async #checkWhole(path: string): Promise<void> {
    const { code } = await this.#qemuImg(["check", "-q", alone(path, "qcow2")], { files: [path] });
    if (code === 0 || code === checkLeaks) return;
    throw fault(
      "failed_precondition",
      "image_malformed",
      "Cannot use the qcow2 image as it is cut off or damaged: wanted one that qemu-img check passes",
    );
  }

  /** Runs qemu-img; a fault with its last words when it fails. */
  async #run(args: readonly string[], o: ToolFiles): Promise<void> {
    const { code, said } = await this.#qemuImg(args, o);
    if (code !== 0) throw fault("failed_precondition", "disk_failed", `Cannot run qemu-img ${args[0]}: ${said}`);
  }

  async #qemuImg(
    args: readonly string[],
    { files = [], made }: ToolFiles,
  ): Promise<{ readonly code: number; readonly said: string }> {
    const { clock, user } = this.#deps;
    if (made !== undefined) (await Deno.open(made, { write: true, create: true, mode: 0o600 })).close();
    const all = made === undefined ? files : [...files, made];
    for (const path of all) this.#given.set(path, (this.#given.get(path) ?? 0) + 1);
    try {
      const runAs = await user.forTool(all);
      const child = new Deno.Command("qemu-img", {
        args: [...args],
        clearEnv: true,
        ...runAs,
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn();
      const output = child.output();
      if (!await within(clock, output, toolTimeoutMs)) child.kill("SIGKILL");
      const { code, stderr } = await output;
      return { code, said: new TextDecoder().decode(stderr).trim().slice(-400) };
    } finally {
      for (const path of all) {
        const left = this.#given.get(path)! - 1;
        if (left > 0) this.#given.set(path, left);
        else {
          this.#given.delete(path);
          await user.takeBack(path).catch(() => {});
        }
      }
    }
  }
}

interface ToolFiles {
  /** It may read and write these. */
  readonly files?: readonly string[];
  /** It makes this one. */
  readonly made?: string;
}

/**
 * How qemu-img is to open an image: the format is said, never guessed (a raw disk whose guest wrote a qcow2 header
 * would be believed), and a backing file is not opened whatever the header says.
 */
function alone(path: string, format: DiskFormat): string {
  const file = { driver: "file", filename: path };
  return `json:${
    JSON.stringify(format === "qcow2" ? { driver: format, backing: null, file } : { driver: format, file })
  }`;
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
