import assert from "node:assert/strict";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { workspaceRoot } from "@ultracloud/testing";
import {
  buildTinyImage,
  createNetwork,
  createProject,
  createVm,
  deleteVm,
  fetchGuest,
  importImage,
  projectName,
  singleNodeComponents,
  statusOf,
  waitForMarker,
  waitForNode,
} from "@ultracloud/cli";
import { findByCommandLine } from "@ultracloud/launch";
import { imageCacheDir, startTestCloud } from "../cloud.ts";

const guests = (runDir: string) => findByCommandLine(`${runDir}/`, "qemu-system");

/** The platform's promise: whole again within this after a kill -9 of one component. */
const wholeAgainMsMax = 10_000;
/** All of them compile and start at once. */
const allAgainMsMax = 90_000;

Deno.test("kill -9 of each component in turn leaves the guest running and loses no acknowledged record", async (t) => {
  const image = await buildTinyImage({ cacheDir: imageCacheDir(workspaceRoot) });
  await using cloud = await startTestCloud();
  const { stack, session } = cloud;
  await createProject(session);
  await createNetwork(session);
  await importImage(session, image, () => {});
  await waitForNode(session, 30_000);
  const vm = await createVm(session, 90_000);
  await waitForMarker(session, 90_000);
  const signal = new AbortController().signal;
  const first = await fetchGuest(vm, 30_000, signal);
  const qemu = guests(stack.runDir).map((p) => p.pid);
  assert.equal(qemu.length, 1, "one guest runs");

  const whole = async (what: string, msMax: number) => {
    const begin = performance.now();
    for (;;) {
      const status = await statusOf(session);
      if (status.every((s) => s.health === "ready")) return;
      const waited = performance.now() - begin;
      const late = JSON.stringify(status.filter((s) => s.health !== "ready"));
      assert.ok(waited < msMax, `not whole ${Math.round(waited)} ms after ${what}: ${late}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const nothingLost = async () => {
    const { vpcs } = await session.client(VpcService, "prismnet").listVpcs({ project: projectName });
    const names = new Set(vpcs.map((v) => v.meta?.name));
    assert.deepEqual(acknowledged.filter((n) => !names.has(n)), [], "acknowledged networks that are gone");
    assert.deepEqual(guests(stack.runDir).map((p) => p.pid), qemu, "the guest's process is the same");
    assert.equal((await fetchGuest(vm, 5_000, signal)).status, first.status);
  };
  const acknowledged: string[] = [];
  for (const name of singleNodeComponents) {
    await t.step(`kill -9 of ${name}`, async () => {
      const network = `before-${name}`;
      await session.client(VpcService, "prismnet").createVpc({ project: projectName, name: network });
      acknowledged.push(network);
      await stack.process(name)!.kill();
      stack.start(name);
      await whole(name, wholeAgainMsMax);
      await nothingLost();
    });
  }
  await t.step("kill -9 of every component at once", async () => {
    const network = "before-all";
    await session.client(VpcService, "prismnet").createVpc({ project: projectName, name: network });
    acknowledged.push(network);
    await Promise.all(singleNodeComponents.map((name) => stack.process(name)!.kill()));
    for (const name of singleNodeComponents) stack.start(name);
    await whole("all of them", allAgainMsMax);
    await nothingLost();
  });
  await deleteVm(session, 60_000);
  assert.deepEqual(guests(stack.runDir), [], "nothing of the guest is left");
});
