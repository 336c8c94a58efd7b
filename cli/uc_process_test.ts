import assert from "node:assert/strict";

const entry = new URL("main.ts", import.meta.url).pathname;
/** Longest that a command may take that reaches nobody: a person waits for it. */
const failFastMsMax = 10_000;

interface Result {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly ms: number;
}

/** Runs the real program, far from the contexts and the quickstart of whoever runs the tests. */
async function uc(words: readonly string[], env: Record<string, string> = {}): Promise<Result> {
  const home = await Deno.makeTempDir({ prefix: "uc-test-" });
  try {
    const start = performance.now();
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", entry, ...words],
      env: {
        HOME: home,
        XDG_CONFIG_HOME: home,
        ULTRACLOUD_WORK_ROOT: home,
        DENO_DIR: denoDir,
        PATH: Deno.env.get("PATH") ?? "",
        ...env,
      },
      clearEnv: true,
      stdin: "null",
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, out: text(stdout), err: text(stderr), ms: performance.now() - start };
  } finally {
    await Deno.remove(home, { recursive: true });
  }
}

/** Where this runtime keeps its packages; with another HOME it would look elsewhere. */
const denoDir = await (async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return (JSON.parse(new TextDecoder().decode(stdout)) as { denoDir: string }).denoDir;
})();

