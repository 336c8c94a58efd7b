import assert from "node:assert/strict";
import { Fault, systemClock, utf8 } from "@ultracloud/base";
import { missingPrograms, testUnless } from "@ultracloud/testing";
import { ConsoleLog } from "./console_log.ts";
import { Disks } from "./disks.ts";
import { readBundle } from "./domain/bundle.ts";
import { checkQcow2 } from "./domain/qcow2.ts";
import { sizeOf } from "./files.ts";
import { HostUser } from "./host_user.ts";
import { RecordStore, type VmRecord } from "./records.ts";
import { slotCount, Slots } from "./slots.ts";
import { specFixture } from "./testdata/spec_fixture.ts";

async function inTempDir(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    await body(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const append = (path: string, data: string) => Deno.writeTextFile(path, data, { append: true });

Deno.test("ConsoleLog.read() answers by offset, from the end, and nothing beyond it", async () => {
  await inTempDir(async (dir) => {
    const log = new ConsoleLog({ dir, bytesMax: 100 });
    assert.deepEqual(await log.read(5, 10), { offset: 0, data: new Uint8Array(0), nextOffset: 0 });
    await append(log.path, "0123456789");
    assert.equal(text((await log.read(3, 4)).data), "3456");
    assert.deepEqual((await log.read(-3, 100)).offset, 7);
    assert.deepEqual((await log.read(50, 100)).nextOffset, 10);
  });
});

Deno.test("ConsoleLog.trim() keeps the newest bytes under their offsets, also in a later agent", async () => {
  await inTempDir(async (dir) => {
    let log = new ConsoleLog({ dir, bytesMax: 16 });
    let whole = "";
    for (let i = 0; i < 40; i++) {
      const line = `line ${i}\n`;
      whole += line;
      await append(log.path, line);
      await log.trim();
      if (i % 7 === 0) log = new ConsoleLog({ dir, bytesMax: 16 });
      const slice = await log.read(0, 1000);
      assert.equal(slice.nextOffset, whole.length);
      assert.equal(text(slice.data), whole.slice(slice.offset));
      assert.ok(slice.data.length >= Math.min(16, whole.length));
      const [from, upTo] = [Math.max(0, whole.length - 9), 4];
      assert.equal(text((await log.read(from, upTo)).data), whole.slice(from, from + upTo));
    }
    const kept = [...Deno.readDirSync(dir)].reduce((sum, entry) => sum + Deno.statSync(`${dir}/${entry.name}`).size, 0);
    assert.ok(kept < 150, `${kept} bytes are kept`);
  });
});

Deno.test("ConsoleLog finishes a truncation that a crash cut short", async () => {
  await inTempDir(async (dir) => {
    const log = new ConsoleLog({ dir, bytesMax: 4 });
    await append(log.path, "0123456789");
    await Deno.writeTextFile(`${dir}/console-6.head`, "6789");
    await Deno.writeTextFile(`${dir}/console.json`, JSON.stringify({ base: 10, headStart: 6, cut: 10 }));
    const slice = await log.read(0, 100);
    assert.deepEqual([slice.offset, text(slice.data), slice.nextOffset], [6, "6789", 10]);
    assert.equal(await sizeOf(log.path), 0);
    await append(log.path, "ab");
    assert.equal(text((await log.read(8, 100)).data), "89ab");
  });
});

Deno.test("RecordStore keeps records over restarts and drops directories without one", async () => {
  await inTempDir(async (dir) => {
    const store = new RecordStore({ dir: `${dir}/vms` });
    assert.deepEqual(await store.load(), []);
    const record: VmRecord = {
      version: 1,
      spec: specFixture(),
      desired: "running",
      run: {
        slot: 3,
        startedAtMs: 5,
        hardware: { machineType: "pc-q35-7.2", vcpus: 1, memoryBytes: 2 ** 27 },
        plugged: specFixture(),
      },
      end: undefined,
    };
    await store.put(record);
    await Deno.mkdir(`${dir}/vms/vm_half`);
    await Deno.writeTextFile(`${dir}/vms/vm_half/disk.qcow2`, "x");
    const [loaded, ...more] = await new RecordStore({ dir: `${dir}/vms` }).load();
    assert.deepEqual(more, []);
    assert.deepEqual(loaded, JSON.parse(JSON.stringify(record)));
    assert.equal(await sizeOf(`${dir}/vms/vm_half/disk.qcow2`), undefined);
    await Deno.writeTextFile(`${store.dirOf(record.spec.vmId)}/record.json`, '{"version": 2}');
    await assert.rejects(store.load(), (error) => error instanceof Fault && error.code === "record_unreadable");
    await store.remove(record.spec.vmId);
    assert.deepEqual(await store.load(), []);
  });
});

Deno.test("Slots hands out the lowest free one and refuses when all are taken", () => {
  const slots = new Slots();
  slots.claim(1);
  assert.deepEqual([slots.take(), slots.take()], [0, 2]);
  for (let i = slots.free; i > 0; i--) slots.take();
  assert.throws(() => slots.take(), (error) => error instanceof Fault && error.code === "no_slot");
  slots.release(7);
  assert.deepEqual([slots.take(), slotCount], [7, 64]);
});

function tar(members: readonly (readonly [name: string, data: string, type?: string])[]): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const [name, data, type = "0"] of members) {
    const header = new Uint8Array(512);
    header.set(utf8.encode(name), 0);
    header.set(utf8.encode(data.length.toString(8).padStart(11, "0")), 124);
    header.set(utf8.encode(type), 156);
    const body = new Uint8Array(Math.ceil(data.length / 512) * 512);
    body.set(utf8.encode(data));
    blocks.push(header, body);
  }
  blocks.push(new Uint8Array(1024));
  return Uint8Array.from(blocks.flatMap((block) => [...block]));
}

