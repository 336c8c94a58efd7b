import { createHash } from "node:crypto";
import { type Clock, Fault, fault } from "@ultracloud/base";
import { bundleParts, readBundle } from "./domain/bundle.ts";
import type { ImageRef } from "./domain/spec.ts";
import { removeAll, sizeOf, syncDir } from "./files.ts";

/** Yields the image's content from `offset`. */
export type ImageReader = (sha256: string, offset: number, signal: AbortSignal) => AsyncIterable<Uint8Array>;

/** A bundle is read into memory to be taken apart; kernels with their initrd stay far below. */
const bundleBytesMax = 512 * 2 ** 20;
const fetchTries = 5;
const retryDelayMs = 500;

export type LocalImage =
  | { readonly kind: "disk"; readonly path: string }
  | { readonly kind: "bundle"; readonly kernel: string; readonly initrd: string; readonly cmdline: string };

/**
 * Images by content under `dir`: `<sha256>.img`, verified before it gets that name, and `<sha256>.d/` with a bundle's
 * parts. A fetch that was cut off resumes from `<sha256>.part`. Several VMs that want one image share one fetch.
 */
export class ImageCache {
  readonly #dir: string;
  readonly #bytesMax: number;
  readonly #read: ImageReader;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #working = new Map<string, Promise<string>>();

  constructor(
    options: { readonly dir: string; readonly bytesMax: number },
    deps: { readonly read: ImageReader; readonly clock: Clock; readonly signal: AbortSignal },
  ) {
    this.#dir = options.dir;
    this.#bytesMax = options.bytesMax;
    this.#read = deps.read;
    this.#clock = deps.clock;
    this.#signal = deps.signal;
  }

  /** The image on this host, fetched when it is not there. A fetch outlives the caller that began it. */
  async ensure(image: ImageRef): Promise<LocalImage> {
    // By content alone: two formats of one content are one file.
    const path = await this.#shared(image.sha256, () => this.#content(image));
    if (image.format !== "kernel_bundle") return { kind: "disk", path };
    const dir = await this.#shared(`${image.sha256}.d`, () => this.#unpack(image, path));
    const cmdline = (await Deno.readTextFile(`${dir}/cmdline`)).trim();
    return { kind: "bundle", kernel: `${dir}/kernel`, initrd: `${dir}/initrd`, cmdline };
  }

  /** The path that `work` makes; whoever asks meanwhile waits for the same. */
  #shared(key: string, work: () => Promise<string>): Promise<string> {
    let path = this.#working.get(key);
    if (!path) {
      path = work().finally(() => this.#working.delete(key));
      this.#working.set(key, path);
    }
    return path;
  }

  /** Removes images no VM uses, the oldest first, until the cache is within its bound. */
  async evict(inUse: ReadonlySet<string>): Promise<void> {
    const found: { sha256: string; bytes: number; usedMs: number }[] = [];
    let total = 0;
    for await (const entry of Deno.readDir(this.#dir)) {
      const match = /^([0-9a-f]{64})\.img$/.exec(entry.name);
      if (!match) continue;
      const info = await Deno.stat(`${this.#dir}/${entry.name}`);
      total += info.size;
      found.push({ sha256: match[1]!, bytes: info.size, usedMs: info.mtime?.getTime() ?? 0 });
    }
    found.sort((a, b) => a.usedMs - b.usedMs);
    for (const image of found) {
      if (total <= this.#bytesMax) return;
      if (inUse.has(image.sha256)) continue;
      await removeAll(`${this.#dir}/${image.sha256}.d`);
      await removeAll(`${this.#dir}/${image.sha256}.img`);
      total -= image.bytes;
    }
  }

  async #content(image: ImageRef): Promise<string> {
    await Deno.mkdir(this.#dir, { recursive: true, mode: 0o711 });
    const path = `${this.#dir}/${image.sha256}.img`;
    const size = await sizeOf(path);
    if (size === undefined) await this.#fetch(image, path);
    else if (size !== image.bytes) throw wrongSize(image, size);
    return path;
  }

  async #fetch(image: ImageRef, path: string): Promise<void> {
    const part = `${this.#dir}/${image.sha256}.part`;
    for (let attempt = 1;; attempt++) {
      try {
        await this.#download(image, part);
        break;
      } catch (error) {
        this.#signal.throwIfAborted();
        const final = error instanceof Fault && error.kind !== "unavailable" && error.kind !== "deadline_exceeded";
        if (final || attempt >= fetchTries) {
          if (error instanceof Fault) throw error;
          throw fault("unavailable", "image_fetch_failed", `Cannot fetch image ${image.sha256}`, { cause: error });
        }
        await this.#clock.sleep(retryDelayMs * attempt, this.#signal);
      }
    }
    const digest = await digestOf(part);
    if (digest !== image.sha256) {
      await removeAll(part);
      throw fault(
        "data_loss",
        "image_digest_mismatch",
        `Cannot use image ${image.sha256} as its content has digest ${digest}`,
      );
    }
    await Deno.rename(part, path);
    await syncDir(this.#dir);
  }

  async #download(image: ImageRef, part: string): Promise<void> {
    const file = await Deno.open(part, { write: true, create: true, mode: 0o600 });
    try {
      let at = await file.seek(0, Deno.SeekMode.End);
      if (at > image.bytes) {
        await file.truncate(0);
        at = await file.seek(0, Deno.SeekMode.Start);
      }
      if (at < image.bytes) {
        for await (const chunk of this.#read(image.sha256, at, this.#signal)) {
          at += chunk.length;
          if (at > image.bytes) throw wrongSize(image, at);
          for (let sent = 0; sent < chunk.length;) sent += await file.write(chunk.subarray(sent));
        }
      }
      if (at !== image.bytes) {
        throw fault("unavailable", "image_cut_off", `Cannot fetch image ${image.sha256} as it ended at ${at} bytes`);
      }
      await file.sync();
    } finally {
      file.close();
    }
  }

  async #unpack(image: ImageRef, path: string): Promise<string> {
    const dir = `${this.#dir}/${image.sha256}.d`;
    if (await sizeOf(`${dir}/cmdline`) === undefined) {
      if (image.bytes > bundleBytesMax) throw wrongSize(image, image.bytes);
      const parts = readBundle(await Deno.readFile(path));
      const temporary = `${dir}.tmp`;
      await removeAll(temporary);
      await Deno.mkdir(temporary, { mode: 0o711 });
      for (const name of bundleParts) await Deno.writeFile(`${temporary}/${name}`, parts[name]);
      await removeAll(dir);
      await Deno.rename(temporary, dir);
    }
    return dir;
  }
}

function wrongSize(image: ImageRef, bytes: number): Fault {
  return fault(
    "failed_precondition",
    "image_size_mismatch",
    `Cannot use image ${image.sha256} of ${bytes} bytes: wanted ${image.bytes}`,
  );
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path, { read: true });
  const buffer = new Uint8Array(1024 * 1024);
  for (;;) {
    const n = await file.read(buffer);
    if (n === null) return hash.digest("hex");
    hash.update(buffer.subarray(0, n));
  }
}