/** A port of this machine that nobody listens on. */
function deadEndpoint(): string {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return `http://127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
}

Deno.test("uc --help has one line per noun, names every noun and the exit codes", async () => {
  const { code, out, err } = await uc(["--help"]);
  assert.deepEqual([code, err], [0, ""]);
  for (const noun of ["quickstart", "status", "vm", "network", "kv", "api", "completion"]) {
    assert.match(out, new RegExp(`^  ${noun} +[A-Z]`, "m"));
  }
  assert.match(out, /8 unavailable/);
  const lines = out.split("\n");
  const nouns = lines.filter((line) => /^ {2}[a-z-]+ +[A-Z]/.test(line));
  assert.ok(lines.length - nouns.length < 20, `one line per noun, and little else:\n${out}`);
  assert.ok(out.split("\n").filter((line) => line.includes("Exit codes")).every((line) => line.length < 250));
  assert.equal((await uc([])).out, out, "no words are a call for help");
});

Deno.test("the help of a noun has one short line per verb, that of a verb its flags", async () => {
  const noun = await uc(["vm", "--help"]);
  assert.match(noun.out, /^ {2}uc vm stop <vm> \[--force\] \[flags\]$/m);
  assert.doesNotMatch(noun.out, /--columns/);
  const verb = await uc(["vm", "create", "--help"]);
  assert.match(verb.out, /uc vm create <name> --image value/);
  assert.match(verb.out, /--user-data\]? +File with cloud-init user data/);
});

Deno.test("wrong usage ends with 2, says what is wrong on standard error and nothing on standard output", async () => {
  const cases: [string[], RegExp][] = [
    [["vn", "list"], /^error\[usage\]: No command registered for `vn`, did you mean `vm`\?\nhint: .*--help/],
    [["vm", "lisst"], /did you mean `list`/],
    [["vm", "show"], /^error\[usage\]: Expected argument for vm\n/],
    [["vm", "create", "web"], /--image/],
    [["vm", "list", "--otput", "json"], /did you mean --output/],
    [["vm", "list", "-o", "xml"], /table\|wide\|json\|yaml\|name/],
    [["vm", "list", "--timeout", "soon"], /as a duration/],
    [["vm", "console", "web", "--offset", "end"], /as a number/],
    [["completion", "tcsh"], /^error\[unknown_shell\]: .*bash, zsh, fish/],
    [["completion", "constructor"], /^error\[unknown_shell\]/],
    [["sg", "create", "web", "--ingress", "tcp:0", "-p", "a/b"], /^error\[invalid_rule\]/],
    [["api", "call", "nonsense"], /^error\[bad_method\]/],
    [
      ["login", "--token-file", "/nonexistent/token"],
      /^error\[file_unusable\]: Cannot use the file \/nonexistent\/token: No such/,
    ],
    [["login", "--token-file", "/"], /^error\[file_unusable\]/],
    [["login", "--user", "alice", "--key-id", "key_1"], /^error\[login_how\]/],
    [["quickstart", "--with", "nosuch"], /^error\[component_unknown\]/],
    [["login", "--org", "acme"], /^error\[login_how\]: Cannot log in with --org without --user/],
    [["login", "--secret-file", "key.secret"], /^error\[login_how\].*--secret-file without --key-id/],
    [["vm", "list"], /^error\[no_project\]: .*\nhint: /],
    [["whoami"], /^error\[invalid_endpoint\]/],
  ];
  await Promise.all(cases.map(async ([words, expected]) => {
    const { code, out, err } = await uc(words, words[0] === "whoami" ? { UC_ENDPOINT: "no url", UC_TOKEN: "x" } : {});
    assert.match(err, expected, words.join(" "));
    assert.doesNotMatch(err, /\.ts:\d+/, "no stack trace");
    assert.deepEqual([code, out], [2, ""], words.join(" "));
  }));
});

Deno.test("without anybody logged in calls end with 4 and say what to do, an unknown context with 3", async () => {
  const nobody = await uc(["vm", "list", "-p", "acme/prod"]);
  assert.equal(nobody.code, 4);
  assert.equal(
    nobody.err,
    "error[not_logged_in]: Cannot call as nobody is logged in to the context default\nhint: run `uc login`, or set UC_TOKEN\n",
  );
  const stores = await uc(["kv", "list"]);
  assert.equal(stores.code, 4);
  assert.match(stores.err, /^error\[no_operator_key\]/);
  const lost = await uc(["vm", "list"], { UC_CONTEXT: "lab" });
  assert.equal(lost.code, 3);
  assert.match(lost.err, /^error\[context_not_found\].*lab/);
});

Deno.test("an endpoint that nobody listens on ends with 8 soon, with a hint", async () => {
  const env = { UC_ENDPOINT: deadEndpoint(), UC_TOKEN: "x.y.z" };
  for (
    const words of [["vm", "list", "-p", "acme/prod"], ["whoami"], ["vm", "delete", "web", "-y", "-p", "acme/prod"]]
  ) {
    const { code, out, err, ms } = await uc(words, env);
    assert.match(err, /^error\[connect_failed\]: .*\nhint: `uc status`/, words.join(" "));
    assert.deepEqual([code, out], [8, ""], words.join(" "));
    assert.ok(ms < failFastMsMax, `${words.join(" ")} took ${Math.round(ms)} ms`);
  }
  const status = await uc(["status", "-o", "json"], env);
  assert.equal(status.code, 8);
  const all = JSON.parse(status.out) as { component: string; health: string }[];
  assert.equal(all.length, 6);
  assert.ok(all.every((s) => s.health === "down"));
});

Deno.test("--explain and --dry-run make no call, wherever the cluster is", async () => {
  const env = { UC_ENDPOINT: deadEndpoint(), UC_TOKEN: "x.y.z" };
  for (const flag of ["--explain", "--dry-run"]) {
    const { code, out } = await uc(["network", "delete", "net", "-p", "acme/prod", flag], env);
    assert.equal(code, 0);
    assert.match(out, /^would call ultracloud\.prismnet\.v1\.VpcService\/DeleteVpc /);
  }
});

Deno.test("the version is one line, in words and for scripts", async () => {
  assert.match((await uc(["version"])).out, /^uc \d+\.\d+\.\d+ \(deno \d+\.\d+\.\d+\)\n$/);
  assert.match((await uc(["--version"])).out, /^\d+\.\d+\.\d+\n$/);
});

Deno.test("the completion script of bash is one that bash reads, and completes nouns, verbs and flags", async () => {
  const { code, out } = await uc(["completion", "bash"]);
  assert.equal(code, 0);
  const file = await Deno.makeTempFile({ suffix: ".bash" });
  try {
    await Deno.writeTextFile(file, out);
    const check = await new Deno.Command("bash", { args: ["-n", file] }).output();
    assert.equal(check.code, 0, new TextDecoder().decode(check.stderr));
  } finally {
    await Deno.remove(file);
  }
  for (const shell of ["zsh", "fish"]) assert.match((await uc(["completion", shell])).out, /uc __complete -- /);
  const complete = async (...words: string[]) => (await uc(["__complete", "--", ...words])).out.trim().split("\n");
  assert.deepEqual(await complete("v"), ["vm", "volume", "version"]);
  assert.deepEqual(await complete("vm", "s"), ["show", "start", "stop", "screenshot", "snapshot"]);
  assert.ok((await complete("vm", "create", "--im")).includes("--image"));
  assert.deepEqual(await complete("completion", "f"), ["fish"]);
  const dead = await uc(["__complete", "--", "vm", "show", ""], { UC_ENDPOINT: deadEndpoint(), UC_PROJECT: "a/b" });
  assert.deepEqual([dead.code, dead.err], [0, ""], "names that cannot be asked for are none");
});

Deno.test("contexts are made, listed, used and forgotten in a private file", async () => {
  const dir = await Deno.makeTempDir({ prefix: "uc-test-" });
  try {
    const env = { UC_CONFIG: `${dir}/uc.json` };
    assert.match((await uc(["context", "list"], env)).err, /No contexts yet/);
    assert.equal((await uc(["context", "set", "lab", "--endpoint", "http://10.0.0.1", "-p", "a/b"], env)).code, 0);
    assert.equal((await uc(["context", "set", "home"], env)).code, 0);
    assert.equal((await uc(["context", "list", "-o", "name"], env)).out, "lab\nhome\n");
    assert.equal((await Deno.stat(env.UC_CONFIG)).mode! & 0o777, 0o600);
    assert.equal((await uc(["context", "use", "home"], env)).code, 0);
    assert.equal(JSON.parse((await uc(["context", "show", "-o", "json"], env)).out).name, "home");
    const kept = await Deno.readTextFile(env.UC_CONFIG);
    const dry = await uc(["context", "delete", "home", "--dry-run"], env);
    assert.deepEqual([dry.code, await Deno.readTextFile(env.UC_CONFIG)], [0, kept]);
    assert.equal((await uc(["context", "delete", "home"], env)).code, 2, "without a terminal it wants --yes");
    assert.equal((await uc(["context", "delete", "home", "-y"], env)).code, 0);
    assert.equal((await uc(["context", "use", "home"], env)).code, 3);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
