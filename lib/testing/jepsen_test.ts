import assert from "node:assert/strict";
import { checkLinearizable } from "./history.ts";
import { JepsenLogError, parseJepsenLog } from "./jepsen.ts";
import { lincheckMain } from "./lincheck_main.ts";

/** Lines of a log, one event each, as `0 :invoke :read nil`. */
const log = (...events: string[]) => events.map((event) => `INFO  jepsen.util - ${event}\n`).join("");
const linearizable = (...events: string[]) => checkLinearizable(parseJepsenLog(log(...events))).length === 0;

Deno.test("parseJepsenLog() reads a register that starts as nil", () => {
  assert.ok(linearizable("0 :invoke :read nil", "0 :ok :read nil"));
  assert.ok(!linearizable("0 :invoke :read nil", "0 :ok :read 0"));
  const wrote = ["0 :invoke :write 3", "0 :ok :write 3"];
  assert.ok(linearizable(...wrote, "1 :invoke :read nil", "1 :ok :read 3"));
  assert.ok(!linearizable(...wrote, "1 :invoke :read nil", "1 :ok :read nil"));
  assert.ok(linearizable("0 :invoke :write -3", "1 :invoke :read nil", "1 :ok :read -3", "0 :ok :write -3"));
});

Deno.test("parseJepsenLog() holds a swap to its outcome", () => {
  const wrote = ["0 :invoke :write 3", "0 :ok :write 3", "0 :invoke :cas [3 4]"];
  assert.ok(linearizable(...wrote, "0 :ok :cas [3 4]", "1 :invoke :read nil", "1 :ok :read 4"));
  assert.ok(!linearizable(...wrote, "0 :ok :cas [3 4]", "1 :invoke :read nil", "1 :ok :read 3"));
  assert.ok(!linearizable(...wrote, "0 :fail :cas [3 4]"));
  assert.ok(linearizable("0 :invoke :cas [3 4]", "0 :fail :cas [3 4]"));
  assert.ok(!linearizable("0 :invoke :cas [3 4]", "0 :ok :cas [3 4]"));
});

Deno.test("parseJepsenLog() leaves an unknown outcome open to the end", () => {
  for (const end of [["0 :info :write :timed-out"], ["0 :invoke :read nil"], []]) {
    const open = ["0 :invoke :write 3", ...end, "1 :invoke :read nil", "1 :ok :read nil", "1 :invoke :read nil"];
    assert.ok(linearizable(...open, "1 :ok :read 3"));
    assert.ok(linearizable(...open, "1 :ok :read nil"));
    assert.ok(!linearizable(...open, "1 :ok :read 3", "1 :invoke :read nil", "1 :ok :read nil"));
  }
  // A read without an answer says nothing, and its process goes on.
  assert.ok(linearizable("0 :invoke :read nil", "0 :fail :read :timed-out", "0 :invoke :read nil", "0 :ok :read nil"));
  assert.ok(linearizable("0 :info :cas :timed-out", "0 :invoke :read nil", "0 :ok :read nil"));
});

Deno.test("parseJepsenLog() takes tabs and ignores lines of any other form", () => {
  const text = "INFO\tjepsen.util\t-\t7\t:invoke\t:write\t5\r\n" +
    "INFO  jepsen.core - Worker 7 starting\nINFO  jepsen.util - :nemesis :info :start nil\n\n" +
    "INFO  jepsen.util - 7\t:ok\t:write\t5\nWARN  jepsen.util - 7 :invoke :write 6\n";
  const operations = parseJepsenLog(text);
  assert.equal(operations.length, 1);
  assert.deepEqual(operations[0], {
    key: "register",
    action: { kind: "write", value: 1 },
    invokedAt: 0,
    returnedAt: 4,
  });
});

Deno.test("parseJepsenLog() refuses a log that contradicts itself or has no event", () => {
  assert.throws(() => parseJepsenLog(log("0 :ok :read 3")), /line 1.*wanted an :invoke/);
  assert.throws(() => parseJepsenLog(log("0 :invoke :write 3", "0 :ok :write 4")), JepsenLogError);
  assert.throws(() => parseJepsenLog(log("0 :invoke :write 3", "0 :ok :read 3")), JepsenLogError);
  assert.throws(() => parseJepsenLog("# notes\n"), /Cannot find any event/);
});

Deno.test("lincheck ends with 0, 1 or 2", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const lines: string[] = [];
    const run = (...files: string[]) => lincheckMain(files.map((file) => `${dir}/${file}`), (line) => lines.push(line));
    await Deno.writeTextFile(`${dir}/good`, log("0 :invoke :read nil", "0 :ok :read nil"));
    await Deno.writeTextFile(`${dir}/bad`, log("0 :invoke :read nil", "0 :ok :read 1"));
    await Deno.writeTextFile(`${dir}/torn`, log("0 :ok :read 1"));
    await Deno.writeFile(`${dir}/binary`, new Uint8Array([0xff, 0xfe, 0xfd]));
    assert.deepEqual(["good", "bad", "torn", "binary", "missing", "."].map((file) => run(file)), [0, 1, 2, 2, 2, 2]);
    assert.equal(run("bad", "good"), 1);
    assert.equal(lincheckMain([], () => {}), 2);
    assert.match(lines[1]!, /^NOT linearizable: .*bad, 1 operations, 0 open$/);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
