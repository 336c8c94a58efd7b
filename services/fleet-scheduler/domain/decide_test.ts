import assert from "node:assert/strict";
import { Fleet, specOf } from "../sim/test_fleet.ts";
import { decide } from "./decide.ts";

/** A fleet of so many equal nodes and one service. */
function fleet(nodes: number, spec: Record<string, unknown>) {
  const f = new Fleet({ seed: 7, nodes, services: 0, replicas: 0 });
  f.apply(
    "web",
    specOf({ update: { minHealthyMs: 1000, deadlineMs: 30_000 }, lostReplaceDelayMs: 5000, ...spec }),
    "v1",
  );
  return f;
}
const where = (f: Fleet) => f.services.get("web")!.instances.map((i) => i.node).sort();
const update = (f: Fleet) => f.services.get("web")!.kept.update;

Deno.test("instances spread over nodes, and over zones where that is asked", () => {
  const even = fleet(6, { replicas: 6 });
  even.settle(60_000);
  assert.equal(new Set(where(even)).size, 6);
  // Ten nodes in five zones.
  const zones = fleet(10, { replicas: 5, spread: ["zone"] });
  zones.settle(60_000);
  assert.equal(new Set(where(zones).map((n) => zones.nodes.get(n)!.view.labels.zone)).size, 5);
});

Deno.test("a service that nothing can take says why, node by node", () => {
  const f = fleet(4, { replicas: 2, classes: ["big"], constraints: [{ label: "disk", values: ["nvme"] }] });
  const { decisions, unplaced } = decide(f.view());
  assert.deepEqual(unplaced, [{
    service: "web",
    count: 2,
    wanted: 2,
    holdsUpdate: false,
    reasons: { 'its label disk is "ssd", wanted in nvme': 1, 'its class is "small", wanted big': 3 },
  }]);
  assert.deepEqual(decisions.map(({ kind }) => kind), ["change"]);
  const shortage = () => f.services.get("web")!.kept.shortage;
  f.settle(10_000);
  const noted = shortage()!;
  assert.deepEqual([noted.count, noted.wanted, noted.reason], [2, 2, 'its class is "small", wanted big']);
  // It is kept as it is while it lasts, and gone when there is room.
  f.settle(10_000);
  assert.deepEqual(shortage(), noted);
  f.setNode("node0000", { labels: { disk: "nvme" } });
  f.settle(60_000);
  assert.equal(shortage(), null);
  assert.deepEqual(where(f), ["node0000", "node0000"]);
});

Deno.test("a change that lacks places waits and leaves what serves; with fewer replicas it goes on", () => {
  const f = fleet(2, { replicas: 3, ports: { main: { port: 80 } } });
  f.settle(60_000);
  f.apply("web", f.services.get("web")!.kept.spec, "v2");
  f.settle(60_000, () => assert.equal(f.serving("web"), 2));
  const { kept, instances } = f.services.get("web")!;
  assert.deepEqual(instances.map((i) => i.hash), ["v1", "v1"]);
  const { count, wanted, reason, holdsUpdate } = kept.shortage!;
  assert.deepEqual({ count, wanted, reason, holdsUpdate }, {
    count: 1,
    wanted: 3,
    reason: "port 80/tcp is taken by web",
    holdsUpdate: true,
  });
  f.apply("web", { ...kept.spec, replicas: 2 }, "v2");
  f.settle(120_000, () => assert.ok(f.serving("web") >= 1));
  assert.deepEqual(f.services.get("web")!.instances.map((i) => i.hash), ["v2", "v2"]);
  assert.equal(f.services.get("web")!.kept.shortage, null);
});

