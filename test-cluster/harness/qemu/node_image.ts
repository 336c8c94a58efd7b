import {
  directorySource,
  type GuestPackages,
  resolveModules,
  resolvePackages,
  runProgram,
  unpack,
  writeCpio,
} from "@ultracloud/cli";
import { fault, utf8 } from "@ultracloud/base";
import { whichTool } from "../tools.ts";
import {
  firstInit,
  nodeCmdline,
  nodeModules,
  nodePaths,
  rootDirs,
  rootLinks,
  rootTexts,
  secondInit,
} from "./guest_tree.ts";
import { digestOf, digestOfText, needTool, packReadOnly, withLibraries } from "./packing.ts";

/** Raised by hand when the way of building changes in something its inputs do not show. */
const builderVersion = 1;
/** An image that no cluster asked for in this long is removed. */
const unusedMsMax = 7 * 86_400_000;

/** What every node boots: the distribution's kernel, and a disk with the programs of this host that nodes need. */
export interface NodeImage {
  /** Of kernel, initramfs and root disk. */
  readonly digest: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly root: string;
  readonly built: boolean;
}

interface Index {
  readonly inputs: string;
  readonly digest: string;
}

/** Programs that lanes and components need on a node, with the package that has them. */
const required: Readonly<Record<string, string>> = {
  ip: "iproute2",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  "qemu-storage-daemon": "qemu-system-common",
  ps: "procps",
  pkill: "procps",
};
/** Tenant networks over OVN; packed where the host has them. */
const optional = [
  ...["ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ovsdb-tool", "ovsdb-client"],
  ...["ovn-northd", "ovn-controller", "ovn-nbctl", "ovn-sbctl", "ovn-appctl", "ethtool"],
];
/** Data of those programs: firmware, and the schemas of the databases. */
const dataFiles: Readonly<Record<string, RegExp>> = {
  "/usr/share/seabios": /^(bios|vgabios).*\.bin$/,
  "/usr/share/qemu": /^(linuxboot|linuxboot_dma|multiboot|multiboot_dma|pvh|kvmvapic|bios-microvm)\.bin$|^qboot\.rom$/,
  "/usr/lib/ipxe/qemu": /^efi-virtio\.rom$/,
  "/usr/lib/x86_64-linux-gnu/qemu": /^accel-.*x86_64\.so$/,
  "/usr/share/openvswitch": /\.ovsschema$/,
  "/usr/share/ovn": /\.ovsschema$/,
};

/**
 * The image of the nodes, built when the cache does not hold it for the packages and programs of now. The kernel is
 * downloaded and unpacked in the cache, nothing is installed. Its name is the digest of its bytes; an index leads from
 * the inputs to it, as a file system notes dates and is never made twice alike.
 */
