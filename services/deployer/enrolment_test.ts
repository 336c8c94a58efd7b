import assert from "node:assert/strict";
import { SystemState } from "@ultracloud/proto/deployer/v1";
import { clusterOf, factsOf, gib, openWorld, system } from "./test_world.ts";

Deno.test("a machine that was announced gets its plan once it brings its token, and again when it calls again", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(2));
  const { token, node } = await world.nodes.preRegister({ node: "worker1", serial: "SN-1" });
  assert.equal(node?.tokenValid, true);
  const first = await world.phoneHome("SN-1", token);
  assert.equal(first.status, 200);
  assert.equal(first.body.node, "worker1");
  assert.equal(first.body.again, false);
  assert.equal(first.body.install_plan.target_system, system("a"));
  assert.deepEqual(first.body.cache.trusted_keys, clusterOf(1).deployer!.trustedKeys);
  const again = await world.phoneHome("SN-1", token);
  assert.deepEqual({ ...again.body, again: false }, first.body);
  assert.equal(again.body.again, true);
  assert.equal((await world.nodes.getNode({ node: "worker1" })).facts?.disks[0]?.serial, "D-SN-1");
});

Deno.test("a token is good for one machine and one node, until its node is installed, replaced or too old", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(3));
  const refused = async (code: string, serial: string, token?: string, more = {}) => {
    const { status, body } = await world.phoneHome(serial, token, more);
    assert.equal(body.code, code, JSON.stringify(body));
    return status;
  };
  assert.equal(await refused("token_missing", "SN-1"), 401);
  assert.equal(await refused("token_unknown", "SN-1", "ucb_forged"), 401);
  const { token } = await world.nodes.preRegister({ node: "worker1", serial: "SN-1" });
  assert.equal(await refused("identity_mismatch", "SN-2", token), 403);
  assert.equal(await refused("identity_mismatch", "SN-1", token, { node_id: "worker2" }), 403);
  assert.equal((await world.phoneHome("SN-1", token)).status, 200);
  assert.equal(await refused("token_used", "SN-2", token), 401);

  const rotated = await world.nodes.rotateToken({ node: "worker1" });
  assert.equal(await refused("token_unknown", "SN-1", token), 401);
  assert.equal((await world.phoneHome("SN-1", rotated.token)).status, 200);
  await world.report("worker1", SystemState.ACTIVE, "");
  assert.equal(await refused("token_spent", "SN-1", rotated.token), 401);

  const short = await world.nodes.preRegister({ node: "worker2", serial: "SN-2", tokenTtlMs: 1_000n });
  world.clock.aheadMs += 2_000;
  assert.equal(await refused("token_expired", "SN-2", short.token), 401);
});

Deno.test("an unknown machine waits in a bounded list, and installs nothing until somebody approves it", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(1));
  const tokens = await Promise.all([1, 2, 3, 4, 5].map(() => world.nodes.rotateToken({})));
  for (let i = 0; i < 4; i++) {
    const { status, body } = await world.phoneHome(`strange-${i}`, tokens[i]!.token);
    assert.deepEqual([status, body.status, body.install_plan], [202, "pending", undefined]);
  }
  const full = await world.phoneHome("strange-4", tokens[4]!.token);
  assert.deepEqual([full.status, full.body.code], [429, "pending_full"]);
  const { machines, limit } = await world.nodes.listPending({});
  assert.deepEqual(machines.map(({ id }) => id), ["strange-0", "strange-1", "strange-2", "strange-3"]);
  assert.deepEqual([limit, machines[0]!.address, machines[0]!.reason], [4, "192.0.2.1", "no node has its serial"]);

  await assert.rejects(world.nodes.approve({ machine: "strange-0", node: "worker1" }), { code: "identity_mismatch" });
  await assert.rejects(world.nodes.approve({ machine: "strange-9", node: "new" }), { code: "machine_not_found" });
  await assert.rejects(world.nodes.approve({ machine: "strange-0", node: "new", class: "none" }), {
    kind: "invalid_argument",
  });
  await world.nodes.approve({ machine: "strange-0", node: "new", class: "worker" });
  const letIn = await world.phoneHome("strange-0", tokens[0]!.token);
  assert.deepEqual([letIn.status, letIn.body.node], [200, "new"]);
  assert.equal(letIn.body.install_plan.nixos_configuration, "worker");
  await world.nodes.reject({ machine: "strange-1" });
  assert.equal((await world.nodes.listPending({})).machines.length, 2);
});

