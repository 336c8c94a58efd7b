import assert from "node:assert/strict";
import { create, toJson } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type PreRegisterRequest, PreRegisterRequestSchema } from "@ultracloud/proto/deployer/v1";
import type { Lane, LaneRun } from "../harness/lane.ts";
import { DeployerDesk, factsOf, serialOf, workers } from "./deployer_desk.ts";

const [first] = workers;
const target = `/nix/store/${"a".repeat(32)}-nixos-system`;
/** Nobody fetches anything: machines are announced and let in, not installed. */
const cache = { url: "http://127.0.0.1:9", key: `lane-1:${"A".repeat(43)}=` };

/** A machine that was announced, with the request that is its own backup. */
export interface Announced {
  readonly desk: DeployerDesk;
  readonly token: string;
  readonly request: PreRegisterRequest;
  readonly listed: () => Promise<unknown[]>;
}

/** Announces a machine and keeps the request; the token itself is nowhere. */
export async function announce(run: LaneRun): Promise<Announced> {
  const desk = new DeployerDesk(run, cache);
  const token = `ucb_${crypto.randomUUID()}`;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(token));
  const request = create(PreRegisterRequestSchema, {
    node: first,
    serial: serialOf(first),
    tokenSha256: new Uint8Array(digest).toHex(),
    tokenExpireTime: timestampFromMs(Date.now() + 3_600_000),
  });
  const listed = async () =>
    (await desk.nodes.listNodes({})).nodes.map(({ meta, serial, tokenValid }) => ({
      name: meta!.name,
      serial,
      tokenValid,
    }));
  await run.check("a machine is announced, and the request is kept", async () => {
    await desk.writer();
    await desk.apply(target);
    const { created } = await desk.nodes.preRegister(request);
    assert.equal(created, true);
    const kept = toJson(PreRegisterRequestSchema, request);
    assert.equal(JSON.stringify(kept).includes(token), false);
    await run.evidence("deployer-pre-register-request.json", kept);
    const nodes = await listed();
    await run.evidence("deployer-pre-restart-list.json", nodes);
    return `${nodes.length} nodes`;
  });
  return { desk, token, request, listed };
}

/** After the loss of the stores: the state is applied and the kept request replayed, as the runbook says. */
export async function replayAfterLoss(run: LaneRun, { desk, token, request, listed }: Announced): Promise<void> {
  await run.check(
    "the stores were lost: the deployer knows nobody, and the kept request restores its machine",
    async () => {
      // iam began anew with the stores.
      run.cluster.clients[Symbol.dispose]();
      const at = await desk.writer();
      assert.deepEqual(await listed(), []);
      assert.equal((await desk.phoneHome(at, token, factsOf(first))).status, 401);
      await desk.apply(target);
      assert.equal((await desk.nodes.preRegister(request)).created, true);
      assert.equal((await desk.nodes.preRegister(request)).created, false, "replayed again it changes nothing");
      await run.evidence("deployer-post-restart-list.json", await listed());
      const { status, body } = await desk.phoneHome(await desk.writer(), token, factsOf(first));
      assert.deepEqual([status, body.node], [200, first]);
      return `${first} is let in with its token; ${at} writes`;
    },
  );
  run.facts.deployerRestoreMode = "replay of the kept pre-register request over empty stores";
}

/** The deployer alone: the request that announces a machine is its own backup. */
export const durabilityDeployer: Lane = {
  name: "durability-deployer",
  summary: "an announced machine survives kills and a power cut, and its kept request restores it after a loss",
  profile: "deployer",
  async run(run) {
    const announced = await announce(run);
    const { desk, token, request, listed } = announced;
    const before = await listed();
    await run.check("every deployer is killed: what it knew is there, and a replay changes nothing", async () => {
      const nodes = run.cluster.nodesWith("deployer");
      for (const node of nodes) await run.cluster.kill(node, "deployer");
      for (const node of nodes) await run.cluster.start(node, "deployer");
      const writer = await desk.writer();
      assert.deepEqual(await listed(), before);
      assert.equal((await desk.nodes.preRegister(request)).created, false);
      await run.evidence("deployer-post-restart-list.json", await listed());
      return `${writer} writes`;
    });
    await run.check("the stores lose power: the machine with its token is let in afterwards", async () => {
      await run.cluster.substrate.powerOff("node01");
      await run.cluster.startAll({ nodes: ["node01"], signal: run.signal });
      const { status, body } = await desk.phoneHome(await desk.writer(), token, factsOf(first));
      assert.deepEqual([status, body.node], [200, first]);
      return body.node;
    });
    await run.check("the node is lost: its request restores name and token", async () => {
      await desk.nodes.removeNode({ node: first });
      const at = await desk.writer();
      assert.equal((await desk.phoneHome(at, token, factsOf(first))).body.code, "token_unknown");
      assert.equal((await desk.nodes.preRegister(request)).created, true);
      assert.equal((await desk.phoneHome(at, token, factsOf(first))).body.node, first);
      return first;
    });
    run.facts.deployerRestoreMode = "replay of the kept pre-register request";
    await desk.scope(
      "kills, a power cut and a replayed request",
      "loss of the stores: durability-proof destroys them and replays the request",
    );
  },
};
