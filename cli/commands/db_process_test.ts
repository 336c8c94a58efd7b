import assert from "node:assert/strict";
import { startTestStack, workspaceRoot } from "@ultracloud/testing";

interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

Deno.test("uc db and uc sql: statements, transactions, migrations, backup and the way back", async () => {
  await using test = await startTestStack({ components: ["flaredb"] });
  const home = await Deno.makeTempDir({ prefix: "uc-home-" });
  try {
    await Deno.mkdir(`${home}/ultracloud`);
    const uc = async (words: string[], input?: string): Promise<Result> => {
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", "-q", `${workspaceRoot}/cli/main.ts`, ...words],
        env: { UC_CONFIG: `${home}/ultracloud/contexts.json`, NO_COLOR: "1" },
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const writer = child.stdin.getWriter();
      if (input !== undefined) await writer.write(new TextEncoder().encode(input));
      await writer.close();
      const { code, stdout, stderr } = await child.output();
      return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
    };
    const ok = async (words: string[], input?: string) => {
      const result = await uc(words, input);
      assert.equal(result.code, 0, `${words.join(" ")}: ${result.err}`);
      return result;
    };
    const context = {
      clusterId: "test",
      operatorKeyFile: test.stack.operatorKeyFile,
      endpoints: { flaredb: test.stack.endpoint("flaredb") },
    };
    await writeContext(home, context);
    await ok(["db", "create", "t_shop"]);
    await ok(["db", "set", "t_shop", "--archive", "on", "--capture", "on"]);
    const folder = `${home}/migrations`;
    await Deno.mkdir(folder);
    await Deno.writeTextFile(`${folder}/0001_items.sql`, "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT);\n");
    assert.match((await ok(["db", "migrate", "t_shop", folder, "--dry-run"])).out, /would apply 1 items/);
    assert.match((await ok(["db", "migrate", "t_shop", folder])).out, /applied 1 items/);
    await ok(["sql", "t_shop", "INSERT INTO item(name) VALUES('pen'), ('ink')"]);
    const piped = await ok(
      ["sql", "t_shop"],
      "BEGIN;\nUPDATE item SET name = 'quill'\n WHERE id = 1;\nCOMMIT;\nSELECT * FROM item;",
    );
    assert.match(piped.out, /id\s+name\n1\s+quill\n2\s+ink/);
    await ok(["sql", "t_shop"], "BEGIN; DELETE FROM item; ROLLBACK;");
    const { out } = await ok(["sql", "t_shop", "SELECT count(*) AS n FROM item", "-o", "json"]);
    assert.deepEqual(JSON.parse(out), [{ n: 2 }]);
    assert.match((await ok(["db", "check", "t_shop"])).out, /^[0-9a-f]{64} at index \d+\nmember 1 {2}the same\n$/);
    const status = JSON.parse((await ok(["db", "status", "t_shop", "-o", "json"])).out);
    assert.deepEqual(status.map((g: Record<string, unknown>) => [g.database, g.leader, g.voters]), [["t_shop", "1", [
      "1",
    ]]]);
    assert.match((await ok(["db", "status"])).out, /^DATABASE +LEADER +VOTERS[\s\S]*\nsystem +1 +1/);
    assert.match((await ok(["db", "lead", "t_shop", "1"])).err, /^Member 1 was asked to lead t_shop\n$/);
    for (
      const [words, code, error] of [
        [["db", "status", "t_none"], 3, /^error\[database_not_here\]/],
        [["db", "lead", "t_shop", "1,2"], 2, /^error\[bad_members\]/],
        [["db", "changes", "t_shop", "--after", "soon"], 2, /wanted digits/],
        [["db", "restore", "t_other", "none", "--to-index", "-1"], 2, /wanted digits/],
      ] as const
    ) {
      const refused = await uc([...words]);
      assert.equal(refused.code, code, refused.err);
      assert.match(refused.err, error);
    }

    const full = `${home}/full.backup`, more = `${home}/more.backup`;
    const [, index = ""] = /up to index (\d+)/.exec((await ok(["db", "backup", "t_shop", full])).err) ?? [];
    await ok(["sql", "t_shop", "INSERT INTO item(name) VALUES('late')"]);
    await ok(["db", "backup", "t_shop", more, "--after", index]);
    await ok(["db", "restore", "t_then", full]);
    await ok(["db", "restore", "t_now", full, more]);
    const names = async (name: string) =>
      JSON.parse((await ok(["sql", name, "SELECT name FROM item ORDER BY id", "-o", "json"])).out)
        .map((row: { name: string }) => row.name);
    assert.deepEqual([await names("t_then"), await names("t_now")], [["quill", "ink"], ["quill", "ink", "late"]]);
    await ok(["sql", "t_shop", "CREATE TRIGGER shout AFTER INSERT ON item BEGIN SELECT 'a;'; END"]);
    await ok(["sql", "t_shop", "INSERT INTO item(name) VALUES('two;\n-- flaredb end\nlines'), ('it''s')"]);
    const dump = `${home}/shop.sql`;
    assert.match((await ok(["db", "dump", "t_shop", dump])).err, /: \d+ statements, 0 keys\n$/);
    assert.match((await ok(["db", "load", "t_copy", dump])).out, /item\s+5 rows/);
    assert.deepEqual(await names("t_copy"), await names("t_shop"));
    assert.match((await ok(["db", "migrate", "t_copy", folder])).err, /at version 1/);
    const text = await Deno.readTextFile(dump);
    await Deno.writeTextFile(dump, text.slice(0, text.lastIndexOf("-- flaredb end")));
    const cut = await uc(["db", "load", "t_cut", dump]);
    assert.match(cut.err, /^error\[dump_damaged\]/);
    assert.doesNotMatch((await ok(["db", "list"])).out, /t_cut/);

    const bytes = await Deno.readFile(full);
    bytes[bytes.length >> 1]! ^= 1;
    await Deno.writeFile(full, bytes);
    const refused = await uc(["db", "restore", "t_bad", full, "--verify"]);
    assert.notEqual(refused.code, 0);
    assert.match(refused.err, /^error\[backup_damaged\]/);
    // The receiver's own secret comes from a file and is never told; one that was made is told once.
    const hook = ["db", "webhook"], url = "https://shop.example.com/changes";
    const own = "the-receivers-own-secret";
    await Deno.writeTextFile(`${home}/hook.secret`, `${own}\n`, { mode: 0o600 });
    const secretFile = ["--secret-file", `${home}/hook.secret`, "--tables", "item"];
    const brought = await ok([
      ...hook,
      "create",
      "t_shop",
      "own",
      "--url",
      url,
      ...secretFile,
      "-o",
      "json",
      "--debug",
    ]);
    assert.equal("secret" in JSON.parse(brought.out), false);
    assert.equal((brought.out + brought.err).includes(own), false);
    const made = await ok([...hook, "create", "t_shop", "orders", "--url", url, "-o", "json"]);
    const { secret } = JSON.parse(made.out);
    assert.match(secret, /^[A-Za-z0-9_-]{43}$/);
    assert.match(
      (await ok([...hook, "list", "t_shop"])).out,
      /NAME +STATE +URL[^\n]*\norders +active[^\n]*\nown +active/,
    );
    assert.match((await ok([...hook, "list", "t_shop", "-o", "wide"])).out, /POSITION/);
    assert.equal((await ok([...hook, "list", "t_shop", "-o", "name"])).out, "orders\nown\n");
    assert.match((await ok([...hook, "show", "t_shop", "own", "-o", "yaml"])).out, /state: WEBHOOK_STATE_ACTIVE/);
    assert.match((await ok([...hook, "pause", "t_shop", "orders"])).out, /orders +paused/);
    const set = ["set", "t_shop", "orders", "--url", `${url}/2`, "--tables", "item,t"];
    assert.match((await ok([...hook, ...set])).out, /paused +https:\S+\/2 +item,t/);
    const resumed = JSON.parse((await ok([...hook, "resume", "t_shop", "orders", "--from-now", "-o", "json"])).out);
    assert.deepEqual([resumed.state, resumed.tables], ["WEBHOOK_STATE_ACTIVE", ["item", "t"]]);
    const told = await ok([...hook, "list", "t_shop", "-o", "json", "--debug"]);
    assert.equal([secret, own].some((each) => (told.out + told.err).includes(each)), false);
    assert.match((await uc([...hook, "create", "t_shop", "plain", "--url", "http://x/"])).err, /^error\[invalid_url\]/);
    await ok([...hook, "delete", "t_shop", "own", "--yes"]);
    assert.match((await uc([...hook, "show", "t_shop", "own"])).err, /^error\[webhook_not_found\]/);

    const kv = (verb: string, ...rest: string[]) => ["db", "kv", verb, "t_shop", ...rest];
    const [, version = ""] = /version (\d+)/.exec((await ok(kv("put", "b", "k/1", "one"))).err) ?? [];
    await ok(kv("put", "b", "k/1", "two", "--version", version));
    assert.match((await uc(kv("put", "b", "k/1", "x", "--version", version))).err, /^error\[version_changed\]/);
    await Deno.writeFile(`${home}/value`, Uint8Array.of(0xff, 0));
    await ok(kv("put", "b", "k/2", "--from-file", `${home}/value`, "--ttl", "1h"));
    assert.equal((await ok(kv("get", "b", "k/1"))).out, "two");
    assert.match((await ok(kv("scan", "b", "--prefix", "k/", "--reverse"))).out, /\nk\/2 +0xff00\nk\/1 +two\n$/);
    assert.match((await ok(kv("scan", "b", "--limit", "1", "-o", "wide"))).out, /^KEY +VALUE +VERSION +EXPIRES\n.*\n$/);
    assert.equal((await ok(kv("scan", "b", "-o", "name"))).out, "k/1\nk/2\n");
    await ok(kv("quota", "b", "--keys-max", "2"));
    assert.match((await uc(kv("put", "b", "k/3", "x"))).err, /^error\[bucket_full\]/);
    assert.match((await ok(["db", "kv", "buckets", "t_shop"])).out, /\nb +2 +11 B +2 +-\n/);
    await ok(kv("delete", "b", "k/1"));
    assert.match((await uc(kv("get", "b", "k/1"))).err, /^error\[key_not_found\]/);
    for (const level of [["strong"], ["stale", "--max-age", "1m"], ["at-index", "--at-index", version]]) {
      const counted = await ok(["sql", "t_shop", "SELECT count(*) AS n FROM item", "-o", "yaml", "--level", ...level]);
      assert.equal(counted.out, "- n: 5\n");
    }
    assert.match((await uc(["sql", "t_shop", "SELECT 1", "--level", "stale"])).err, /^error\[bad_level\]/);

    const wrong = await uc(["sql", "t_shop", "SELECT nonsense"]);
    assert.match(wrong.err, /^error\[sql_error\]: Cannot run the statement: no such column/);
  } finally {
    await Deno.remove(home, { recursive: true });
  }
});

/** A context file as the quickstart writes it. */
async function writeContext(home: string, context: Record<string, unknown>): Promise<void> {
  const file = { version: 1, current: "test", contexts: { test: context }, credentials: {} };
  await Deno.writeTextFile(`${home}/ultracloud/contexts.json`, JSON.stringify(file), { mode: 0o600 });
}
