import assert from "node:assert/strict";
import { chooseContext, contextPath, endpointOf, readContexts, writeContexts } from "./contexts.ts";

const env = (values: Record<string, string> = {}) => (name: string): string | undefined => values[name];
const file = {
  version: 1 as const,
  current: "home",
  contexts: {
    home: { endpoint: "http://10.0.0.1", endpoints: { iam: "http://10.0.0.9:1234" }, project: "acme/prod" },
    lab: { endpoint: "https://lab.example:8443", endpoints: {} },
  },
  credentials: { home: { accessToken: "secret", expiresAtMs: 5 } },
};

async function inTempDir(test: (dir: string) => void | Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "uc-test-" });
  try {
    await test(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("the context is that of the flag, then UC_CONTEXT, then the current one, then plain defaults", () => {
  assert.equal(chooseContext(file, { flag: "lab", env: env({ UC_CONTEXT: "home" }) }).name, "lab");
  assert.equal(chooseContext(file, { env: env({ UC_CONTEXT: "lab" }) }).name, "lab");
  assert.equal(chooseContext(file, { env: env() }).name, "home");
  const none = chooseContext({ version: 1, contexts: {}, credentials: {} }, { env: env() });
  assert.deepEqual(none, { name: "default", context: { endpoint: "http://127.0.0.1", endpoints: {} } });
});

Deno.test("a context that is not there is named together with those that are", () => {
  for (const flag of ["prod", "constructor", "__proto__"]) {
    assert.throws(() => chooseContext(file, { flag, env: env() }), {
      kind: "not_found",
      code: "context_not_found",
      message: `Cannot find the context ${flag}: known are home, lab`,
    });
  }
});

Deno.test("UC_ENDPOINT replaces every endpoint and UC_PROJECT the project", () => {
  const { context } = chooseContext(file, { env: env({ UC_ENDPOINT: "http://10.9.9.9", UC_PROJECT: "acme/dev" }) });
  assert.equal(context.project, "acme/dev");
  assert.equal(endpointOf(context, "iam"), "http://10.9.9.9:7120");
});

Deno.test("an endpoint is the component's own, else the host with the component's port unless it names one", () => {
  assert.equal(endpointOf(file.contexts.home, "iam"), "http://10.0.0.9:1234");
  assert.equal(endpointOf(file.contexts.home, "chainfire"), "http://10.0.0.1:7100");
  assert.equal(endpointOf(file.contexts.lab, "vm-agent"), "https://lab.example:8443");
  assert.throws(() => endpointOf({ endpoint: "no url", endpoints: {} }, "iam"), { code: "invalid_endpoint" });
});

Deno.test("the file is UC_CONFIG, else that of the quickstart kept here, else below XDG_CONFIG_HOME or HOME", async () => {
  await inTempDir(async (dir) => {
    const root = { ULTRACLOUD_WORK_ROOT: dir, HOME: "/home/eve" };
    assert.equal(contextPath(env({ ...root, UC_CONFIG: "/x/uc.json" })), "/x/uc.json");
    assert.equal(contextPath(env(root)), "/home/eve/.config/ultracloud/contexts.json");
    assert.equal(contextPath(env({ ...root, XDG_CONFIG_HOME: "/xdg" })), "/xdg/ultracloud/contexts.json");
    const kept = `${dir}/quickstart/data/uc.json`;
    await Deno.mkdir(`${dir}/quickstart/data`, { recursive: true });
    await Deno.writeTextFile(kept, "{}");
    assert.equal(contextPath(env(root)), kept);
    assert.equal(contextPath(env({ ...root, UC_CONTEXT: "prod" })), "/home/eve/.config/ultracloud/contexts.json");
  });
});

Deno.test("contexts are written for their owner only and read back as they were", async () => {
  await inTempDir(async (dir) => {
    const path = `${dir}/new/contexts.json`;
    writeContexts(path, file);
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600);
    assert.equal((await Deno.stat(`${dir}/new`)).mode! & 0o777, 0o700);
    assert.deepEqual(readContexts(path), file);
    await Deno.chmod(path, 0o644);
    writeContexts(path, file);
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600, "a file that was open to others is closed");
    assert.deepEqual([...Deno.readDirSync(`${dir}/new`)].map((e) => e.name), ["contexts.json"]);
  });
});

Deno.test("no file is no contexts; a broken one is a sentence that names it and shows no secret", async () => {
  await inTempDir(async (dir) => {
    assert.deepEqual(readContexts(`${dir}/none.json`), { version: 1, contexts: {}, credentials: {} });
    const path = `${dir}/contexts.json`;
    const broken = [
      '{"credentials":{"home":{"accessToken":"secret"',
      '{"version":2}',
      "[]",
      '{"version":1,"contexts":3}',
    ];
    for (const text of broken) {
      await Deno.writeTextFile(path, text);
      assert.throws(() => readContexts(path), (error: Error & { code?: string; kind?: string }) => {
        assert.equal(error.code, "contexts_unreadable");
        assert.equal(error.kind, "failed_precondition");
        assert.ok(error.message.includes(path));
        assert.ok(!error.message.includes("secret"));
        return true;
      });
    }
    assert.throws(() => readContexts(dir), { code: "contexts_unreadable" });
  });
});