Deno.test("affinity places beside what it requires, prefers it where there is a choice, and avoids where it can", () => {
  const f = fleet(6, { replicas: 2, classes: ["big"] });
  f.settle(60_000);
  const homes = where(f);
  assert.deepEqual(homes, ["node0000", "node0004"]);
  const with_ = (name: string, rule: string, replicas: number) => {
    f.apply(name, specOf({ replicas, affinity: [{ service: "web", rule }], update: { minHealthyMs: 1000 } }), "v1");
    f.settle(60_000);
    return new Set(f.services.get(name)!.instances.map((i) => i.node));
  };
  assert.deepEqual([...with_("near", "require", 4)].sort(), homes);
  assert.deepEqual([...with_("liked", "prefer", 3)].sort(), homes);
  assert.ok([...with_("shy", "avoid", 4)].every((node) => !homes.includes(node)));
  assert.ok([...with_("never", "forbid", 8)].every((node) => !homes.includes(node)));
  // Required of what runs nowhere: no place, and it says so.
  f.apply("lonely", specOf({ affinity: [{ service: "absent", rule: "require" }] }), "v1");
  f.settle(10_000);
  assert.equal(f.services.get("lonely")!.kept.shortage?.reason, "it does not run absent");
});

Deno.test("a port is given to one instance of a node, and a service that forbids itself runs once a node", () => {
  const ports = fleet(3, { replicas: 5, ports: { main: { port: 80 } } });
  ports.settle(60_000);
  assert.deepEqual(where(ports), ["node0000", "node0001", "node0002"]);
  const apart = fleet(3, { replicas: 5, affinity: [{ service: "web", rule: "forbid" }] });
  apart.settle(60_000);
  assert.deepEqual(where(apart), ["node0000", "node0001", "node0002"]);
});

Deno.test("a lost node's instances are replaced after its lease and the delay, and come back with the node", () => {
  const f = fleet(2, { replicas: 2, affinity: [{ service: "web", rule: "forbid" }] });
  f.settle(60_000);
  f.nodes.get("node0001")!.connected = false;
  f.settle(60_000);
  assert.deepEqual(where(f), ["node0000"]);
  f.nodes.get("node0001")!.connected = true;
  f.settle(60_000);
  assert.deepEqual(where(f), ["node0000", "node0001"]);
});

Deno.test("a rolling update replaces as many at a time as the policy says and keeps the rest serving", () => {
  const f = fleet(4, { replicas: 4, ports: { main: { port: 80 } } });
  f.settle(60_000);
  f.apply("web", f.services.get("web")!.kept.spec, "v2");
  f.settle(120_000, () => assert.ok(f.serving("web") >= 3));
  assert.deepEqual(f.services.get("web")!.instances.map((i) => i.hash), ["v2", "v2", "v2", "v2"]);
  assert.equal(update(f).phase, "none");
});

Deno.test("a bad template goes back by itself, and with one at a time no more than one was ever ill", () => {
  const f = fleet(4, { replicas: 4 });
  f.settle(60_000);
  f.apply("web", f.services.get("web")!.kept.spec, "bad2");
  f.settle(240_000, () => assert.equal(f.serving("web"), 4));
  assert.equal(update(f).phase, "rolled_back");
  assert.match(update(f).reason, /web-\d+ on node\d+ was started 6 times/);
  assert.equal(f.services.get("web")!.kept.rejectedHash, "bad2");
  assert.deepEqual(f.services.get("web")!.instances.map((i) => i.hash), ["v1", "v1", "v1", "v1"]);
});

Deno.test("canaries wait for a word where they shall, and keep the old ones beside them", () => {
  const spec = { replicas: 4, update: { strategy: "canary", autoPromote: false, minHealthyMs: 1000 } };
  const f = fleet(4, spec);
  f.settle(60_000);
  f.apply("web", f.services.get("web")!.kept.spec, "v2");
  f.settle(120_000);
  assert.deepEqual(f.services.get("web")!.instances.map((i) => i.hash).sort(), ["v1", "v1", "v1", "v2"]);
  assert.equal(update(f).reason, "the canaries are healthy: promote or roll back");
});