Deno.test("a plan is told only when it may be carried out; otherwise the machine is told why not", async () => {
  await using world = await openWorld();
  const state = clusterOf(5);
  Object.assign(state.classes!.worker!.install_plan!, { expected_disk_serial: "D-SN-1" });
  await world.apply(state);
  const tokens = new Map<number, string>();
  for (let i = 1; i <= 5; i++) tokens.set(i, (await world.nodes.preRegister({ node: `worker${i}` })).token);
  const refusal = async (i: number, disk: Record<string, unknown>) => {
    const { status, body } = await world.phoneHome(`SN-${i}`, tokens.get(i), {}, disk);
    assert.deepEqual([status, body.install_plan], [200, undefined]);
    return body.install_refused.code;
  };
  assert.equal(await refusal(2, {}), "disk_serial_mismatch");
  assert.equal(await refusal(3, { serial: "D-SN-1", bytes_count: gib }), "disk_too_small");
  assert.equal(await refusal(4, { serial: "D-SN-1", boot_medium: true }), "disk_is_boot_medium");
  assert.equal(await refusal(5, { serial: "D-SN-1", signatures: ["ntfs"] }), "disk_foreign_data");
  assert.equal((await world.phoneHome("SN-1", tokens.get(1))).body.install_plan.target_disk_by_id.length > 0, true);
  // From now on the disk with that serial is worker1's, wherever it is plugged in.
  assert.equal(await refusal(2, { serial: "D-SN-1" }), "disk_holds_node");
  const { planRefusal } = await world.nodes.getNode({ node: "worker2" });
  assert.match(planRefusal!.message, /worker1, which is enrolled/);
  await world.nodes.removeNode({ node: "worker1" });
  assert.equal(
    (await world.phoneHome("SN-2", tokens.get(2), {}, { serial: "D-SN-1" })).body.install_refused,
    undefined,
  );
});

Deno.test("lab mode lets machines in without a token, knows them by their serial, and shouts", async () => {
  await using world = await openWorld({ options: { allow_unauthenticated: true } });
  await world.apply(clusterOf(1));
  const known = await world.phoneHome("SN-1");
  assert.deepEqual([known.status, known.body.node], [200, "worker1"]);
  assert.match(known.body.warnings[0], /MACHINES ENROL WITHOUT A TOKEN/);
  assert.equal((await world.phoneHome("SN-9")).status, 202);
  const status = await world.deployer.getStatus({});
  assert.equal(status.allowUnauthenticated, true);
  assert.match(status.warnings[0]!, /only in a lab/);
  assert.equal((await world.phoneHome("SN-1", "ucb_forged")).body.code, "token_unknown");
});

