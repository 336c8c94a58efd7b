import { fault } from "@ultracloud/base";
import { zstdDecompressSync } from "node:zlib";

/** A kernel module with what it needs first. */
export interface KernelModule {
  /** As `insmod` and /proc/modules name it: underscores. */
  readonly name: string;
  /** The ELF object, uncompressed. */
  readonly data: Uint8Array;
}

/** Where modules come from; `read` answers undefined for one that is built into the kernel or does not exist. */
export interface ModuleSource {
  read(name: string): Promise<Uint8Array | undefined>;
}

/** `virtio-rng` and `virtio_rng` are one module; the kernel's name has underscores. */
export function moduleName(text: string): string {
  return text.replace(/\.ko(\.xz|\.zst|\.gz)?$/, "").replaceAll("-", "_");
}

/**
 * The modules with all they depend on, each after its dependencies. Packages carry no modules.dep (depmod makes it
 * at installation), so this reads `depends=` from each module's .modinfo section.
 */
export async function resolveModules(wanted: readonly string[], source: ModuleSource): Promise<KernelModule[]> {
  const done = new Map<string, KernelModule | undefined>();
  const order: KernelModule[] = [];
  const visit = async (name: string, path: readonly string[]): Promise<void> => {
    if (done.has(name)) return;
    if (path.includes(name)) {
      throw fault("data_loss", "module_cycle", `Cannot order kernel modules: ${[...path, name].join(" needs ")}`);
    }
    const data = await source.read(name);
    if (data === undefined) {
      done.set(name, undefined);
      return;
    }
    for (const dependency of dependsOf(data)) await visit(dependency, [...path, name]);
    const module = { name, data };
    done.set(name, module);
    order.push(module);
  };
  for (const name of wanted) await visit(moduleName(name), []);
  return order;
}

/** The names in the module's `depends=` entry. */
export function dependsOf(data: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(data);
  const start = text.indexOf("\0depends=");
  if (start < 0) return [];
  const from = start + "\0depends=".length;
  return text.slice(from, text.indexOf("\0", from)).split(",").filter((name) => name !== "").map(moduleName);
}

/** Modules in an unpacked kernel package; `unxz` undoes the one compression the platform lacks. */
export async function directorySource(
  dir: string,
  unxz: (path: string) => Promise<Uint8Array>,
): Promise<ModuleSource> {
  const paths = new Map<string, string>();
  const walk = async (at: string): Promise<void> => {
    for await (const entry of Deno.readDir(at)) {
      const path = `${at}/${entry.name}`;
      if (entry.isDirectory) await walk(path);
      else if (/\.ko(\.xz|\.zst|\.gz)?$/.test(entry.name)) paths.set(moduleName(entry.name), path);
    }
  };
  await walk(dir);
  return {
    async read(name) {
      const path = paths.get(name);
      if (path === undefined) return undefined;
      if (path.endsWith(".xz")) return await unxz(path);
      const data = await Deno.readFile(path);
      if (path.endsWith(".zst")) return new Uint8Array(zstdDecompressSync(data));
      if (path.endsWith(".gz")) return await gunzip(data);
      return data;
    },
  };
}

async function gunzip(data: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