export async function buildNodeImage(
  cacheDir: string,
  say: (text: string) => void,
  signal?: AbortSignal,
): Promise<NodeImage> {
  const dir = `${cacheDir}/nodes`;
  await Deno.mkdir(dir, { recursive: true });
  const files = await hostFiles();
  const busybox = await resolvePackages(runProgram, signal);
  const inputs = await fingerprint(files, busybox);
  const index = await readIndex(dir);
  if (index?.inputs === inputs) {
    const image = await cached(dir, index.digest);
    if (image) return image;
  }
  say("building the node image");
  const work = await Deno.makeTempDir({ dir, prefix: ".node-" });
  try {
    const packages = `${work}/packages`;
    await Deno.mkdir(packages);
    for (const ref of [...busybox.kernel, busybox.busybox]) {
      say(`fetching ${ref.name} ${ref.version}`);
      await unpack(runProgram, ref, work, packages, signal);
    }
    const out = `${work}/out`;
    await Deno.mkdir(out);
    await assemble(packages, files, work, out);
    const digest = await digestOf(["kernel", "initrd", "root.ext4"].map((name) => `${out}/${name}`));
    const at = `${dir}/${digest}`;
    // Somebody else may have built the same meanwhile.
    await Deno.rename(out, at).catch(async (error) => {
      if (await cached(dir, digest) === undefined) throw error;
    });
    await Deno.writeTextFile(`${dir}/index.json.new`, JSON.stringify({ inputs, digest } satisfies Index));
    await Deno.rename(`${dir}/index.json.new`, `${dir}/index.json`);
    await removeUnused(dir);
    return { ...imageAt(dir, digest), built: true };
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

const imageAt = (dir: string, digest: string) => ({
  digest,
  kernel: `${dir}/${digest}/kernel`,
  initrd: `${dir}/${digest}/initrd`,
  root: `${dir}/${digest}/root.ext4`,
});

async function cached(dir: string, digest: string): Promise<NodeImage | undefined> {
  const image = imageAt(dir, digest);
  for (const path of [image.kernel, image.initrd, image.root]) {
    if (!await Deno.stat(path).then(() => true, () => false)) return undefined;
  }
  const now = new Date();
  await Deno.utime(`${dir}/${digest}`, now, now);
  return { ...image, built: false };
}

async function readIndex(dir: string): Promise<Index | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(`${dir}/index.json`)) as Index;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Removes what nobody asked for in a week, and what builders that were killed left. */
export async function removeUnused(dir: string): Promise<void> {
  for await (const entry of Deno.readDir(dir)) {
    const path = `${dir}/${entry.name}`;
    const { mtime } = await Deno.stat(path).catch(() => ({ mtime: null }));
    if (mtime !== null && Date.now() - mtime.getTime() > unusedMsMax) await Deno.remove(path, { recursive: true });
  }
}

/** Files of this host that go into the image: where each goes, and where it is. */
async function hostFiles(): Promise<Map<string, string>> {
  const programs = Object.entries(required).map(([name, from]) => needTool(name, from));
  for (const name of optional) {
    const path = whichTool(name);
    if (path !== undefined) programs.push(path);
  }
  const paths: string[] = [];
  for (const [dir, wanted] of Object.entries(dataFiles)) {
    const names: string[] = [];
    try {
      for await (const entry of Deno.readDir(dir)) if (wanted.test(entry.name)) names.push(entry.name);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    paths.push(...names.sort().map((name) => `${dir}/${name}`));
  }
  const binaries = [...programs, ...paths.filter((path) => path.endsWith(".so"))];
  const files = new Map<string, string>();
  const deno = await Deno.realPath(Deno.execPath());
  for (const path of [...(await Promise.all([...binaries, deno].map(withLibraries))).flat(), ...paths]) {
    if (path === deno) continue;
    // Libraries are named by directories that are links on merged systems.
    const slash = path.lastIndexOf("/");
    files.set(`${await Deno.realPath(path.slice(0, slash))}${path.slice(slash)}`, path);
  }
  return files.set(nodePaths.deno, deno);
}

async function fingerprint(files: ReadonlyMap<string, string>, packages: GuestPackages): Promise<string> {
  const seen: unknown[] = [];
  for (const [target, source] of [...files].sort()) {
    const { size, mtime } = await Deno.stat(source);
    seen.push([target, size, mtime?.getTime()]);
  }
  const own = [firstInit, secondInit, nodeCmdline, nodeModules, rootDirs, rootLinks, rootTexts];
  return digestOfText(JSON.stringify([builderVersion, own, packages, seen]));
}

async function assemble(
  packages: string,
  files: ReadonlyMap<string, string>,
  work: string,
  out: string,
): Promise<void> {
  const kernel = [...Deno.readDirSync(`${packages}/boot`)].find(({ name }) => name.startsWith("vmlinuz-"));
  if (kernel === undefined) {
    throw fault("data_loss", "package_content", "Cannot use the kernel package: no kernel in it");
  }
  await Deno.copyFile(`${packages}/boot/${kernel.name}`, `${out}/kernel`);
  const busybox = await firstPresent(`${packages}/bin/busybox`, `${packages}/usr/bin/busybox`);
  const modulesDir = await firstPresent(`${packages}/lib/modules`, `${packages}/usr/lib/modules`);
  const unxz = (path: string) => runProgram(busybox, ["xzcat", path]);
  const modules = await resolveModules(nodeModules, await directorySource(modulesDir, unxz));
  const cpio = writeCpio([
    ...["bin", "dev", "etc", "lib", "lib/modules", "proc", "sys"].map((path) => ({ kind: "dir", path }) as const),
    { kind: "char", path: "dev/console", major: 5, minor: 1 },
    { kind: "file", path: "bin/busybox", data: await Deno.readFile(busybox), mode: 0o755 },
    { kind: "file", path: "init", data: utf8.encode(firstInit), mode: 0o755 },
    { kind: "file", path: "etc/modules", data: utf8.encode(modules.map(({ name }) => `${name}\n`).join("")) },
    ...modules.map(({ name, data }) => ({ kind: "file", path: `lib/modules/${name}.ko`, data }) as const),
  ]);
  await Deno.writeFile(`${out}/initrd`, cpio);

  const root = `${work}/root`;
  for (const dir of rootDirs) await Deno.mkdir(`${root}/${dir}`, { recursive: true });
  for (const [path, target] of Object.entries(rootLinks)) await Deno.symlink(target, `${root}/${path}`);
  for (const [path, text] of Object.entries(rootTexts)) await Deno.writeTextFile(`${root}/${path}`, text);
  for (const [target, source] of files) {
    await Deno.mkdir(`${root}${target.slice(0, target.lastIndexOf("/"))}`, { recursive: true });
    await Deno.copyFile(source, `${root}${target}`);
  }
  await Deno.writeTextFile(`${root}/usr/sbin/init`, secondInit, { mode: 0o755 });
  await Deno.copyFile(busybox, `${root}/usr/bin/busybox`);
  const applets = new TextDecoder().decode(await runProgram(busybox, ["--list"])).split("\n").filter(Boolean);
  for (const name of applets) {
    const taken = ["usr/bin", "usr/sbin"].some((dir) => exists(`${root}/${dir}/${name}`));
    if (!taken) await Deno.symlink("busybox", `${root}/usr/bin/${name}`);
  }
  await packReadOnly(root, `${out}/root.ext4`);
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function firstPresent(...paths: readonly string[]): Promise<string> {
  for (const path of paths) if (await Deno.stat(path).then(() => true, () => false)) return path;
  throw fault("data_loss", "package_content", `Cannot use the packages: wanted ${paths.join(" or ")}`);
}
