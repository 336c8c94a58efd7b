import assert from "node:assert/strict";

const required: Record<string, string> = {
  UC_SAMPLE_CLUSTER_ID: "test",
  UC_SAMPLE_RPC__LISTEN: "127.0.0.1:0",
  UC_SAMPLE_STATE_DIR: "/nonexistent/state",
  UC_SAMPLE_RUN_DIR: "/nonexistent/run",
  UC_SAMPLE_IDENTITY_KEY_FILE: "/nonexistent/key",
  UC_SAMPLE_TRUST_FILE: "/nonexistent/trust",
};

/** The sample under the narrow permissions a component really has. */
function spawn(args: string[], env: Record<string, string> = required): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--no-prompt",
      "--allow-net=127.0.0.1",
      "--allow-env=UC_SAMPLE_*",
      new URL("./testdata/component_main.ts", import.meta.url).pathname,
      ...args,
    ],
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function output(child: Deno.ChildProcess) {
  const { code, stdout, stderr } = await child.output();
  return { code, out: new TextDecoder().decode(stdout), err: new TextDecoder().decode(stderr) };
}

const lines = (text: string) => text.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);

Deno.test("--version says who it is, and asks for nothing else", async () => {
  const { code, out } = await output(spawn(["--version"], {}));
  assert.deepEqual([code, out], [0, "sample 9.9.9\n"]);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`a component logs JSON, serves, and on ${signal} disposes and exits with 0`, async () => {
    const child = spawn([]);
    const decoder = new TextDecoder();
    let out = "";
    let asked = false;
    const reader = child.stdout.getReader();
    for (let item = await reader.read(); !item.done; item = await reader.read()) {
      out += decoder.decode(item.value);
      const started = out.includes('"msg":"started"');
      if (!started || asked) continue;
      asked = true;
      const { url } = lines(out.slice(0, out.lastIndexOf("\n"))).find((line) => line.msg === "listening") as {
        url: string;
      };
      const ready = await fetch(`${url}/readyz`);
      assert.equal(ready.status, 200);
      assert.equal((await ready.json()).parts.process.state, "ready");
      child.kill(signal);
    }
    const { code } = await child.status;
    await child.stderr.cancel();
    assert.equal(code, 0, out);
    assert.deepEqual(lines(out).map((line) => line.msg), ["listening", "started", "stopping", "disposed", "stopped"]);
  });
}

Deno.test("a component whose start fails logs why and exits with 1", async () => {
  const { code, out } = await output(spawn(["--failWith=no disk"]));
  assert.equal(code, 1);
  const failed = lines(out)[0]!;
  assert.deepEqual([failed.level, failed.msg], ["error", "Cannot start: no disk"]);
});

Deno.test("a component with a bad configuration says so in one sentence", async () => {
  const { code, err } = await output(spawn(["--rpc.listn=x"]));
  assert.equal(code, 1);
  assert.match(err.trim(), /^Cannot use key rpc\.listn from --rpc\.listn: no such key, nearest is rpc\.listen$/);
});

Deno.test("--print-config shows values and their sources and starts nothing", async () => {
  const { code, out } = await output(spawn(["--print-config", "--instance", "7"]));
  assert.equal(code, 0);
  const shown = JSON.parse(out);
  assert.equal(shown.config.instance, "7");
  assert.equal(shown.sources.instance, "--instance");
  assert.equal(shown.sources.clusterId, "UC_SAMPLE_CLUSTER_ID");
});
