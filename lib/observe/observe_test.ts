import assert from "node:assert/strict";
import process from "node:process";
import { Redacted } from "@ultracloud/base";
import { Health, jsonLine, metricSeriesMax, prettyLine, Registry } from "./mod.ts";

const record = (properties: Record<string, unknown>) => ({
  category: ["uc", "iam"],
  level: "warning" as const,
  message: ["hello"],
  rawMessage: "Cannot {reach} iam",
  timestamp: 0,
  properties,
});

Deno.test("jsonLine() shows bigint, errors with their cause and never a secret", () => {
  const line = jsonLine(record({
    revision: 3n,
    secretValue: new Redacted("hunter2"),
    nested: { authorization: "Bearer abc", key: new Redacted("hunter2") },
    error: new Error("outer", { cause: new Error("inner") }),
  }));
  assert.ok(!line.includes("hunter2") && !line.includes("abc"));
  const json = JSON.parse(line);
  assert.equal(json.level, "warn");
  assert.equal(json.category, "uc.iam");
  assert.equal(json.msg, "Cannot {reach} iam");
  assert.equal(json.revision, "3");
  assert.equal(json.error.cause.message, "inner");
});

Deno.test("jsonLine() keeps a record whose fields cannot be printed", () => {
  const loop: Record<string, unknown> = {};
  loop.self = loop;
  assert.match(JSON.parse(jsonLine(record({ loop }))).fields, /unprintable/);
});

Deno.test("prettyLine() hides secrets too", () => {
  assert.ok(!prettyLine(record({ token: "hunter2", x: new Redacted("hunter2") })).includes("hunter2"));
});

Deno.test("Registry.expose() writes Prometheus text with cumulative buckets", () => {
  const registry = new Registry();
  registry.counter("calls_total", "Calls", ["code"]).inc({ code: 'a"b' }, 2);
  registry.gauge("depth", "Depth").set(4);
  const latency = registry.histogram("latency_seconds", "Latency", [], [0.1, 1]);
  for (const value of [0.05, 0.5, 5]) latency.observe(value);
  assert.equal(
    registry.expose(),
    [
      "# HELP calls_total Calls",
      "# TYPE calls_total counter",
      'calls_total{code="a\\"b"} 2',
      "# HELP depth Depth",
      "# TYPE depth gauge",
      "depth 4",
      "# HELP latency_seconds Latency",
      "# TYPE latency_seconds histogram",
      'latency_seconds_bucket{le="0.1"} 1',
      'latency_seconds_bucket{le="1"} 2',
      'latency_seconds_bucket{le="+Inf"} 3',
      "latency_seconds_sum 5.55",
      "latency_seconds_count 3",
      "",
    ].join("\n"),
  );
});

Deno.test("Registry.buildInfo() tells what runs and what the process uses, once", () => {
  const registry = new Registry();
  for (let i = 0; i < 2; i++) registry.buildInfo("iam", "1.2.3");
  registry.expose();
  const lines = registry.expose().split("\n");
  assert.ok(lines.some((line) => line.startsWith('uc_build_info{component="iam",version="1.2.3",deno="')));
  const value = (name: string) => Number(lines.filter((line) => line.startsWith(`${name} `)).join().split(" ")[1]);
  assert.ok(value("process_resident_memory_bytes") > 1_000_000);
  const cpuSeconds = process.cpuUsage().user / 1_000_000;
  assert.ok(value("process_cpu_seconds_total") > 0 && value("process_cpu_seconds_total") < 2 * cpuSeconds + 60);
  assert.ok(Math.abs(value("process_start_time_seconds") * 1_000 - performance.timeOrigin) < 1);
});

Deno.test("Registry answers the same metric for the same name and refuses another type", () => {
  const registry = new Registry();
  assert.equal(registry.counter("a_total", "A"), registry.counter("a_total", "A"));
  assert.throws(() => registry.gauge("a_total", "A"), /another type/);
});

Deno.test("a label with unbounded values cannot grow a metric without bound", () => {
  const counter = new Registry().counter("a_total", "A", ["id"]);
  for (let i = 0; i < metricSeriesMax + 10; i++) counter.inc({ id: String(i) });
  assert.equal(counter.value({ id: "other" }), 10);
});

Deno.test("Health.snapshot() reports the worst part", () => {
  const health = new Health();
  assert.equal(health.snapshot().state, "starting");
  health.set("rpc", "ready");
  assert.equal(health.serving, true);
  let changes = 0;
  const stop = health.onChange(() => changes++);
  health.set("flaredb", "degraded", "2 of 3 replicas answer");
  health.set("flaredb", "degraded", "2 of 3 replicas answer");
  assert.deepEqual(health.snapshot(), {
    state: "degraded",
    parts: { rpc: { state: "ready" }, flaredb: { state: "degraded", reason: "2 of 3 replicas answer" } },
  });
  health.set("rpc", "stopping");
  assert.equal(health.serving, false);
  assert.equal(changes, 2);
  stop();
});