Deno.test("readBundle() takes exactly kernel, initrd and cmdline and names what is wrong", () => {
  const good = [["./kernel", "K"], ["initrd", "I"], ["cmdline", "quiet"]] as const;
  assert.equal(text(readBundle(tar(good)).cmdline), "quiet");
  const bad: [readonly (readonly [string, string, string?])[], RegExp][] = [
    [good.slice(0, 2), /it has no cmdline/],
    [[...good, ["../etc/passwd", "x"]], /it holds "..\/etc\/passwd"/],
    [[...good, ["kernel", "again"]], /it holds kernel twice/],
    [[["kernel", "", "2"], ...good], /is no plain file/],
    [[["kernel", "K"], ["initrd", "I"], ["cmdline", "x".repeat(3000)]], /its cmdline has 3000 bytes/],
  ];
  for (const [members, message] of bad) assert.throws(() => readBundle(tar(members)), message);
  const cut = tar([["kernel", "K".repeat(1000)]]).subarray(0, 700);
  assert.throws(() => readBundle(cut), /reaches beyond the end/);
});

Deno.test("checkQcow2() refuses images that would make qemu-img read other files", () => {
  const header = (change: (view: DataView) => void) => {
    const view = new DataView(new ArrayBuffer(104));
    view.setUint32(0, 0x514649fb);
    view.setUint32(4, 3);
    view.setBigUint64(24, 1_048_576n);
    change(view);
    return new Uint8Array(view.buffer);
  };
  assert.equal(checkQcow2(header(() => {})).virtualBytes, 1_048_576);
  assert.throws(() => checkQcow2(header((view) => view.setBigUint64(8, 200n))), /it names a backing file/);
  assert.throws(() => checkQcow2(header((view) => view.setBigUint64(72, 4n))), /it names a data file/);
  assert.throws(() => checkQcow2(header((view) => view.setUint32(32, 1))), /it is encrypted/);
  assert.throws(() => checkQcow2(header((view) => view.setUint32(0, 1))), /it has no qcow2 header/);
  assert.throws(() => checkQcow2(new Uint8Array(10)), /it has no qcow2 header/);
});

const disks = new Disks({ clock: systemClock, user: new HostUser({ uidFirst: undefined }) });

testUnless(
  "qemu-img runs as a user of its own, who has the files of its run alone and no longer than that",
  missingPrograms("qemu-img") ?? (Deno.uid() === 0 ? undefined : "running as another user needs root"),
  async () => {
    await inTempDir(async (dir) => {
      await Deno.chmod(dir, 0o711);
      const confined = new Disks({ clock: systemClock, user: new HostUser({ uidFirst: 640_000 }) });
      const image = { path: `${dir}/image`, format: "raw" as const };
      await Deno.writeFile(image.path, new Uint8Array(2 ** 20).fill(7), { mode: 0o600 });
      await Promise.all([1, 2].map((i) => confined.create(`${dir}/disk${i}`, { bytes: 2 ** 21, image })));
      for (const name of ["image", "disk1", "disk2"]) {
        const { uid, mode } = await Deno.stat(`${dir}/${name}`);
        assert.deepEqual([name, uid, mode! & 0o777], [name, 0, 0o600]);
      }
      // Not its own: a file it is told to write to without having been given it.
      await Deno.writeTextFile(`${dir}/foreign`, "kept", { mode: 0o600 });
      await assert.rejects(
        confined.fill(`${dir}/foreign`, `${dir}/disk1`),
        (error) => error instanceof Fault && error.code === "disk_failed" && /Permission denied/.test(error.message),
      );
      assert.equal(await Deno.readTextFile(`${dir}/foreign`), "kept");
    });
  },
);

testUnless(
  "Disks.create() copies an image into a disk of the size asked for, and refuses a smaller one and a backing file",
  missingPrograms("qemu-img"),
  async () => {
    await inTempDir(async (dir) => {
      const run = async (...args: string[]) =>
        JSON.parse(text((await new Deno.Command("qemu-img", { args }).output()).stdout) || "null");
      const image = { path: `${dir}/image`, format: "raw" as const };
      await Deno.writeFile(image.path, new Uint8Array(2 * 2 ** 20).fill(7));
      await disks.create(`${dir}/disk`, { bytes: 4 * 2 ** 20, image });
      const info = await run("info", "--output=json", "-f", "qcow2", `${dir}/disk`);
      assert.equal(info["virtual-size"], 4 * 2 ** 20);
      await disks.create(`${dir}/disk`, { bytes: 8 * 2 ** 20, image: undefined });
      assert.equal((await run("info", "--output=json", `${dir}/disk`))["virtual-size"], 4 * 2 ** 20);
      await assert.rejects(
        disks.create(`${dir}/small`, { bytes: 2 ** 20, image }),
        /Cannot put an image of 2097152 bytes/,
      );
      await run("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", `${dir}/liar`);
      await assert.rejects(
        disks.create(`${dir}/stolen`, { bytes: 0, image: { path: `${dir}/liar`, format: "qcow2" } }),
        /it names a backing file/,
      );
      assert.equal(await sizeOf(`${dir}/stolen`), undefined);
    });
  },
);
