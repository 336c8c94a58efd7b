import assert from "node:assert/strict";
import { type Run, writeHandover } from "@ultracloud/bootstrap";
import { confirmBoot } from "./target.ts";
import { configSchema } from "./config.ts";

const system = `/nix/store/${"a".repeat(32)}-system`;
const other = `/nix/store/${"b".repeat(32)}-system`;

async function world() {
  const dir = await Deno.makeTempDir({ prefix: "uc-target-" });
  await Deno.mkdir(`${dir}/entries`);
  await writeHandover(`${dir}/handover`, {
    version: 1,
    node: "worker1",
    hostname: "worker1",
    cluster_id: "test",
    deployer_url: "https://127.0.0.1:1",
    system,
  });
  const config = configSchema.parse({ entriesDir: `${dir}/entries`, handoverDir: `${dir}/handover` });
  const printed: string[] = [];
  const booted = { cmdline: `init=${system}/init` };
  const run: Run = () => Promise.resolve({ code: 0, stdout: booted.cmdline, stderr: "" });
  return {
    dir,
    printed,
    booted,
    confirm: () => confirmBoot(config, { run, print: (line) => printed.push(line) }, new AbortController().signal),
    entry: (name: string, of: string) => Deno.writeTextFile(`${dir}/entries/${name}`, `options init=${of}/init\n`),
    entries: () => [...Deno.readDirSync(`${dir}/entries`)].map(({ name }) => name).sort(),
    [Symbol.asyncDispose]: () => Deno.remove(dir, { recursive: true }),
  };
}

Deno.test("a boot that went well keeps its entry and leaves those of others counting", async () => {
  await using w = await world();
  await w.entry("uc-a+1-1.conf", system);
  await w.entry("uc-b+0-2.conf", other);
  assert.deepEqual((await w.confirm()).kept, ["uc-a+1-1.conf"]);
  assert.deepEqual(w.entries(), ["uc-a.conf", "uc-b+0-2.conf"]);
  assert.deepEqual(w.printed, [`ULTRACLOUD_MARKER post-install.boot.worker1 ${system}`]);
  assert.deepEqual((await w.confirm()).kept, []);
});

Deno.test("a boot that names no system fails with its marker and keeps no entry", async () => {
  await using w = await world();
  await w.entry("uc-a+1-1.conf", system);
  w.booted.cmdline = "init=/bin/sh";
  await assert.rejects(w.confirm(), { code: "system_unknown" });
  assert.deepEqual(w.entries(), ["uc-a+1-1.conf"]);
  assert.match(w.printed[0]!, /^ULTRACLOUD_MARKER post-install\.boot\.failed\.worker1 system_unknown: /);
});
