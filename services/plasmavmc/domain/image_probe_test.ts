import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import fc from "fast-check";
import { bundle, kernel, tar } from "../test_bundles.ts";
import { probeImage, type ReadAt } from "./image_probe.ts";
import type { ImageFormat } from "./types.ts";

const limits = { virtualBytesMax: 1024 ** 4 };
const readerOf = (bytes: Uint8Array): ReadAt => (offset, length) =>
  Promise.resolve(bytes.slice(offset, offset + length));
const probe = (format: ImageFormat, bytes: Uint8Array) => probeImage(format, readerOf(bytes), bytes.length, limits);

async function refusal(format: ImageFormat, bytes: Uint8Array): Promise<string> {
  try {
    await probe(format, bytes);
  } catch (error) {
    if (error instanceof Fault && error.code === "image_malformed") return error.message;
    throw error;
  }
  return "";
}

/** A version 3 image of 1 GiB with 64 KiB clusters, whose tables lie where they should. */
function qcow2(patch: (view: DataView) => void = () => {}): Uint8Array {
  const bytes = new Uint8Array(4 * 65536);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, 3);
  view.setUint32(20, 16);
  view.setBigUint64(24, 1024n ** 3n);
  view.setUint32(36, 2);
  view.setBigUint64(40, 3n * 65536n);
  view.setBigUint64(48, 65536n);
  view.setUint32(56, 1);
  view.setUint32(96, 4);
  view.setUint32(100, 104);
  patch(view);
  return bytes;
}

Deno.test("a qcow2 image that stands alone is taken with the size its guest sees", async () => {
  assert.deepEqual(await probe("qcow2", qcow2()), { virtualBytes: 1024 ** 3 });
  assert.deepEqual(await probe("qcow2", qcow2((v) => v.setUint32(4, 2))), { virtualBytes: 1024 ** 3 });
});

const lies: readonly (readonly [string, (view: DataView) => void, RegExp])[] = [
  ["no magic", (v) => v.setUint32(0, 0), /no qcow2 header/],
  ["another version", (v) => v.setUint32(4, 4), /version 4/],
  ["a backing file", (v) => v.setBigUint64(8, 112n), /backing file/],
  ["a backing file name without offset", (v) => v.setUint32(16, 5), /backing file/],
  ["an external data file", (v) => v.setBigUint64(72, 4n), /another file/],
  ["a corrupt mark", (v) => v.setBigUint64(72, 2n), /corrupt/],
  ["an unknown feature", (v) => v.setBigUint64(72, 1n << 40n), /unknown here/],
  ["encryption", (v) => v.setUint32(32, 1), /encrypted/],
  ["a huge disk", (v) => v.setBigUint64(24, 1n << 62n), /unfolds/],
  ["no disk", (v) => v.setBigUint64(24, 0n), /0 bytes/],
  ["tiny clusters", (v) => v.setUint32(20, 3), /clusters/],
  ["huge clusters", (v) => v.setUint32(20, 63), /clusters/],
  ["a table beyond the end", (v) => v.setBigUint64(40, 1n << 40n), /beyond the end/],
  ["a table between clusters", (v) => v.setBigUint64(40, 65537n), /not at a cluster/],
  ["a table too small for the disk", (v) => v.setUint32(36, 1), /too small/],
  ["a huge table", (v) => v.setUint32(36, 0xffffffff), /first-level table/],
  ["a header longer than it is", (v) => v.setUint32(100, 1 << 20), /header says/],
  ["a data file extension", (v) => v.setUint32(104, 0x44415441), /data file/],
  ["a backing format extension", (v) => v.setUint32(104, 0xe2792aca), /backing file/],
  ["an extension beyond the header", (v) => (v.setUint32(104, 0x6803f857), v.setUint32(108, 1 << 30)), /extension/],
];
for (const [name, patch, wanted] of lies) {
  Deno.test(`a qcow2 image with ${name} is refused`, async () => {
    assert.match(await refusal("qcow2", qcow2(patch)), wanted);
  });
}

Deno.test("a cut qcow2 image and random bytes are refused without another failure", async () => {
  await fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 103 }), async (n) => {
    assert.notEqual(await refusal("qcow2", qcow2().subarray(0, n)), "");
  }));
  await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 2000 }), async (bytes) => {
    assert.notEqual(await refusal("kernel_bundle", bytes), "");
    assert.notEqual(await refusal("qcow2", bytes), "");
  }));
});

Deno.test("a raw disk has whole sectors and is not another format in disguise", async () => {
  assert.deepEqual(await probe("raw", new Uint8Array(1024)), { virtualBytes: 1024 });
  assert.match(await refusal("raw", new Uint8Array(1000)), /multiple of 512/);
  assert.match(await refusal("raw", new Uint8Array(0)), /multiple of 512/);
  assert.match(await refusal("raw", qcow2()), /content is qcow2/);
});

Deno.test("a kernel bundle is exactly kernel, initrd and cmdline", async () => {
  assert.deepEqual(await probe("kernel_bundle", bundle()), { virtualBytes: 0 });
  const one = new Uint8Array([1]);
  const line = new TextEncoder().encode("quiet");
  const good = [["kernel", kernel()], ["initrd", one], ["cmdline", line]] as const;
  const cases: readonly (readonly [Uint8Array, RegExp])[] = [
    [tar(good.slice(0, 2)), /no cmdline/],
    [tar([...good, ["extra", one]]), /holds "extra"/],
    [tar([...good, ["kernel", kernel()]]), /kernel twice/],
    [tar([["../kernel", kernel()], ...good.slice(1)]), /holds "..\/kernel"/],
    [tar([["kernel", one], ...good.slice(1)]), /neither a bzImage nor/],
    [tar([...good.slice(0, 2), ["cmdline", new TextEncoder().encode("a\nb")]]), /one line/],
    [tar([...good.slice(0, 2), ["cmdline", new Uint8Array(4000).fill(97)]]), /4000 bytes/],
    [tar([...good.slice(0, 2), ["cmdline", new Uint8Array()]]), /empty/],
    [tar(good).subarray(0, 1200), /beyond the end|middle of a header/],
    [new Uint8Array([...tar(good), 1]), /follows its end/],
  ];
  for (const [bytes, wanted] of cases) assert.match(await refusal("kernel_bundle", bytes), wanted);
  const link = tar(good);
  link[156] = 0x32;
  assert.match(await refusal("kernel_bundle", link), /checksum/);
});
