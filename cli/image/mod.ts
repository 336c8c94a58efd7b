/** The tiny guest image of the quickstart: the distribution's kernel, busybox and a small init, as one bundle. */
import { fault, toHex, utf8 } from "@ultracloud/base";
import { writeCpio } from "./cpio.ts";
import { guestCmdline, guestModules, guestTree } from "./guest.ts";
import { directorySource, resolveModules } from "./modules.ts";
import { type GuestPackages, resolvePackages, type RunProgram, runProgram, unpack } from "./packages.ts";
import { writeTar } from "./tar.ts";

export { aptRetries } from "./packages.ts";

/** Raised by hand when the way of building changes in something the guest's files do not show. */
const builderVersion = 1;
const indexName = "tiny-image.json";

export interface TinyImageOptions {
  /** Directory the image is kept in, made when absent. Several builders may share it. */
  readonly cacheDir: string;
  /** Told what is being done, one short sentence each. */
  readonly onProgress?: (text: string) => void;
  readonly signal?: AbortSignal;
}

export interface TinyImage {
  /** A KERNEL_BUNDLE: an uncompressed tar with exactly `kernel`, `initrd` and `cmdline`. */
  readonly path: string;
  /** Of the bundle, lower-case hex. */
  readonly sha256: string;
  readonly bytes: number;
  /** False when the cache had it. */
  readonly built: boolean;
}

interface Index {
  readonly builder: string;
  readonly inputs: string;
  readonly sha256: string;
  readonly bytes: number;
}

/**
 * The tiny guest image, built when the cache does not hold it for the newest packages. Nothing is installed on the
 * host and root is not needed: packages are downloaded with `apt-get download` and unpacked in the cache. The same
 * packages make the same bytes. Without package lists an image built earlier is used; without either the fault says
 * which command fetches the lists.
 */
export async function buildTinyImage(
  options: TinyImageOptions,
  deps: { readonly run: RunProgram } = { run: runProgram },
): Promise<TinyImage> {
  const { cacheDir, signal } = options;
  const say = options.onProgress ?? (() => {});
  await Deno.mkdir(cacheDir, { recursive: true });
  const builder = await builderDigest();
  const last = await readIndex(cacheDir);
  let packages: GuestPackages;
  try {
    packages = await resolvePackages(deps.run, signal);
  } catch (error) {
    signal?.throwIfAborted();
    const cached = last?.builder === builder ? await cachedImage(cacheDir, last) : undefined;
    if (cached) return cached;
    throw error;
  }
  const inputs = await sha256(utf8.encode(JSON.stringify([builder, packages])));
  const cached = last?.inputs === inputs ? await cachedImage(cacheDir, last) : undefined;
  if (cached) return cached;

  const work = await Deno.makeTempDir({ dir: cacheDir, prefix: ".tiny-" });
  try {
    const root = `${work}/root`;
    await Deno.mkdir(root);
    for (const ref of [...packages.kernel, packages.busybox]) {
      say(`fetching ${ref.name} ${ref.version}`);
      await unpack(deps.run, ref, work, root, signal);
    }
    say("packing the guest image");
    const bundle = await assemble(root, deps.run, signal);
    const digest = await sha256(bundle);
    const path = imagePath(cacheDir, digest);
    await writeWhole(path, bundle);
    const index: Index = { builder, inputs, sha256: digest, bytes: bundle.length };
    await writeWhole(`${cacheDir}/${indexName}`, utf8.encode(JSON.stringify(index, null, 2) + "\n"));
    return { path, sha256: digest, bytes: bundle.length, built: true };
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function assemble(root: string, run: RunProgram, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  const kernel = await firstMatch(`${root}/boot`, /^vmlinuz-/);
  const busyboxPath = await firstPresent([`${root}/bin/busybox`, `${root}/usr/bin/busybox`]);
  const modulesDir = await firstPresent([`${root}/lib/modules`, `${root}/usr/lib/modules`]);
  const unxz = (path: string) => run(busyboxPath, ["xzcat", path], { signal });
  const modules = await resolveModules(guestModules, await directorySource(modulesDir, unxz));
  const initrd = await gzip(writeCpio(guestTree(await Deno.readFile(busyboxPath), modules)));
  return writeTar([
    { name: "kernel", data: await Deno.readFile(kernel) },
    { name: "initrd", data: initrd },
    { name: "cmdline", data: utf8.encode(guestCmdline) },
  ]);
}

/** Changes with everything of this builder that reaches the image. */
function builderDigest(): Promise<string> {
  const tree = writeCpio(guestTree(new Uint8Array(0), []));
  return sha256(utf8.encode(JSON.stringify([builderVersion, guestModules, guestCmdline, toHex(tree)])));
}

async function gzip(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function sha256(data: Uint8Array<ArrayBuffer>): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
}

function imagePath(cacheDir: string, digest: string): string {
  return `${cacheDir}/tiny-${digest}.tar`;
}

async function cachedImage(cacheDir: string, index: Index): Promise<TinyImage | undefined> {
  const path = imagePath(cacheDir, index.sha256);
  try {
    const data = await Deno.readFile(path);
    if (data.length !== index.bytes || await sha256(data) !== index.sha256) return undefined;
    return { path, sha256: index.sha256, bytes: index.bytes, built: false };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function readIndex(cacheDir: string): Promise<Index | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(`${cacheDir}/${indexName}`)) as Index;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Readers see the old file or the whole new one. */
async function writeWhole(path: string, data: Uint8Array): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID()}`;
  await Deno.writeFile(temporary, data);
  await Deno.rename(temporary, path);
}

async function firstMatch(dir: string, pattern: RegExp): Promise<string> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(dir)) if (pattern.test(entry.name)) names.push(entry.name);
  if (names.length === 1) return `${dir}/${names[0]}`;
  throw fault(
    "data_loss",
    "package_content",
    `Cannot use the kernel package: it holds ${names.length} kernels: wanted 1`,
  );
}

async function firstPresent(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const info = await Deno.stat(path).catch(() => undefined);
    if (info) return path;
  }
  throw fault("data_loss", "package_content", "Cannot use the packages: wanted " + paths.join(" or "));
}
