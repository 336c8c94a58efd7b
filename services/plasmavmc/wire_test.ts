import assert from "node:assert/strict";
import { concatBytes, Fault } from "@ultracloud/base";
import { OperationService, OperationState } from "@ultracloud/proto/common/v1";
import { ImageFormat, ImageService, NodeService, VmService, VmState } from "@ultracloud/proto/plasmavmc/v1";
import { serveLocally } from "@ultracloud/testing";
import { bundle } from "./test_bundles.ts";
import { code, importImage, over, type Process, project, register, vmRequest, World } from "./test_world.ts";

Deno.test("over the wire an image goes in and out, and a VM is made, followed and deleted", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  await using server = await serveLocally("plasmavmc", process.services);
  const remote = {
    ...process,
    vms: server.client(VmService),
    images: server.client(ImageService),
    nodes: server.client(NodeService),
    operations: server.client(OperationService),
  } as Process;
  await register(remote, "node01");
  const content = bundle();
  const image = await importImage(remote, { content });
  assert.deepEqual(server.asked.at(-1), { permission: "plasmavmc.image.create", scope: project });
  const parts: Uint8Array[] = [];
  for await (const part of remote.images.readImage({ sha256: image.sha256, offset: 3n })) parts.push(part.chunk);
  assert.deepEqual(concatBytes(parts), new Uint8Array(content.subarray(3)));

  const done = await over(remote, await remote.vms.createVm(vmRequest));
  assert.equal(done.state, OperationState.DONE, done.error?.message);
  assert.match(done.requestId, /./);
  assert.equal((await remote.vms.getVm({ project, vm: "web" })).state, VmState.RUNNING);
  assert.equal(server.asked.at(-1)!.scope, `${project}/plasmavmc/vm/web`);
  let seen = 0;
  for await (const part of remote.vms.followConsole({ project, vm: "web" })) {
    seen += part.data.length;
    break;
  }
  assert.equal(seen, 21);
  await over(remote, await remote.vms.deleteVm({ project, vm: "web" }));
  assert.ok(server.audit.some((r) => r.method.endsWith("/CreateVm") && r.outcome === "ok"));
});

Deno.test("a bad import is told over the wire and the stream does not hang", async () => {
  await using world = await World.open();
  await using process = await world.boot();
  await using server = await serveLocally("plasmavmc", process.services);
  const remote = { ...process, images: server.client(ImageService) } as Process;
  assert.equal(await code(importImage(remote, { sha256: "0".repeat(64) })), "data_loss/image_digest_mismatch");
  const large = importImage(remote, { content: new Uint8Array(5 * 1024 ** 2), format: ImageFormat.RAW });
  assert.equal(await code(large), "resource_exhausted/image_too_large");
});

Deno.test("every method refuses an empty request and a caller who may not, and nothing changes", async () => {
  await using world = await World.open();
  await using process = await world.boot({ run: false });
  await using server = await serveLocally("plasmavmc", process.services);
  const before = (await world.kv.write([], [])) as { version: number };
  for (const bound of process.services) {
    for (const method of bound.service.methods) {
      const client = server.client(bound.service) as unknown as Record<string, (input: unknown) => unknown>;
      const call = async () => {
        const input = method.methodKind === "client_streaming" ? (async function* () {})() : {};
        const answer = client[method.localName]!(input);
        if (method.methodKind !== "server_streaming") return await answer;
        for await (const _ of answer as AsyncIterable<unknown>) break;
        return undefined;
      };
      const outcome = async () => {
        try {
          await call();
          return "ok";
        } catch (error) {
          return (error as Fault).kind;
        }
      };
      const name = `${bound.service.name}.${method.name}`;
      server.who = { ...server.who, allow: true };
      // These ask for nothing that could be missing.
      const complete = ["ListNodes", "SuggestMoves", "WatchEvents", "ListOperations"].includes(method.name);
      if (!complete) assert.match(await outcome(), /^(invalid_argument|not_found)$/, name);
      server.who = { ...server.who, allow: false };
      assert.match(await outcome(), /^(invalid_argument|permission_denied)$/, name);
    }
  }
  const after = (await world.kv.write([], [])) as { version: number };
  assert.equal(after.version, before.version + 1);
});
