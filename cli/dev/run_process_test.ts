import assert from "node:assert/strict";
import { plantTree } from "./_tree_test_support.ts";

const here = new URL(".", import.meta.url).href;
const config = new URL("../../deno.json", import.meta.url).pathname;

const manifest = {
  name: "alpha",
  kind: "service",
  summary: "Answers health for this test",
  listen: { rpc: { port: 7999, scheme: "connect" } },
};

const component = `
const port = Number(/127\\.0\\.0\\.1:(\\d+)/.exec(Deno.readTextFileSync(Deno.args[1]))[1]);
Deno.serve({ hostname: "127.0.0.1", port }, () => new Response("here"));
`;

/** Reads until the text matches; fails when the stream ends first. */
async function readUntil(stream: ReadableStream<Uint8Array>, pattern: RegExp): Promise<RegExpExecArray> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of stream.values({ preventCancel: true })) {
    text += decoder.decode(chunk, { stream: true });
    const match = pattern.exec(text);
    if (match) return match;
  }
  throw new Error(`Cannot find ${pattern} in: ${text}`);
}

async function answer(url: string): Promise<string> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    try {
      return await (await fetch(url)).text();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

Deno.test("the dev runner starts a component under its permissions and leaves nothing running on Ctrl-C", async () => {
  await using tree = await plantTree({
    "deno.json": "{}",
    "agents/README.md": "",
    "services/alpha/component.json": JSON.stringify(manifest),
    "services/alpha/main.ts": component,
    "go.ts": `import { runCommand } from "${here}run.ts";\n` +
      `Deno.exit(await runCommand.run(["alpha", "--free-ports"], Deno.cwd()));`,
  });
  await using child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "-A", "--no-check", `--config=${config}`, "go.ts"],
    cwd: tree.root,
    env: { NO_COLOR: "1", ULTRACLOUD_WORK_ROOT: `${tree.root}/work` },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const [, url = ""] = await readUntil(child.stdout, /started alpha (http:\/\/\S+)/);
  assert.equal(await answer(url), "here");
  child.kill("SIGINT");
  await child.stdout.cancel();
  assert.equal((await child.status).code, 0);
  await assert.rejects(fetch(url));
});
