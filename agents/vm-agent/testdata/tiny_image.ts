import { assert } from "@ultracloud/base";
import type { ImageRef } from "../domain/spec.ts";

export interface TinyImage {
  readonly ref: ImageRef;
  readonly bytes: Uint8Array;
}

/** The tiny guest image, built by the project's own tool; undefined where the host cannot build or run it. */
export async function tinyImage(): Promise<TinyImage | undefined> {
  const qemu = await new Deno.Command("qemu-system-x86_64", { args: ["--version"], stdout: "null", stderr: "null" })
    .output().catch(() => undefined);
  if (!qemu?.success) return undefined;
  const dir = await Deno.makeTempDir();
  try {
    const builder = new URL("../../../cli/image/main.ts", import.meta.url).pathname;
    const built = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-q", "-A", builder, dir],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).output();
    if (!built.success) return undefined;
    const image: unknown = JSON.parse(new TextDecoder().decode(built.stdout));
    assert(typeof image === "object" && image !== null && "path" in image && "sha256" in image, "the builder's answer");
    const bytes = await Deno.readFile(String(image.path));
    return { ref: { sha256: String(image.sha256), format: "kernel_bundle", bytes: bytes.length }, bytes };
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** A port nobody listens on just now. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Repeats `work` until it answers something; fails after `ms`. */
export async function until<T>(what: string, ms: number, work: () => Promise<T | undefined | false>): Promise<T> {
  const deadline = performance.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      const value = await work();
      if (value !== undefined && value !== false) return value;
    } catch (error) {
      last = error;
    }
    if (performance.now() > deadline) throw new Error(`Waited ${ms} ms for ${what}`, { cause: last });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
