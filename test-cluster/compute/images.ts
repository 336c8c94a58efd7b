import { fault, toHex } from "@ultracloud/base";
import { type Image, ImageFormat, ImageService } from "@ultracloud/proto/plasmavmc/v1";
import { toFault } from "@ultracloud/rpc";
import { ComputeCloud, project } from "./cloud.ts";
import type { Proof } from "./proof.ts";

interface Hostile {
  readonly name: string;
  readonly format: ImageFormat;
  readonly make: (path: string) => Promise<void>;
}

async function qemuImg(...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("qemu-img", { args, stdout: "null", stderr: "piped" }).output();
  if (!success) throw fault("internal", "qemu_img", new TextDecoder().decode(stderr));
}

/** Images made by QEMU's own tools to harm: every one is refused, and the host's file they name is not read. */
export async function images(proof: Proof): Promise<void> {
  await using cloud = await ComputeCloud.open({ workers: [], planeConfig: { imageVirtualBytesMax: 2 ** 40 } });
  const dir = `${cloud.dir}/hostile`;
  await Deno.mkdir(dir);
  const secret = `${dir}/host-file`;
  await Deno.writeFile(secret, new Uint8Array(65_536).fill(0x53));
  const good = `${dir}/good.qcow2`;
  await qemuImg("create", "-q", "-f", "qcow2", good, "16M");

  const patched = (offset: number, bytes: readonly number[]) => async (path: string) => {
    const content = await Deno.readFile(good);
    content.set(bytes, offset);
    await Deno.writeFile(path, content);
  };
  const corpus: readonly Hostile[] = [
    {
      name: "a qcow2 image whose backing file is a file of the host",
      format: ImageFormat.QCOW2,
      make: (path) => qemuImg("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path),
    },
    {
      name: "a qcow2 image whose data file is a file of the host",
      format: ImageFormat.QCOW2,
      make: async (path) => {
        await qemuImg("create", "-q", "-f", "qcow2", "-o", `data_file=${dir}/data.raw`, path, "1M");
      },
    },
    {
      name: "a qcow2 image that unfolds to 2 PiB",
      format: ImageFormat.QCOW2,
      make: (path) => qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, `${2 ** 51}`),
    },
    {
      name: "a qcow2 image with the magic of another",
      format: ImageFormat.QCOW2,
      make: patched(0, [0x51, 0x46, 0x49, 0]),
    },
    { name: "a qcow2 image whose table lies beyond its end", format: ImageFormat.QCOW2, make: patched(40, [0x7f]) },
    {
      name: "a qcow2 image that is cut off",
      format: ImageFormat.QCOW2,
      make: async (path) => await Deno.writeFile(path, (await Deno.readFile(good)).subarray(0, 50)),
    },
    {
      name: "a qcow2 image declared as raw",
      format: ImageFormat.RAW,
      make: (path) => Deno.copyFile(good, path),
    },
    {
      name: "a gzip bomb declared as raw",
      format: ImageFormat.RAW,
      make: async (path) => {
        const zeros = new Blob([new Uint8Array(8 * 2 ** 20)]).stream().pipeThrough(new CompressionStream("gzip"));
        const packed = new Uint8Array(await new Response(zeros).arrayBuffer());
        await Deno.writeFile(path, packed.subarray(0, packed.length - packed.length % 512));
      },
    },
    {
      name: "a tar that climbs out of its directory, declared as a kernel bundle",
      format: ImageFormat.KERNEL_BUNDLE,
      make: async (path) => {
        await Deno.writeTextFile(`${dir}/kernel`, "x");
        const args = ["-C", dir, "--transform", "s,^,../../,", "-P", "-cf", path, "kernel"];
        await new Deno.Command("tar", { args }).output();
      },
    },
    {
      name: "a kernel bundle that is a link to a file of the host",
      format: ImageFormat.KERNEL_BUNDLE,
      make: async (path) => {
        await Deno.symlink(secret, `${dir}/cmdline`);
        await new Deno.Command("tar", { args: ["-C", dir, "-cf", path, "kernel", "cmdline"] }).output();
      },
    },
  ];
  const client = cloud.client(ImageService);
  async function send(path: string, name: string, format: ImageFormat): Promise<Image> {
    const bytes = await Deno.readFile(path);
    return await client.importImage((async function* () {
      yield {
        part: { case: "header" as const, value: { project, name, format, bytes: BigInt(bytes.length), sha256: "" } },
      };
      for (let at = 0; at < bytes.length; at += 1 << 19) {
        yield { part: { case: "chunk" as const, value: bytes.subarray(at, at + (1 << 19)) } };
      }
    })());
  }

  // Whoever reads it moves its access time, where the file system keeps one.
  await Deno.utime(secret, new Date(0), new Date(0));
  await Deno.readFile(secret);
  const watched = (await Deno.stat(secret)).atime?.getTime() !== 0;
  if (!watched) proof.seen("skipped: whether the host's file is read, as this file system keeps no access times");
  for (const [i, { name, format, make }] of corpus.entries()) {
    const path = `${dir}/image${i}`;
    await make(path);
    // Making it may read what it names; only what comes after counts.
    await Deno.utime(secret, new Date(0), new Date(0));
    let why = "";
    try {
      await send(path, `hostile${i}`, format);
    } catch (error) {
      const known = toFault(error);
      if (known.code !== "image_malformed" && known.code !== "image_too_large") throw known;
      why = known.message;
    }
    proof.check(why !== "", `${name} is refused: ${why}`);
    if (watched) proof.check((await Deno.stat(secret)).atime?.getTime() === 0, "  the host's file was not read");
  }
  const kept = await send(good, "good", ImageFormat.QCOW2);
  const digest = toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(good))));
  proof.check(kept.sha256 === digest && kept.virtualBytes === 16n * 2n ** 20n, "an honest one is taken, by its digest");
  const content = [...Deno.readDirSync(`${cloud.dir}/state/plasmavmc/images/content`)].map((e) => e.name);
  proof.check(
    content.length === 2,
    `nothing of the refused ones is kept (${content.length} contents: the tiny image and it)`,
  );
  const incoming = [...Deno.readDirSync(`${cloud.dir}/state/plasmavmc/images/incoming`)].length;
  proof.check(incoming === 0, "nothing half-way is left");
}
