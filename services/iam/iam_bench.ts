/**
 * What identity costs, beside bare jose in the same run: `deno task bench iam`. Needs wrk. Rates over HTTP are of one
 * replica over a store in memory, with load and server on the same machine: only ratios travel between machines.
 */
import { createAuthenticator, createAuthorizer, fixedPolicyView, loadTrust } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import { logger, setupLogging } from "@ultracloud/observe";
import { importJWK, jwtVerify } from "jose";
import { adminToken, type World, world } from "./test_world.ts";

const principals = 1_000;
const signatures = 3_000;
const seconds = 4;
/** Enough of the server's log to find its first words in. */
const logCharsKept = 65_536;
const targets = { localMs: 0.2, authorizePerSecond: 10_000, issuePerSecond: 3_000 };

/** Sorted milliseconds of `count` runs, one after the other. */
async function timed(count: number, work: (i: number) => unknown): Promise<{ median: number; perSecond: number }> {
  const spans: number[] = [];
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    const from = performance.now();
    const answer = work(i);
    if (answer instanceof Promise) await answer;
    spans.push(performance.now() - from);
  }
  const allMs = performance.now() - start;
  return { median: spans.sort((a, b) => a - b)[Math.floor(count / 2)]!, perSecond: count / allMs * 1_000 };
}

/** A world with a thousand principals and as many bindings, served until killed; prints what the load needs. */
async function serve(): Promise<void> {
  // As a component logs: lines of JSON to standard output.
  await setupLogging({ component: "iam", level: "info", format: "json" });
  const w = await world({ log: logger("iam") });
  const { token } = await crowd(w);
  const root = await w.admin();
  const account = await root.accounts.createServiceAccount({ project: "acme/prod", name: "ci" });
  const { key, secret } = await root.accounts.createApiKey({ project: "acme/prod", serviceAccount: account.meta!.id });
  console.log(JSON.stringify({ url: w.first.url, token, keyId: key!.id, secret }));
  await new Promise(() => {});
}

async function crowd(w: World): Promise<{ token: string; ids: string[] }> {
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  await root.projects.createProject({ org: "acme", name: "prod" });
  const ids: string[] = [];
  // Ten at a time: each is a transaction of its own that touches the organisation.
  for (let i = 0; i < principals; i += 10) {
    ids.push(
      ...await Promise.all(Array.from({ length: 10 }, async (_, j) => {
        const user = await root.users.createUser({ org: "acme", name: `user-${i + j}` });
        const principal = `user:${user.meta!.id}`;
        await root.roles.createBinding({ scope: "acme/prod", role: "viewer", principal });
        return principal;
      })),
    );
  }
  const { accessToken } = await w.as("").tokens.bootstrapToken({ adminToken });
  return { token: accessToken, ids };
}

async function wrk(url: string, o: { path: string; body: string; token?: string }): Promise<number> {
  const script = await Deno.makeTempFile({ suffix: ".lua" });
  try {
    await Deno.writeTextFile(
      script,
      `wrk.method = "POST"\nwrk.body = '${o.body}'\nwrk.headers["content-type"] = "application/json"\n` +
        (o.token ? `wrk.headers["authorization"] = "Bearer ${o.token}"\n` : ""),
      { mode: 0o600 },
    );
    const { stdout } = await new Deno.Command("wrk", {
      args: ["-t1", "-c32", `-d${seconds}s`, "-s", script, url + o.path],
    }).output();
    const text = new TextDecoder().decode(stdout);
    const rate = /Requests\/sec:\s+([\d.]+)/.exec(text)?.[1];
    if (rate === undefined || /Non-2xx/.test(text)) throw new Error(`Cannot count failures as answers: ${text}`);
    return Number(rate);
  } finally {
    await Deno.remove(script);
  }
}

