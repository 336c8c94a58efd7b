import { startComponent } from "@ultracloud/testing";
import assert from "node:assert/strict";
import { Desk } from "./test_desk.ts";

Deno.test("uc cluster tells of members, health and hashes, and refuses what cannot be", async () => {
  await using desk = await Desk.open();
  await desk.ok("kv", "put", "k", "v");
  const [member] = JSON.parse(await desk.ok("cluster", "member", "list", "-o", "json"));
  const [status] = JSON.parse(await desk.ok("cluster", "status", "-o", "json"));
  assert.deepEqual([status.id, status.name, status.leader, status.revision], [member.id, member.name, true, "2"]);
  const [hash] = JSON.parse(await desk.ok("cluster", "hash", "-o", "json"));
  assert.match(hash.hash, /^[0-9a-f]{8}$/);
  assert.equal(hash.hashRevision, "2");
  assert.equal(await desk.ok("cluster", "alarm", "list", "-o", "json"), "[]\n");
  await desk.fails(2, ["cluster", "alarm", "disarm"], /^error\[needs_confirmation\]/);
  await desk.ok("cluster", "alarm", "disarm", "-y");
  await desk.fails(3, ["cluster", "member", "remove", "nobody", "-y"], /^error\[member_not_found\]: .*member list/);
  await desk.fails(2, ["cluster", "member", "remove", member.name], /^error\[needs_confirmation\]/);
  await desk.fails(5, ["cluster", "member", "remove", member.name, "-y"], /^error\[[a-z_]+\]: Cannot/);
  await desk.fails(5, ["cluster", "member", "promote", member.name], /^error\[member_not_learner\]/);
  await desk.ok("cluster", "member", "transfer-leader", member.name);
  const explained = await desk.ok(
    ...["cluster", "member", "add", "two", "--peer-url", "http://127.0.0.1:1", "--client-url", "http://127.0.0.1:2"],
    "--learner",
    "--explain",
  );
  assert.match(explained, /^would call .*ClusterService\/MemberAdd/);
});

Deno.test("a backup is whole or not there, and a member restored from it has every key", async () => {
  await using desk = await Desk.open();
  const lease = (await desk.ok("kv", "lease", "grant", "1h")).trim();
  for (let i = 0; i < 20; i++) await desk.ok("kv", "put", `k/${i}`, `v${i}`, ...(i === 0 ? ["--lease", lease] : []));
  const file = `${desk.dir}/cloud.backup`;
  await desk.ok("cluster", "backup", file);
  assert.equal((await Deno.stat(file)).mode! & 0o777, 0o600);
  await desk.fails(5, ["cluster", "backup", file], /^error\[file_exists\]/);
  const names = [...Deno.readDirSync(desk.dir)].map(({ name }) => name).sort();
  assert.deepEqual(names, ["cloud.backup", "uc.json"], "nothing half-written is left");

  const bytes = await Deno.readFile(file);
  for (const at of [0, Math.floor(bytes.length / 2), bytes.length - 1]) {
    const broken = bytes.slice();
    broken[at]! ^= 1;
    await Deno.writeFile(`${desk.dir}/broken`, broken);
    const words = ["cluster", "restore", `${desk.dir}/broken`, "--data-dir", `${desk.dir}/none`];
    await desk.fails(1, words, /^error\[backup_damaged\]/);
    await assert.rejects(Deno.stat(`${desk.dir}/none`), Deno.errors.NotFound);
  }
  await Deno.writeFile(`${desk.dir}/broken`, bytes.slice(0, -1));
  const cut = ["cluster", "restore", `${desk.dir}/broken`, "--data-dir", `${desk.dir}/none`];
  await desk.fails(1, cut, /^error\[backup_damaged\]/);
  await desk.fails(5, ["cluster", "restore", file, "--data-dir", desk.dir], /^error\[file_exists\]/);
  await desk.fails(
    2,
    ["cluster", "restore", `${desk.dir}/no`, "--data-dir", `${desk.dir}/x`],
    /^error\[file_unusable\]/,
  );

  await using next = await startComponent("chainfire", { start: false });
  const stateDir = `${next.stack.dataDir}/state/chainfire`;
  await Deno.remove(stateDir, { recursive: true });
  await desk.ok("cluster", "restore", file, "--data-dir", stateDir);
  await next.stack.startAll({ timeoutMs: 60_000 });
  desk.point({ url: next.url, operatorKeyFile: next.stack.operatorKeyFile });
  assert.equal(await desk.ok("kv", "get", "k/", "--prefix", "--count-only"), "20\n");
  assert.equal(await desk.ok("kv", "get", "k/7"), "v7\n");
  assert.equal(await desk.ok("kv", "lease", "list", "-o", "name"), `${lease}\n`);
  const pair = JSON.parse(await desk.ok("kv", "get", "k/7", "-o", "json"));
  await desk.ok("kv", "put", "k/7", "new");
  const later = JSON.parse(await desk.ok("kv", "get", "k/7", "-o", "json"));
  assert.ok(Number(later.modRevision) > Number(pair.modRevision) + 1_000_000, "revisions go on far above the backup");
});