Deno.test("a request to announce a machine is its own backup: replayed it restores name and token", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(1));
  const tokenSha256 = "8c1f1046219ddd216a023f792356ddf127fce372a72ec9b4cdac989ee5b0b455"; // of "token"
  const tokenExpireTime = { seconds: BigInt(Math.floor(Date.now() / 1000) + 3_600), nanos: 0 };
  const request = { node: "worker1", serial: "SN-1", tokenSha256, tokenExpireTime };
  const first = await world.nodes.preRegister(request);
  assert.deepEqual([first.created, first.token], [true, ""]);
  assert.equal((await world.nodes.preRegister(request)).created, false);
  const { createHash } = await import("node:crypto");
  const token = "ucb_given";
  const own = { ...request, tokenSha256: createHash("sha256").update(token).digest("hex") };
  assert.equal((await world.nodes.preRegister(own)).created, true);
  assert.equal((await world.phoneHome("SN-1", token)).status, 200);
  assert.equal((await world.nodes.preRegister(own)).created, false, "a replay after enrolment changes nothing");
  assert.equal((await world.phoneHome("SN-1", token)).status, 200);
  await assert.rejects(world.nodes.preRegister({ node: "worker1", serial: "SN-1" }), { code: "node_enrolled" });

  await using lost = await openWorld();
  await lost.apply(clusterOf(1));
  assert.equal((await lost.nodes.preRegister(own)).created, true);
  assert.equal((await lost.phoneHome("SN-1", token)).body.node, "worker1");
});

Deno.test("markers belong to the node whose machine used the token", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(2));
  const { token } = await world.nodes.preRegister({ node: "worker1" });
  const marker = (node: string, using?: string) =>
    world.call("/api/v1/marker", {
      body: { node, name: "install.disko.complete", detail: "x" },
      ...(using ? { token: using } : {}),
    });
  assert.equal((await marker("worker1", token)).status, 403);
  await world.phoneHome("SN-1", token);
  assert.equal((await marker("worker1", token)).status, 200);
  assert.equal((await marker("worker2", token)).status, 401);
  assert.equal((await marker("worker1")).status, 401);
  const { markers } = await world.nodes.getNode({ node: "worker1" });
  assert.deepEqual(markers.map(({ name }) => name), ["install.disko.complete"]);
});

Deno.test("the bootstrap listener gives out cache, key and bundle, and answers bad input with what is wrong", async () => {
  await using world = await openWorld();
  await world.apply(clusterOf(1));
  assert.equal((await world.call("/api/v1/cache")).body.binary_cache_url, "http://127.0.0.1:8090");
  const content = new Uint8Array(700 * 1024).fill(7);
  const bundle = await world.deployer.putBundle({ content });
  assert.equal((await world.deployer.putBundle({ content })).signature, bundle.signature);
  const { token } = await world.nodes.preRegister({ node: "worker1" });
  const path = `/api/v1/bundle/${bundle.sha256}`;
  assert.equal((await world.call(path)).status, 401);
  const told = (await world.phoneHome("SN-1", token)).body.bundle;
  assert.deepEqual([told.sha256, told.signature], [bundle.sha256, bundle.signature]);
  const fetched = await world.fetchBytes(path, token, "worker1");
  assert.deepEqual(fetched, content);
  assert.equal((await world.call("/api/v1/ca.crt")).body.code, "ca_missing");

  const cases: [string, unknown, number, string][] = [
    ["/api/v1/phone-home", "{", 400, "body_malformed"],
    ["/api/v1/phone-home", {}, 400, "body_invalid"],
    ["/api/v1/phone-home", { facts: { serial: "x".repeat(300) } }, 400, "body_invalid"],
    ["/api/v1/phone-home", { facts: factsOf("SN-1"), extra: 1 }, 400, "body_invalid"],
    ["/api/v1/phone-home", { facts: { serial: "None" } }, 400, "invalid_field"],
    ["/api/v1/phone-home", { facts: factsOf("SN-1"), node_id: "../x" }, 400, "invalid_name"],
    ["/api/v1/phone-home", " ".repeat(300 * 1024), 429, "body_too_large"],
    ["/api/v1/marker", { node: "worker1", name: "Not a marker" }, 400, "body_invalid"],
    ["/api/v1/none", {}, 404, "unknown_path"],
  ];
  for (const [at, body, status, code] of cases) {
    const answer = await world.call(at, { body, token });
    assert.deepEqual([answer.status, answer.body.code], [status, code], `${at} ${JSON.stringify(body).slice(0, 80)}`);
  }
});
