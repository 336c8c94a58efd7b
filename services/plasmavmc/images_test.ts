import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { concatBytes } from "@ultracloud/base";
import { ImageFormat } from "@ultracloud/proto/plasmavmc/v1";
import { bundle } from "./test_bundles.ts";
import { code, importImage, over, project, register, vmRequest, World } from "./test_world.ts";

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

async function contents(world: World): Promise<string[]> {
  const names: string[] = [];
  for (const dir of ["content", "incoming"]) {
    for await (const entry of Deno.readDir(`${world.dir}/${dir}`)) names.push(entry.name);
  }
  return names;
}

Deno.test("an image is imported in chunks, read back by its content from any offset, and deleted with its content", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  const content = bundle();
  const image = await importImage(process, { content, sha256: sha(content), bytes: BigInt(content.length) });
  assert.equal(image.sha256, sha(content));
  assert.equal(image.bytes, BigInt(content.length));
  for (const offset of [0, 1, 600, content.length]) {
    const parts: Uint8Array[] = [];
    for await (const part of process.images.readImage({ sha256: image.sha256, offset: BigInt(offset) })) {
      parts.push(part.chunk);
    }
    assert.deepEqual(concatBytes(parts), new Uint8Array(content.subarray(offset)));
  }
  assert.equal((await process.images.listImages({ project })).images.length, 1);
  await process.images.deleteImage({ project, image: "tiny" });
  assert.deepEqual(await contents(world), []);
});

Deno.test("the same content under two names is stored once and stays until the last is deleted", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  const a = await importImage(process, { name: "a" });
  await importImage(process, { name: "b" });
  assert.deepEqual(await contents(world), [a.sha256]);
  await process.images.deleteImage({ project, image: "a" });
  assert.deepEqual(await contents(world), [a.sha256]);
  await process.images.deleteImage({ project, image: "b" });
  assert.deepEqual(await contents(world), []);
});

Deno.test("an image in use is not deleted", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  await register(process, "node01");
  await importImage(process);
  await over(process, await process.vms.createVm(vmRequest));
  const deleted = process.images.deleteImage({ project, image: "tiny" });
  assert.equal(await code(deleted), "failed_precondition/image_in_use");
  await over(process, await process.vms.deleteVm({ project, vm: "web" }));
  await process.images.deleteImage({ project, image: "tiny" });
});

Deno.test("bad imports are refused and leave nothing behind", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  const content = bundle();
  const tried = (o: Parameters<typeof importImage>[1]) => code(importImage(process, o));
  assert.equal(await tried({ sha256: "0".repeat(64) }), "data_loss/image_digest_mismatch");
  assert.equal(await tried({ sha256: "short" }), "invalid_argument/invalid_field");
  assert.equal(await tried({ bytes: BigInt(content.length + 1) }), "data_loss/image_cut_off");
  assert.equal(await tried({ bytes: BigInt(content.length - 1) }), "resource_exhausted/image_too_large");
  assert.equal(
    await tried({ content: new Uint8Array(4 * 1024 ** 2 + 512), format: ImageFormat.RAW }),
    "resource_exhausted/image_too_large",
  );
  assert.equal(await tried({ content: new Uint8Array(700) }), "invalid_argument/image_malformed");
  assert.equal(await tried({ format: ImageFormat.UNSPECIFIED }), "invalid_argument/invalid_field");
  assert.equal(await tried({ name: "Bad Name" }), "invalid_argument/invalid_name");
  const headless = process.images.importImage((async function* () {
    yield { part: { case: "chunk" as const, value: new Uint8Array(1) } };
  })());
  assert.equal(await code(headless), "invalid_argument/invalid_field");
  assert.deepEqual(await contents(world), []);
  await importImage(process);
  assert.equal(await tried({}), "already_exists/image_exists");
  assert.equal((await contents(world)).length, 1);
});

Deno.test("content without an image is dropped when the service starts", async () => {
  await using world = await World.open();
  await Deno.mkdir(`${world.dir}/content`, { recursive: true });
  await Deno.mkdir(`${world.dir}/incoming`, { recursive: true });
  await Deno.writeTextFile(`${world.dir}/content/${"ab".repeat(32)}`, "orphan");
  await Deno.writeTextFile(`${world.dir}/incoming/part`, "half");
  await using process = await world.boot({ run: false });
  const image = await importImage(process);
  {
    await using _running = await world.boot();
  }
  assert.deepEqual(await contents(world), [image.sha256]);
});

Deno.test("a disk image needs a flavor with room for it", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  await register(process, "node01");
  await importImage(process, { name: "disk", content: new Uint8Array(1024 * 1024), format: ImageFormat.RAW });
  const tiny = process.vms.createVm({ ...vmRequest, image: "disk" });
  assert.equal(await code(tiny), "failed_precondition/flavor_too_small");
  const done = await over(process, await process.vms.createVm({ ...vmRequest, image: "disk", flavor: "small" }));
  assert.equal(done.error, undefined);
});
