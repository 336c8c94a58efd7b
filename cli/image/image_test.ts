import assert from "node:assert/strict";
import { Fault, utf8 } from "@ultracloud/base";
import { writeCpio } from "./cpio.ts";
import { guestTree } from "./guest.ts";
import { buildTinyImage } from "./mod.ts";
import { dependsOf, moduleName, resolveModules } from "./modules.ts";
import { resolvePackages, type RunProgram, runProgram, unpack } from "./packages.ts";
import { writeTar } from "./tar.ts";

const text = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes);

Deno.test("writeCpio() makes a newc archive whose records are padded to four bytes and end with the trailer", () => {
  const bytes = writeCpio([
    { kind: "dir", path: "bin" },
    { kind: "file", path: "bin/a", data: utf8.encode("12345"), mode: 0o755 },
    { kind: "link", path: "init", target: "bin/a" },
  ]);
  assert.equal(bytes.length % 4, 0);
  const shown = text(bytes);
  assert.equal(shown.match(/070701/g)?.length, 4);
  assert.ok(shown.startsWith("070701" + "00000001" + "000041ed"));
  assert.ok(shown.includes("bin/a\0"));
  assert.ok(shown.includes("TRAILER!!!\0"));
  assert.deepEqual(writeCpio([{ kind: "dir", path: "bin" }]), writeCpio([{ kind: "dir", path: "bin" }]));
});

Deno.test("writeTar() makes blocks of 512 bytes that sum up", () => {
  const bytes = writeTar([{ name: "cmdline", data: utf8.encode("console=ttyS0") }]);
  assert.equal(bytes.length, 512 * 4);
  const header = bytes.slice(0, 512);
  const stored = parseInt(text(header.slice(148, 154)), 8);
  header.fill(0x20, 148, 156);
  assert.equal(header.reduce((sum, byte) => sum + byte, 0), stored);
  assert.equal(text(bytes.slice(512, 525)), "console=ttyS0");
});

const object = (depends: string) => utf8.encode(`\x7fELF\0license=GPL\0depends=${depends}\0name=x\0`);

Deno.test("resolveModules() puts each module after what it depends on and skips what is built in", async () => {
  const all: Record<string, Uint8Array> = {
    virtio_pci: object("virtio_ring,virtio,virtio_pci_modern_dev"),
    virtio: object("virtio_ring"),
    virtio_ring: object(""),
    virtio_pci_modern_dev: object(""),
    virtio_rng: object("virtio"),
  };
  const order = await resolveModules(["virtio_pci", "ext4", "virtio-rng"], {
    read: (name) => Promise.resolve(all[name]),
  });
  assert.deepEqual(order.map((module) => module.name), [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_rng",
  ]);
  assert.equal(moduleName("virtio-rng.ko.xz"), "virtio_rng");
  assert.deepEqual(dependsOf(utf8.encode("no info")), []);
});

Deno.test("resolveModules() refuses modules that need each other", async () => {
  const all: Record<string, Uint8Array> = { a: object("b"), b: object("a") };
  await assert.rejects(
    resolveModules(["a"], { read: (name) => Promise.resolve(all[name]) }),
    /Cannot order kernel modules: a needs b needs a/,
  );
});

Deno.test("guestTree() lists every directory before what it holds", () => {
  const seen = new Set<string>();
  for (const entry of guestTree(new Uint8Array(1), [{ name: "virtio", data: new Uint8Array(1) }])) {
    const parent = entry.path.split("/").slice(0, -1).join("/");
    assert.ok(parent === "" || seen.has(parent), `${entry.path} comes before ${parent}`);
    if (entry.kind === "dir") seen.add(entry.path);
  }
});

/** Answers as apt-cache does; anything not listed fails. */
function scripted(stanzas: Record<string, string>): RunProgram {
  return (program, args) => {
    if (program === "dpkg") return Promise.resolve(utf8.encode("amd64\n"));
    const stanza = stanzas[args.at(-1)!];
    if (stanza) return Promise.resolve(utf8.encode(stanza));
    return Promise.reject(new Fault("failed_precondition", "image_program_failed", `Cannot run ${program}`));
  };
}
const stanza = (name: string, depends: string) =>
  `Package: ${name}\nVersion: 1\nDepends: ${depends}\nSHA256: ${name}-digest\nDescription: x\n more\n`;

