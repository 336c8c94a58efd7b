import assert from "node:assert/strict";
import { systemClock } from "@ultracloud/base";
import { Desk } from "./test_desk.ts";

async function until(what: string, holds: () => boolean): Promise<void> {
  const end = performance.now() + 30_000;
  while (!holds()) {
    assert.ok(performance.now() < end, `Cannot see within 30 s that ${what}`);
    await systemClock.sleep(10);
  }
}

Deno.test("uc kv writes, reads, compares and deletes keys, text and binary", async () => {
  await using desk = await Desk.open();
  await desk.ok("kv", "put", "a/1", "one");
  await desk.ok("kv", "put", "a/2", "two", "--if-absent");
  assert.equal(await desk.ok("kv", "get", "a/1"), "one\n");
  await desk.fails(5, ["kv", "put", "a/1", "again", "--if-absent"], /^error\[key_changed\]: .*wanted no such key/);
  await desk.fails(3, ["kv", "get", "none"], /^error\[key_not_found\]/);
  await desk.fails(2, ["kv", "get", ""], /^error\[empty_key\]/);
  await desk.fails(2, ["kv", "put", "a/1"], /^error\[value_unclear\]/);
  const pair = JSON.parse(await desk.ok("kv", "get", "a/1", "-o", "json")) as { modRevision: string };
  await desk.ok("kv", "put", "a/1", "uno", "--if-revision", pair.modRevision);
  assert.equal(await desk.ok("kv", "get", "a/1", "--revision", pair.modRevision), "one\n");
  assert.equal(
    await desk.ok("kv", "get", "a/", "--prefix", "--columns", "key,value", "--no-headers"),
    "a/1  uno\na/2  two\n",
  );
  assert.equal(await desk.ok("kv", "get", "a/", "--prefix", "--count-only"), "2\n");
  assert.equal(await desk.ok("kv", "list", "a/", "-o", "name", "--filter", "value=two"), "a/2\n");
  await desk.fails(2, ["kv", "get", "a", "--prefix", "--from-key"], /^error\[range_unclear\]/);

  const file = `${desk.dir}/value`;
  await Deno.writeFile(file, new Uint8Array([0, 255, 10]));
  await desk.ok("kv", "put", "bin", "--file", file);
  await desk.fails(5, ["kv", "get", "bin"], /^error\[not_text\]: .*--encoding hex/);
  assert.equal(await desk.ok("kv", "get", "62696e", "--encoding", "hex"), "00ff0a\n");
  await desk.ok("kv", "get", "bin", "--to-file", `${file}.out`);
  assert.deepEqual(await Deno.readFile(`${file}.out`), new Uint8Array([0, 255, 10]));
  await desk.fails(2, ["kv", "get", "xyz", "--encoding", "hex"], /^error\[bad_encoding\]/);

  await desk.fails(2, ["kv", "delete", "a/", "--prefix"], /^error\[needs_confirmation\]: .*Delete 2 keys\?/);
  assert.match(await desk.ok("kv", "del", "a/", "--prefix", "--dry-run"), /^would call .*KvService\/DeleteRange/);
  await desk.ok("kv", "del", "a/", "--prefix", "-y");
  await desk.fails(3, ["kv", "delete", "a/", "--prefix", "-y"], /^error\[key_not_found\]/);
  await desk.fails(2, ["kv", "compact", "soon", "-y"], /^error\[bad_revision\]/);
  await desk.ok("kv", "compact", "latest", "-y");
  await desk.fails(2, ["kv", "get", "bin", "--revision", "1"], /^error\[compacted\]/);
});

Deno.test("the token of uc kv opens etcd's paths to other programs", async () => {
  await using desk = await Desk.open();
  await desk.ok("kv", "put", "k", "v");
  const [name, value] = (await desk.ok("kv", "token")).trim().split(/: /);
  assert.equal(name, "authorization");
  const request = { method: "POST", body: JSON.stringify({ key: btoa("k") }) };
  const path = `${desk.url}/v3/kv/range`;
  const found = await (await fetch(path, { ...request, headers: { authorization: value! } })).json();
  assert.equal(found.kvs[0].value, btoa("v"));
  const refused = await fetch(path, request);
  assert.deepEqual([refused.status, (await refused.json()).code], [401, 16]);
});

Deno.test("uc kv txn does one of two lists, and says which", async () => {
  await using desk = await Desk.open();
  const file = `${desk.dir}/txn`;
  await Deno.writeTextFile(file, 'created("k") = "0"\n\nput k "first value"\nput l 2\n\nget k\n');
  const first = await desk.uc(["kv", "txn", "--file", file]);
  assert.match(first.err, /hold; revision 2/);
  const second = JSON.parse(await desk.ok("kv", "txn", "--file", file, "-o", "json"));
  assert.deepEqual([second.succeeded, second.responses[0].value], [false, "first value"]);
  await Deno.writeTextFile(file, "\n\nput\n");
  await desk.fails(2, ["kv", "txn", "--file", file], /^error\[bad_transaction\]: Cannot read line 3/);
});