async function local(): Promise<void> {
  await using w = await world();
  const root = await w.admin();
  await root.orgs.createOrg({ name: "acme" });
  const snapshot = w.first.iam.policy.present().snapshot;
  const bindings = Array.from({ length: principals }, (_, i) => ({
    id: `bind_${i}`,
    principal: `user:${i}`,
    role: i % 2 === 0 ? "editor" : "viewer",
    scope: `org${i % 100}/prod`,
    deny: false,
  }));
  const policy = await fixedPolicyView({ ...snapshot, bindings });
  const trust = await loadTrust(`${w.dir}/trust.json`, { clock: systemClock });
  const tokens: string[] = [];
  const issue = await timed(signatures, async (i) => {
    tokens.push((await w.first.iam.tokens.access(`user:${i % principals}`, "bench")).accessToken);
  });
  const key = await importJWK(snapshot.keys[0]!, "EdDSA");
  const bare = await timed(signatures, (i) => jwtVerify(tokens[i]!, key));
  const authenticator = createAuthenticator({ audience: "bench" }, { trust, policy, clock: systemClock });
  const authorizer = createAuthorizer({ trust, policy, clock: systemClock });
  const headers = tokens.map((token) => new Headers({ authorization: `Bearer ${token}` }));
  const decide = async (i: number) => {
    const found = authenticator.authenticate(headers[i]!, { certificateId: undefined });
    const principal = found instanceof Promise ? await found : found;
    authorizer.authorize(principal, "plasmavmc.vm.get", `org${i % 100}/prod`, false);
  };
  const first = await timed(signatures, decide);
  const again = await timed(signatures, decide);
  const us = (ms: number) => `${(ms * 1_000).toFixed(1)} us`;
  console.log(`bare jose verify: median ${us(bare.median)}, ${bare.perSecond.toFixed(0)}/s`);
  console.log(
    `verify and authorise, new token: median ${us(first.median)}, ${(first.median / bare.median).toFixed(2)}x bare`,
  );
  console.log(`verify and authorise, known token: median ${us(again.median)} (target ${targets.localMs * 1_000} us)`);
  console.log(`token issue, in process: ${issue.perSecond.toFixed(0)}/s`);
  if (again.median > targets.localMs) Deno.exitCode = 1;
}

async function remote(): Promise<void> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", new URL(import.meta.url).pathname, "serve"],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let drained: Promise<void> | undefined;
  try {
    const ready = Promise.withResolvers<string>();
    drained = (async () => {
      let text = "";
      for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
        // Its log goes on; only the line that is no log line counts.
        text = (text + part).slice(-logCharsKept);
        const line = /^\{"url".*$(?=\n)/m.exec(text)?.[0];
        if (line !== undefined) ready.resolve(line);
      }
      ready.reject(new Error("Cannot start the server of the benchmark"));
    })();
    drained.catch(() => {});
    const { url, token, keyId, secret } = JSON.parse(await ready.promise);
    const iam = "/ultracloud.iam.v1.";
    const who = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub;
    const authorize = {
      path: `${iam}AuthorizeService/Authorize`,
      body: JSON.stringify({ principal: who, action: "plasmavmc.vm.get", scope: "acme/prod" }),
      token,
    };
    const exchange = { path: `${iam}TokenService/ExchangeApiKey`, body: JSON.stringify({ keyId, secret }) };
    const report = async (what: string, load: typeof authorize | typeof exchange, target: number) => {
      await wrk(url, load);
      const rate = await wrk(url, load);
      const met = rate >= target;
      console.log(`${what}: ${rate.toFixed(0)}/s (target ${target}: ${met ? "met" : "missed"})`);
      if (!met) Deno.exitCode = 1;
    };
    await report(`Authorize RPC, ${principals} principals and bindings`, authorize, targets.authorizePerSecond);
    await report("token issue by RPC, API key", exchange, targets.issuePerSecond);
  } finally {
    child.kill("SIGKILL");
    await child.status;
    await drained;
  }
}

if (Deno.args[0] === "serve") await serve();
else {
  await local();
  await remote();
}
