import assert from "node:assert/strict";
import { Fault, Redacted } from "@ultracloud/base";
import fc from "fast-check";
import { z } from "zod";
import {
  type BaseConfig,
  baseShape,
  describeConfig,
  envNames,
  jsonSchemaOf,
  loadConfig,
  nearest,
  readSecret,
} from "./mod.ts";

const schema = z.strictObject({
  ...baseShape,
  electionTimeoutMs: z.number().int().min(10).default(1000),
  peers: z.array(z.string()).default([]),
  voters: z.record(z.string(), z.string()).default({}),
  insecure: z.boolean().default(false),
});

const required = {
  UC_IAM_CLUSTER_ID: "test",
  UC_IAM_RPC__LISTEN: "127.0.0.1:0",
  UC_IAM_STATE_DIR: "/s",
  UC_IAM_RUN_DIR: "/r",
  UC_IAM_IDENTITY_KEY_FILE: "/k",
  UC_IAM_TRUST_FILE: "/t",
};

function load(env: Record<string, string> = {}, args: string[] = [], file?: string) {
  return loadConfig(schema, { component: "iam", env: { ...required, ...env }, args, file });
}

async function withFile(text: string, work: (path: string) => void | Promise<void>) {
  const path = await Deno.makeTempFile({ suffix: ".toml" });
  try {
    await Deno.writeTextFile(path, text);
    await work(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("loadConfig() reads the bounds of a listener, leaves out what is not given, and refuses what is none", () => {
  const limits = (env: Record<string, string>) => load(env).value.rpc.limits;
  assert.equal(limits({}), undefined);
  assert.deepEqual(
    limits({
      UC_IAM_RPC__LIMITS__IN_FLIGHT_MAX: "10",
      UC_IAM_RPC__LIMITS__ORIGINS: "https://a.example,https://b.example:8443",
    }),
    { inFlightMax: 10, origins: ["https://a.example", "https://b.example:8443"] },
  );
  assert.throws(() => load({ UC_IAM_RPC__LIMITS__ORIGINS: "https://a.example/" }), /rpc\.limits\.origins/);
  assert.throws(() => load({ UC_IAM_RPC__LIMITS__MESSAGE_BYTES_MAX: "5" }), /rpc\.limits\.messageBytesMax/);
  assert.throws(() => load({ UC_IAM_RPC__LIMITS__IN_FLIGHT: "5" }), /nearest is UC_IAM_RPC__LIMITS__IN_FLIGHT_MAX/);
});

Deno.test("loadConfig() lets variables override the file and flags override both, and names each source", async () => {
  await withFile(
    'electionTimeoutMs = 50\npeers = ["a"]\n[log]\nlevel = "debug"\n[voters]\n1 = "x"\n',
    (file) => {
      const { value, sources } = load({ UC_IAM_PEERS: "b,c" }, ["--electionTimeoutMs=70", "--insecure"], file);
      assert.equal(value.electionTimeoutMs, 70);
      assert.deepEqual(value.peers, ["b", "c"]);
      assert.deepEqual(value.voters, { 1: "x" });
      assert.equal(value.insecure, true);
      assert.deepEqual(value.log, { level: "debug", format: "json" });
      assert.equal(sources.electionTimeoutMs, "--electionTimeoutMs");
      assert.equal(sources.peers, "UC_IAM_PEERS");
      assert.equal(sources["log.level"], file);
      assert.equal(sources["log.format"], "default");
      assert.equal(sources["rpc.listen"], "UC_IAM_RPC__LISTEN");
    },
  );
});

Deno.test("loadConfig() answers a frozen value of the base type", () => {
  const { value } = load();
  const base: BaseConfig = value;
  assert.equal(base.instance, "0");
  assert.throws(() => (value.rpc as { listen: string }).listen = "x", TypeError);
});

const refused: [name: string, env: Record<string, string>, args: string[], file: string | undefined, want: RegExp][] = [
  ["an unknown key in the file", {}, [], "electionTimeout = 5", /electionTimeout from .*nearest is electionTimeoutMs$/],
  ["an unknown nested key", {}, [], "[rpc]\nlisten = 'x'\nlistn = 'y'", /rpc\.listn from .*nearest is rpc\.listen$/],
  ["an unknown variable", { UC_IAM_STATEDIRS: "x" }, [], undefined, /UC_IAM_STATEDIRS.*nearest is UC_IAM_STATE_DIR$/],
  ["an unknown flag", {}, ["--rpc.lsten=x"], undefined, /rpc\.lsten from --rpc\.lsten.*nearest is rpc\.listen$/],
  ["a bare argument", {}, ["start"], undefined, /Cannot use argument start/],
  ["a flag without value", {}, ["--stateDir"], undefined, /--stateDir without a value/],
  ["a value out of range", { UC_IAM_ELECTION_TIMEOUT_MS: "5" }, [], undefined, /UC_IAM_ELECTION_TIMEOUT_MS[^]*>=10/],
  ["text where a number goes", { UC_IAM_ELECTION_TIMEOUT_MS: "soon" }, [], undefined, /electionTimeoutMs/],
  ["a missing key", { UC_IAM_RPC__LISTEN: "" }, [], undefined, /rpc\.listen/],
  ["a file that is no TOML", {}, [], "a = = b", /as TOML/],
  ["broken JSON in a variable", { UC_IAM_VOTERS: "{" }, [], undefined, /UC_IAM_VOTERS as JSON/],
  ["a prototype key", {}, ["--__proto__.x=1"], undefined, /no such key/],
];
for (const [name, env, args, text, want] of refused) {
  Deno.test(`loadConfig() refuses ${name}`, async () => {
    const attempt = (file?: string) => {
      assert.throws(() => load(env, args, file), (error: unknown) => {
        assert.ok(error instanceof Fault, String(error));
        assert.equal(error.kind, "invalid_argument");
        assert.match(error.message, want);
        return true;
      });
    };
    if (text === undefined) attempt();
    else await withFile(text, attempt);
  });
}

Deno.test("loadConfig() refuses a file that is not there", () => {
  assert.throws(() => load({}, [], "/nonexistent.toml"), /Cannot read configuration \/nonexistent\.toml/);
});

Deno.test("envNames() lists every variable, so that scoped permissions can read them one by one", () => {
  const names = envNames(schema, "vm-agent");
  assert.ok(names.includes("UC_VM_AGENT_RPC__TLS__CERT_FILE"));
  assert.ok(names.includes("UC_VM_AGENT_ELECTION_TIMEOUT_MS"));
});

Deno.test("describeConfig() shows values with their sources and hides secrets", () => {
  const loaded = { value: { key: new Redacted("hunter2") }, sources: { key: "default" } };
  assert.ok(!describeConfig(loaded).includes("hunter2"));
  assert.match(describeConfig(load()), /"rpc.listen": "UC_IAM_RPC__LISTEN"/);
});

Deno.test("jsonSchemaOf() keeps descriptions and defaults", () => {
  const json = jsonSchemaOf(schema);
  assert.equal(json.properties?.electionTimeoutMs?.default, 1000);
  assert.match(json.properties?.stateDir?.description ?? "", /survive a restart/);
});

Deno.test("readSecret() hides what it read and refuses an empty file", async () => {
  await withFile("hunter2\n", async (path) => {
    const secret = await readSecret(path);
    assert.equal(secret.expose(), "hunter2");
    assert.equal(`${secret}`, "<redacted>");
  });
  await withFile("\n", async (path) => assert.match(String(await readSecret(path).catch((e) => e)), /it is empty/));
});

Deno.test("nearest() finds a word that is there", () => {
  fc.assert(fc.property(fc.uniqueArray(fc.string(), { minLength: 1 }), fc.nat(), (words, i) => {
    const word = words[i % words.length]!;
    assert.equal(nearest(word, words)?.toLowerCase(), word.toLowerCase());
  }));
});