Deno.test("resolvePackages() follows Debian's cloud kernel metapackage to the concrete kernel", async () => {
  const found = await resolvePackages(scripted({
    "busybox-static": stanza("busybox-static", "libc6"),
    "linux-image-cloud-amd64": stanza("linux-image-cloud-amd64", "linux-image-6.1.0-1-cloud-amd64 (= 1)"),
    "linux-image-6.1.0-1-cloud-amd64": stanza("linux-image-6.1.0-1-cloud-amd64", "kmod, linux-base (>= 4)"),
  }));
  assert.deepEqual(found.kernel.map((ref) => ref.name), ["linux-image-6.1.0-1-cloud-amd64"]);
  assert.equal(found.busybox.sha256, "busybox-static-digest");
});

Deno.test("resolvePackages() takes the modules package that Ubuntu splits off", async () => {
  const found = await resolvePackages(scripted({
    "busybox-static": stanza("busybox-static", ""),
    "linux-image-virtual": stanza("linux-image-virtual", "linux-image-6.8.0-9-generic"),
    "linux-image-6.8.0-9-generic": stanza("linux-image-6.8.0-9-generic", "kmod, linux-modules-6.8.0-9-generic"),
    "linux-modules-6.8.0-9-generic": stanza("linux-modules-6.8.0-9-generic", ""),
  }));
  assert.deepEqual(found.kernel.map((ref) => ref.name), [
    "linux-image-6.8.0-9-generic",
    "linux-modules-6.8.0-9-generic",
  ]);
});

Deno.test("buildTinyImage() names the command to run when the host has no package lists", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await assert.rejects(buildTinyImage({ cacheDir: dir }, { run: scripted({}) }), /apt-get update/);
    assert.deepEqual([...Deno.readDirSync(dir)], []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("unpack() asks a busy mirror again, and gives up in the end", async () => {
  const dir = await Deno.makeTempDir();
  try {
    let asked = 0;
    const busy = (failures: number): RunProgram => async (program) => {
      if (program === "apt-get" && ++asked <= failures) {
        throw new Fault("failed_precondition", "image_program_failed", "Cannot run apt-get download: 503");
      }
      if (program === "apt-get") await Deno.writeTextFile(`${dir}/kernel.deb`, "");
      return new Uint8Array();
    };
    const ref = { name: "kernel", version: "1", sha256: "" };
    await unpack(busy(1), ref, dir, dir);
    assert.equal(asked, 2);
    asked = 0;
    await assert.rejects(unpack(busy(9), ref, dir, dir), /503/);
    assert.equal(asked, 3);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

const hasLists = await resolvePackages(runProgram).then(() => true, () => false);

Deno.test({
  name: "buildTinyImage() builds once, finds its work again, and builds the same bytes elsewhere",
  ignore: !hasLists,
  async fn() {
    const dirs = [await Deno.makeTempDir(), await Deno.makeTempDir()] as const;
    try {
      const first = await buildTinyImage({ cacheDir: dirs[0] });
      assert.equal(first.built, true);
      assert.equal((await buildTinyImage({ cacheDir: dirs[0] })).built, false);
      const offline = await buildTinyImage({ cacheDir: dirs[0] }, { run: scripted({}) });
      assert.deepEqual([offline.built, offline.sha256], [false, first.sha256]);
      const second = await buildTinyImage({ cacheDir: dirs[1] });
      assert.equal(second.sha256, first.sha256);
      await Deno.truncate(first.path, 1000);
      assert.equal((await buildTinyImage({ cacheDir: dirs[0] })).built, true, "a damaged image is made again");
    } finally {
      for (const dir of dirs) await Deno.remove(dir, { recursive: true });
    }
  },
});
