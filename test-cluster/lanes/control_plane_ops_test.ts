import assert from "node:assert/strict";
import { run } from "@stricli/core";
import { buildUc } from "@ultracloud/cli";
import { readRunbooks, Runbook } from "./control_plane_ops_runbook.ts";

const options = (dir: string, section: string, commands: readonly string[]) => ({
  section,
  commands,
  contextsFile: `${dir}/uc.json`,
  dir,
  signal: new AbortController().signal,
});

Deno.test("every uc command of the page is one that uc has", async () => {
  const books = await readRunbooks();
  const commands = [...books.values()].flat().filter((command) => command.startsWith("uc "));
  assert.ok(commands.length >= 10, `only ${commands.length} commands were found`);
  for (const command of commands) {
    let out = "";
    const words = [...command.split(/\s+/).slice(1), "--help"];
    const write = (text: string) => out += text;
    const process = { exitCode: 0, stdout: { write }, stderr: { write } };
    await run(await buildUc(words), words, { process } as never);
    const verbs = command.split(" ").filter((word) => /^[a-z-]+$/.test(word) && !word.startsWith("-")).slice(0, 3);
    assert.match(out, new RegExp(`USAGE\\s+${verbs.join(" ")}`), `${command}: ${out.slice(0, 200)}`);
  }
});

Deno.test("a runbook runs commands of its section only, fills in every placeholder, and notices what was left out", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const commands = ["printf NAME > made.txt", 'printf "%s" TRUE'];
    const book = new Runbook(options(dir, "Some section", commands));
    await assert.rejects(book.run("printf other"), /wanted the command printf other/);
    await assert.rejects(book.run(commands[0]!), /wanted a value for NAME/);
    await book.run(commands[0]!, { NAME: "it" });
    assert.equal(await Deno.readTextFile(`${dir}/made.txt`), "it");
    assert.equal((await Deno.stat(`${dir}/made.txt`)).mode! & 0o777, 0o600);
    assert.throws(() => book.done(), /wanted a lane that runs printf "%s" TRUE/);
    assert.equal(await book.run(commands[1]!), "TRUE");
    book.done();
    assert.throws(() => new Runbook(options(dir, "No section", [])), /wanted a section with commands/);
    await assert.rejects(new Runbook(options(dir, "Fails", ["exit 3"])).run("exit 3"), /Cannot go on after exit 3/);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
