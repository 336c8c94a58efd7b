import assert from "node:assert/strict";
import { create, toJson } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { PreRegisterRequestSchema } from "@ultracloud/proto/deployer/v1";
import type { Lane } from "../harness/lane.ts";
import { factsOf, prepareNix, serialOf, Site, workers } from "./deployer_site.ts";

const [first] = workers;
const target = `/nix/store/${"a".repeat(32)}-nixos-system`;

/** The deployer's part of durability: the request that announces a machine is its own backup. */
export const durabilityDeployer: Lane = {
  name: "durability-deployer",
  summary: "an announced machine survives kills and a power cut, and its kept request restores it after a loss",
  profile: "deployer",
  prepare: prepareNix,
  async run(run) {
    await using site = await Site.open(run);
    const token = `ucb_${crypto.randomUUID()}`;
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
    const request = create(PreRegisterRequestSchema, {
      node: first,
      serial: serialOf(first),
      tokenSha256: new Uint8Array(digest).toHex(),
      tokenExpireTime: timestampFromMs(Date.now() + 3_600_000),
    });
    const listed = async () =>
      (await site.nodes.listNodes({})).nodes.map(({ meta, serial, tokenValid }) => ({
        name: meta!.name,
        serial,
        tokenValid,
      }));
    const restarted = async () => {
      for (const node of run.cluster.nodesWith("deployer")) await run.cluster.start(node, "deployer");
      return await site.writer();
    };
    let before: Awaited<ReturnType<typeof listed>> = [];
    await run.check("a machine is announced, and the request is kept", async () => {
      await site.writer();
      await site.apply(target);
      const { created } = await site.nodes.preRegister(request);
      assert.equal(created, true);
      const kept = toJson(PreRegisterRequestSchema, request);
      assert.equal(JSON.stringify(kept).includes(token), false);
      await run.evidence("deployer-pre-register-request.json", kept);
      before = await listed();
      return `${before.length} nodes`;
    });
    await run.check("every deployer is killed: what it knew is there, and a replay changes nothing", async () => {
      for (const node of run.cluster.nodesWith("deployer")) await run.cluster.kill(node, "deployer");
      const writer = await restarted();
      assert.deepEqual(await listed(), before);
      assert.equal((await site.nodes.preRegister(request)).created, false);
      await run.evidence("deployer-post-restart-list.json", await listed());
      return `${writer} writes`;
    });
    await run.check("the stores lose power: the machine with its token is let in afterwards", async () => {
      await run.cluster.substrate.powerOff("node01");
      await run.cluster.startAll({ nodes: ["node01"], signal: run.signal });
      const { status, body } = await site.phoneHome(await site.writer(), token, factsOf(first));
      assert.deepEqual([status, body.node], [200, first]);
      return body.node;
    });
    await run.check("the node is lost: its request restores name and token", async () => {
      await site.nodes.removeNode({ node: first });
      const at = await site.writer();
      assert.equal((await site.phoneHome(at, token, factsOf(first))).body.code, "token_unknown");
      assert.equal((await site.nodes.preRegister(request)).created, true);
      assert.equal((await site.phoneHome(at, token, factsOf(first))).body.node, first);
      return first;
    });
    run.facts.deployerRestoreMode = "replay of the kept pre-register request";
    await site.scope(
      "kills, a power cut and a replayed request",
      "loss of the stores: their own backup is durability-proof",
    );
  },
};
