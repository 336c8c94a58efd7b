import assert from "node:assert/strict";
import { Fault, systemClock } from "@ultracloud/base";
import { missingPrograms, testUnless } from "@ultracloud/testing";
import { Disks } from "./disks.ts";
import { sizeOf } from "./files.ts";
import { HostUser } from "./host_user.ts";

const mib = 2 ** 20;
const canary = "canary-4d1c7a";
/** Long ago, so that a read would show even where the file system notes only the first of a day. */
const longAgo = new Date(2020, 1, 1);

async function qemuImg(...args: string[]): Promise<void> {
  const output = await new Deno.Command("qemu-img", { args, stdout: "null", stderr: "piped" }).output();
  assert.ok(output.success, new TextDecoder().decode(output.stderr));
}

/** Changes bytes of an image where they are. */
async function patch(path: string, change: (bytes: DataView) => void): Promise<void> {
  const bytes = await Deno.readFile(path);
  change(new DataView(bytes.buffer));
  await Deno.writeFile(path, bytes);
}

const disks = new Disks({ clock: systemClock, user: new HostUser({ uidFirst: undefined }) });

interface Hostile {
  readonly what: string;
  readonly format: "raw" | "qcow2";
  /** Of the disk that is asked for. */
  readonly bytes: number;
  readonly code: string;
  readonly make: (path: string, host: string) => Promise<void>;
}

const plain = (path: string, size = "4M") => qemuImg("create", "-q", "-f", "qcow2", path, size);
const backed = (path: string, file: string) =>
  qemuImg("create", "-q", "-f", "qcow2", "-u", "-b", file, "-F", "raw", path, "4M");

const corpus: readonly Hostile[] = [
  {
    what: "a backing file of the host",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    make: (path, host) => backed(path, host),
  },
  {
    what: "a backing file whose name is a pseudo-protocol",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    make: (path, host) => backed(path, `json:{"driver":"raw","file":{"driver":"file","filename":"${host}"}}`),
  },
  {
    what: "itself as its backing file",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    async make(path) {
      await backed(`${path}.self`, path);
      await Deno.rename(`${path}.self`, path);
    },
  },
  {
    what: "an external data file",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    async make(path, host) {
      await qemuImg("create", "-q", "-f", "qcow2", "-o", `data_file=${path}.data,data_file_raw=on`, path, "4M");
      await Deno.remove(`${path}.data`);
      // The name of the host's file, in the place of the one that was made.
      const bytes = await Deno.readFile(path);
      const text = new TextDecoder("latin1").decode(bytes);
      const at = text.indexOf(`${path}.data`);
      assert.ok(at > 0);
      const name = host.padEnd(`${path}.data`.length, "\0").slice(0, `${path}.data`.length);
      bytes.set(new TextEncoder().encode(name), at);
      await Deno.writeFile(path, bytes);
    },
  },
  {
    what: "a virtual size of 8 EiB",
    format: "qcow2",
    bytes: 0,
    code: "image_malformed",
    async make(path) {
      await plain(path);
      await patch(path, (view) => view.setBigUint64(24, 2n ** 63n - 512n));
    },
  },
  {
    what: "a virtual size beyond every disk",
    format: "qcow2",
    bytes: 0,
    code: "image_too_large",
    async make(path) {
      await plain(path);
      await patch(path, (view) => view.setBigUint64(24, 2n ** 50n));
    },
  },
  {
    what: "a virtual size beyond the disk asked for",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_too_large",
    make: (path) => plain(path, "1T"),
  },
  {
    what: "a megabyte that unfolds to more than the disk",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_too_large",
    async make(path) {
      await Deno.writeFile(`${path}.raw`, new Uint8Array(64 * mib).fill(7));
      await qemuImg("convert", "-q", "-c", "-O", "qcow2", "-f", "raw", `${path}.raw`, path);
      await Deno.remove(`${path}.raw`);
      assert.ok((await sizeOf(path))! < mib, "the image is small");
    },
  },
  {
    what: "data that is cut off",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    async make(path) {
      await Deno.writeFile(`${path}.raw`, crypto.getRandomValues(new Uint8Array(65_536)));
      await Deno.truncate(`${path}.raw`, 4 * mib);
      for (let i = 1; i < 32; i++) {
        const file = await Deno.open(`${path}.raw`, { write: true });
        await file.seek(i * 128 * 1024, Deno.SeekMode.Start);
        await file.write(crypto.getRandomValues(new Uint8Array(65_536)));
        file.close();
      }
      await qemuImg("convert", "-q", "-O", "qcow2", "-f", "raw", `${path}.raw`, path);
      await Deno.remove(`${path}.raw`);
      await Deno.truncate(path, Math.floor((await sizeOf(path))! / 2));
    },
  },
  {
    what: "a header that is cut off",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    async make(path) {
      await plain(path);
      await Deno.truncate(path, 60);
    },
  },
  {
    what: "another format's content",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    make: (path) => Deno.writeFile(path, new Uint8Array(mib).fill(0x41)),
  },
  {
    what: "tables that point beyond the file",
    format: "qcow2",
    bytes: 8 * mib,
    code: "image_malformed",
    async make(path) {
      await plain(path);
      await patch(path, (view) => view.setBigUint64(40, 2n ** 40n));
    },
  },
];

testUnless(
  "images that lie are refused, leave nothing, and no other file of the host is read",
  missingPrograms("qemu-img"),
  async (t) => {
    const dir = await Deno.makeTempDir();
    const host = `${dir}/secret`;
    try {
      await Deno.writeTextFile(host, canary.repeat(4096));
      const age = () => Deno.utime(host, longAgo, longAgo);
      const wasRead = async () => (await Deno.stat(host)).atime!.getTime() !== longAgo.getTime();
      await age();
      assert.equal(await wasRead(), false);
      await Deno.readTextFile(host);
      const shows = await wasRead();
      for (const { what, format, bytes, code, make } of corpus) {
        await t.step(what, async () => {
          const path = `${dir}/image`;
          await make(path, host);
          await age();
          await assert.rejects(
            disks.create(`${dir}/disk`, { bytes, image: { path, format } }),
            (error) => error instanceof Fault && error.code === code,
          );
          if (shows) assert.equal(await wasRead(), false, "the host's file was not read");
          assert.equal(await sizeOf(`${dir}/disk`), undefined);
          assert.equal(await sizeOf(`${dir}/disk.tmp`), undefined);
          await Deno.remove(path);
        });
      }
      await t.step("a raw image with a qcow2 header is data, not a disk that names the host's file", async () => {
        const path = `${dir}/image`;
        await backed(path, host);
        await age();
        await disks.create(`${dir}/disk`, { bytes: 0, image: { path, format: "raw" } });
        if (shows) assert.equal(await wasRead(), false);
        await qemuImg("convert", "-f", "qcow2", "-O", "raw", `${dir}/disk`, `${dir}/out`);
        assert.ok(!(await Deno.readTextFile(`${dir}/out`)).includes(canary));
      });
      console.log(shows ? "reads show in the access time" : "this file system notes no reads: shown by content only");
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
);