Deno.test("uc kv watch tells history and changes, and ends when it is told to", async () => {
  await using desk = await Desk.open();
  await desk.ok("kv", "put", "w/1", "one");
  const history = await desk.ok("kv", "watch", "w/", "--prefix", "--from-revision", "1", "--max-events", "1");
  assert.equal(history, '2 PUT w/1 "one"\n');
  const stop = new AbortController();
  let out = "";
  const watching = desk.uc(
    ["kv", "watch", "w/", "--prefix", "--from-revision", "3", "--prev", "-o", "json"],
    stop.signal,
    (r) => {
      out = r.out;
    },
  );
  await desk.ok("kv", "put", "w/1", "two");
  await desk.ok("kv", "delete", "w/1", "-y");
  await until("both changes are told", () => out.split("\n").length > 2);
  stop.abort();
  assert.equal((await watching).code, 130);
  const [put, gone] = out.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual([put.type, put.kv.value, put.prevKv.value, gone.type], ["put", "two", "one", "delete"]);
});

Deno.test("uc kv lease, lock and elect hold what they got as long as they run", async () => {
  await using desk = await Desk.open();
  const id = (await desk.ok("kv", "lease", "grant", "10m")).trim();
  await desk.ok("kv", "put", "leased", "x", "--lease", id);
  const ttl = JSON.parse(await desk.ok("kv", "lease", "ttl", id, "-o", "json"));
  assert.deepEqual([ttl.ttlMs, ttl.keys], ["600000", ["leased"]]);
  await desk.ok("kv", "lease", "keep-alive", id, "--once");
  assert.equal(await desk.ok("kv", "lease", "list", "-o", "name"), `${id}\n`);
  await desk.ok("kv", "lease", "revoke", id, "-y");
  await desk.fails(3, ["kv", "get", "leased"], /^error\[key_not_found\]/);
  await desk.fails(3, ["kv", "lease", "ttl", id], /^error\[lease_not_found\]/);
  await desk.fails(2, ["kv", "lease", "grant", "soon"], /^error\[bad_ttl\]/);
  await desk.fails(2, ["kv", "lease", "ttl", "x"], /^error\[bad_lease\]/);

  const stop = new AbortController();
  let err = "";
  const holding = desk.uc(["kv", "lock", "door"], stop.signal, (r) => err = r.err);
  await until("the lock is held", () => /fencing token \d+/.test(err));
  const { code } = await desk.uc(["kv", "lock", "door", "--max-wait", "0s", "--", "true"]);
  assert.notEqual(code, 0, "somebody else has it");
  stop.abort();
  assert.equal((await holding).code, 130);
  const shell = `test -n "$UC_FENCING_TOKEN" && printf '%s' "$UC_KEY" > ${desk.dir}/key`;
  await desk.ok("kv", "lock", "door", "--", "sh", "-c", shell);
  assert.match(await Deno.readTextFile(`${desk.dir}/key`), /^door\/[0-9a-f]+$/);
  await desk.fails(5, ["kv", "lock", "door", "--", "sh", "-c", "exit 3"], /error\[command_failed\]: .*ended with 3/);

  await desk.fails(3, ["kv", "elect", "chair", "--leader"], /^error\[no_leader\]/);
  const end = new AbortController();
  let said = "";
  const leading = desk.uc(["kv", "elect", "chair", "--value", "me"], end.signal, (r) => said = r.err);
  await until("the campaign is won", () => /Leading as/.test(said));
  assert.match(await desk.ok("kv", "elect", "chair", "--leader"), /me/);
  end.abort();
  assert.equal((await leading).code, 130);
});

Deno.test("uc kv says which keys a grant does not reach", async () => {
  await using desk = await Desk.open();
  await desk.ok("kv", "put", "app/a", "1");
  await desk.limitTo("key:app/*");
  for (const end = performance.now() + 30_000;;) {
    // The member looks at the file once a second.
    const { code, err } = await desk.uc(["kv", "get", "other/x"]);
    if (code === 4) {
      assert.match(err, /^error\[permission_denied\]: Cannot use chainfire\.kv\.get at key:other\/x: not allowed/);
      break;
    }
    assert.ok(performance.now() < end, `The grant was not limited in time: ${code} ${err}`);
    await systemClock.sleep(50);
  }
  assert.equal(await desk.ok("kv", "get", "app/a"), "1\n");
  await desk.fails(4, ["kv", "get", "app", "--prefix"], /Cannot use chainfire\.kv\.get at key:app\*: not allowed/);
  await desk.fails(4, ["kv", "put", "app", "1"], /Cannot use chainfire\.kv\.update at key:app: not allowed/);
  await desk.fails(4, ["kv", "watch", "", "--prefix"], /Cannot use chainfire\.watch\.get at key:\*: not allowed/);
  await desk.fails(4, ["kv", "lease", "list"], /Cannot use chainfire\.lease\.list at the root: not allowed/);
});