Deno.test("healthy canaries are followed by the rest, and an ill one takes the change back before anything else changes", () => {
  const spec = { replicas: 6, update: { strategy: "canary", canaries: 2, minHealthyMs: 1000, deadlineMs: 20_000 } };
  const f = fleet(6, spec);
  f.settle(60_000);
  const hashes = () => f.services.get("web")!.instances.map((i) => i.hash).sort();
  f.apply("web", f.services.get("web")!.kept.spec, "bad2");
  f.settle(240_000, () => {
    assert.ok(hashes().filter((hash) => hash === "bad2").length <= 2, "no more than the canaries");
    assert.ok(f.serving("web") >= 5);
  });
  assert.deepEqual([update(f).phase, ...new Set(hashes())], ["rolled_back", "v1"]);
  f.apply("web", f.services.get("web")!.kept.spec, "v3");
  f.settle(240_000, () => assert.ok(f.serving("web") >= 5));
  assert.deepEqual([update(f).phase, ...hashes()], ["none", "v3", "v3", "v3", "v3", "v3", "v3"]);
});

Deno.test("a service that must not run twice stops before it starts, also when its node is drained", () => {
  const f = fleet(3, { replicas: 1, update: { order: "stop-first", minHealthyMs: 1000 } });
  f.settle(60_000);
  const [home] = where(f);
  f.drain(home!);
  // More than one running is a violation that tick() finds.
  f.settle(60_000);
  assert.equal(f.nodes.get(home!)!.view.drain?.phase, "drained");
  assert.notDeepEqual(where(f), [home]);
});

Deno.test("a drain without another place blocks and says so; at its deadline it gives up or forces", () => {
  const f = fleet(2, { replicas: 2, ports: { main: { port: 80 } } });
  f.settle(60_000);
  f.drain("node0000", { deadlineMs: f.nowMs + 30_000 });
  f.settle(20_000);
  const drain = () => f.nodes.get("node0000")!.view.drain!;
  assert.equal(drain().phase, "draining");
  assert.match(drain().reason, /still there: web \(no place: (port 80\/tcp is taken by web|it is draining)\)/);
  assert.equal(f.serving("web"), 2);
  f.nowMs += 30_000;
  for (const node of f.nodes.values()) node.lastBeatMs = f.nowMs;
  f.settle(20_000);
  assert.equal(drain().phase, "failed");
  assert.match(drain().reason, /^the deadline passed/);
  f.drain("node0000", { deadlineMs: f.nowMs, atDeadline: "force" });
  f.settle(20_000);
  assert.equal(drain().phase, "drained");
  assert.deepEqual(where(f), ["node0001"]);
});

Deno.test("a per-node service is on every node that matches and leaves a drained one last", () => {
  const f = fleet(4, { mode: "per-node", classes: ["small"] });
  f.apply("app", specOf({ replicas: 3, classes: ["small"], update: { minHealthyMs: 1000 } }), "v1");
  f.settle(60_000);
  assert.deepEqual(where(f), ["node0001", "node0002", "node0003"]);
  f.drain("node0001");
  const on = (service: string) => f.services.get(service)!.instances.some((i) => i.node === "node0001");
  f.settle(60_000, () => assert.ok(!on("app") || on("web")));
  assert.deepEqual(where(f), ["node0002", "node0003"]);
  f.apply("web", f.services.get("web")!.kept.spec, "v2");
  f.settle(60_000, () => assert.ok(f.serving("web") >= 1));
  assert.deepEqual(f.services.get("web")!.instances.map((i) => i.hash), ["v2", "v2"]);
});

Deno.test("a deleted service stops everywhere before it is forgotten", () => {
  const f = fleet(2, { replicas: 2 });
  f.settle(60_000);
  const service = f.services.get("web")!;
  service.kept = { ...service.kept, deleting: true };
  f.settle(60_000);
  assert.equal(f.services.has("web"), false);
});
