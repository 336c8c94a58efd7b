import assert from "node:assert/strict";
import { Fault } from "@ultracloud/base";
import { ProjectService } from "@ultracloud/proto/iam/v1";
import { VmService } from "@ultracloud/proto/plasmavmc/v1";
import { VpcService } from "@ultracloud/proto/prismnet/v1";
import { createRpcClient } from "@ultracloud/rpc";
import { decodeJwt, decodeProtectedHeader, importJWK, type JWK, SignJWT } from "jose";
import { iamSecrets } from "../harness/keys.ts";
import { waitFor } from "../harness/wait.ts";
import { readinessSays } from "./control_plane_ops_bootstrap.ts";
import { type HeldKey, operatorTls, type ServiceLoad } from "./control_plane_ops_load.ts";
import { type Ops, startIam } from "./control_plane_ops_place.ts";

const phaseMsMax = 180_000;
const overlapMs = 8_000;

interface Phased {
  readonly id: string;
  readonly phase: string;
}

/** "kind/code" of a failed call, or "ok". */
async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof Fault) return `${error.kind}/${error.code}`;
    throw error;
  }
}

/** What each service that lets programs in answers to a token. */
async function askEverywhere(ops: Ops, token: string): Promise<Record<string, string>> {
  const { cluster, project } = ops;
  const authorization = () => `Bearer ${token}`;
  const answers: Record<string, string> = {};
  for (const component of ["iam", "prismnet", "plasmavmc"]) {
    for (const node of cluster.nodesWith(component)) {
      const at = {
        endpoints: [cluster.endpoint(node, component)],
        tls: operatorTls(cluster),
        authorization,
        retries: 0,
      };
      using projects = createRpcClient(ProjectService, at);
      using vpcs = createRpcClient(VpcService, at);
      using vms = createRpcClient(VmService, at);
      answers[`${component} ${node}`] = await codeOf(
        component === "iam"
          ? projects.getProject({ project })
          : component === "prismnet"
          ? vpcs.listVpcs({ project })
          : vms.listVms({ project }),
      );
    }
  }
  return answers;
}

/** Phases as `list` shows them until only the new one is left; each state it went through, with its time. */
export async function followPhases(
  ops: Ops,
  what: string,
  old: string,
  list: () => Promise<readonly Phased[]>,
): Promise<{ readonly atMs: number; readonly phases: Record<string, string> }[]> {
  const begin = performance.now();
  const seen: { atMs: number; phases: Record<string, string> }[] = [];
  await waitFor({ timeoutMs: phaseMsMax, what, everyMs: 500, signal: ops.run.signal }, async () => {
    const phases = Object.fromEntries((await list()).map(({ id, phase }) => [id === old ? "old" : "new", phase]));
    if (JSON.stringify(seen.at(-1)?.phases) !== JSON.stringify(phases)) {
      seen.push({ atMs: Math.round(performance.now() - begin), phases });
    }
    return Object.keys(phases).join() === "new" ? true : undefined;
  });
  assert.deepEqual(seen.map(({ phases }) => phases), [
    { old: "signing", new: "published" },
    { old: "verifying", new: "signing" },
    { new: "signing" },
  ]);
  return seen;
}

export async function signingKey(ops: Ops, load: ServiceLoad): Promise<void> {
  const { cluster, run } = ops;
  const book = ops.runbook("Rotate the signing key");
  await run.check(
    "signing key: published, signing, gone; what the old one signed is refused by every service",
    async () => {
      const list = async () => await book.json<readonly Phased[]>("uc iam keys list");
      const old = (await list()).find(({ phase }) => phase === "signing")!.id;
      const sign = await signerOfSeed(ops, old, await load.token());
      if (sign === undefined) {
        run.skip(
          "a new token under the old key",
          "its file seeded the keyring of another rotation",
        );
      }
      // The token is as good as any until its key is old; its own end is an hour away.
      const forged = await sign?.();
      if (forged !== undefined) {
        assert.deepEqual([...new Set(Object.values(await askEverywhere(ops, forged)))], ["ok"]);
      }
      const renewedBefore = load.kids.size;
      await book.run("uc iam keys rotate");
      const seen = await followPhases(ops, "the old key to leave", old, list);
      await run.evidence("signing-key-phases.json", seen);
      const jwks = `${cluster.endpoint(ops.iamNodes[0]!, "iam")}/oauth2/jwks`;
      await waitFor({ timeoutMs: 30_000, what: "a key set without the old key", signal: run.signal }, async () => {
        const { keys } = await (await fetch(jwks, { client: cluster.clients.http })).json() as {
          keys: { kid: string }[];
        };
        return keys.some(({ kid }) => kid === old) ? undefined : true;
      });
      await waitFor({ timeoutMs: 60_000, what: "a token under the new key", signal: run.signal }, async () => {
        await load.token();
        return load.kids.size > renewedBefore || undefined;
      });
      if (forged !== undefined) {
        const since = performance.now();
        const answers = await waitFor({ timeoutMs: 30_000, what: "refusals", signal: run.signal }, async () => {
          const answers = await askEverywhere(ops, forged);
          const wrong = Object.entries(answers).filter(([, code]) => code !== "unauthenticated/key_unknown");
          if (wrong.length > 0) throw new Error(JSON.stringify(Object.fromEntries(wrong)));
          return answers;
        });
        book.note(
          `refused ${Math.round(performance.now() - since)} ms after the key had left: ${JSON.stringify(answers)}`,
        );
      }
      book.done();
      await run.evidence("iam-key-rotation-tests.log", book.log);
      assert.deepEqual(load.failures, []);
      return `${
        seen.map(({ atMs, phases }) => `${atMs} ms ${JSON.stringify(phases)}`).join(", ")
      }; ${load.total} calls, 0 failed`;
    },
  );
}

/** Signs as iam did with the key that was there from the start; undefined when that is not the one that signs now. */
async function signerOfSeed(ops: Ops, kid: string, good: string): Promise<(() => Promise<string>) | undefined> {
  const file = `${ops.cluster.substrate.etcDir(ops.iamNodes[0]!)}/iam/${iamSecrets.signingKeyFile}`;
  const jwk = JSON.parse(await Deno.readTextFile(file)) as JWK;
  const key = await importJWK(jwk, "EdDSA");
  const header = decodeProtectedHeader(good);
  if (header.kid !== kid) return undefined;
  const sign = () =>
    new SignJWT({ ...decodeJwt(good), exp: Math.floor(Date.now() / 1_000) + 3_600 })
      .setProtectedHeader({ ...header, alg: "EdDSA" }).sign(key);
  const answers = await askEverywhere(ops, await sign());
  return Object.values(answers).every((code) => code === "ok") ? sign : undefined;
}

export async function credential(ops: Ops, load: ServiceLoad, old: HeldKey): Promise<void> {
  const { run } = ops;
  const book = ops.runbook("Rotate an API key");
  const values = { ACCOUNT: ops.account };
  await run.check("credential: both keys work while they overlap, then the old one is refused", async () => {
    const listed = await book.json<{ id: string }[]>("uc service-account key list ACCOUNT", values);
    assert.ok(listed.some(({ id }) => id === old.id));
    const begin = performance.now();
    const fresh = await book.json<HeldKey>("uc service-account key rotate ACCOUNT KEY_ID --overlap OVERLAP", {
      ...values,
      KEY_ID: old.id,
      OVERLAP: `${overlapMs}ms`,
    });
    assert.equal(await codeOf(load.exchange(old)), "ok");
    load.useKey(fresh);
    await load.token();
    await waitFor({ timeoutMs: 60_000, what: "the end of the overlap", everyMs: 100, signal: run.signal }, async () => {
      const code = await codeOf(load.exchange(old));
      assert.ok(code === "ok" || code === "unauthenticated/api_key_refused", code);
      return code === "ok" ? undefined : true;
    });
    const endedMs = Math.round(performance.now() - begin);
    assert.equal(await codeOf(load.exchange(fresh)), "ok");
    book.note(`the old key was refused ${endedMs} ms after the rotation, its overlap was ${overlapMs} ms`);
    const made = await book.json<HeldKey>("uc iam access-key create ACCOUNT", values);
    const held = await book.json<{ id: string }[]>("uc iam access-key list ACCOUNT", values);
    assert.deepEqual(held.map(({ id }) => id), [made.id]);
    await book.run("uc iam access-key delete ACCOUNT ACCESS_KEY_ID", { ...values, ACCESS_KEY_ID: made.id }, ["--yes"]);
    assert.deepEqual(await book.json("uc iam access-key list ACCOUNT", values), []);
    book.done();
    await run.evidence("iam-credential-rotation-tests.log", book.log);
    assert.deepEqual(load.failures, []);
    return `refused after ${endedMs} ms (overlap ${overlapMs} ms); ${load.total} calls, 0 failed`;
  });
}

interface MasterKeyStatus {
  readonly current: string;
  readonly next: string;
  readonly sealed: Readonly<Record<string, string>>;
}

const nextFile = "master.next.key";

export async function masterKey(ops: Ops, load: ServiceLoad): Promise<void> {
  const { cluster, run } = ops;
  const book = ops.runbook("Change the master key");
  await run.check(
    "master key: everything is sealed anew while all goes on; refused while a replica lacks it",
    async () => {
      await book.run("umask 077");
      await book.run(`openssl rand -hex 32 > ${nextFile}`);
      const text = await Deno.readTextFile(`${ops.dir}/${nextFile}`);
      const [first, ...others] = ops.iamNodes as [string, ...string[]];
      const put = async (node: string) => {
        // Its default place: the state directory.
        const path = `${cluster.substrate.dirs(node).state}/iam/${nextFile}`;
        await Deno.writeTextFile(path, text, { mode: 0o600 });
      };
      const status = async () => await book.json<MasterKeyStatus>("uc iam master-key status");
      const before = await status();
      await put(first);
      await waitFor(
        { timeoutMs: 60_000, what: "the next key", everyMs: 500, signal: run.signal },
        async () => (await status()).next !== "" || undefined,
      );
      let refused = "";
      if (others.length > 0) {
        await assert.rejects(book.run("uc iam master-key reseal"), (error: Error) => {
          refused = error.message;
          return /lacks it: wanted it on every replica/.test(error.message);
        });
      }
      for (const node of others) {
        await put(node);
      }
      const after = await waitFor(
        { timeoutMs: 60_000, what: "the new seals", everyMs: 1_000, signal: run.signal },
        () => book.json<MasterKeyStatus>("uc iam master-key reseal"),
      );
      const sealed = await waitFor({ timeoutMs: 60_000, what: "no row under the old key", everyMs: 500 }, async () => {
        const { sealed } = await status();
        return Object.keys(sealed).join() === after.current ? sealed : undefined;
      });
      assert.notEqual(after.current, before.current);
      book.done();
      await run.evidence("iam-master-key-tests.log", book.log);
      assert.deepEqual(load.failures, []);
      return `${JSON.stringify(before.sealed)} became ${JSON.stringify(sealed)}; ${
        refused === "" ? "one replica" : "refused before every replica had it"
      }; ${load.total} calls, 0 failed`;
    },
  );
}

/** At leisure: the new key becomes the configured one. The load is over, as replicas are restarted. */
export async function replaceMasterKey(ops: Ops): Promise<void> {
  const { cluster, run } = ops;
  await run.check("the old master key alone opens nothing; with the new one configured iam is ready", async () => {
    const text = await Deno.readTextFile(`${ops.dir}/${nextFile}`);
    const node = ops.iamNodes.at(-1)!;
    await cluster.stop(node, "iam");
    await Deno.remove(`${cluster.substrate.dirs(node).state}/iam/${nextFile}`);
    await cluster.configure(node, "iam", ops.iamChanges);
    await cluster.start(node, "iam");
    const said = await readinessSays(ops, node, /master key/);
    for (const each of ops.iamNodes) {
      await ops.writeSecret(each, "iam", iamSecrets.masterKeyFile, text);
      await startIam(ops, each, {});
      await Deno.remove(`${cluster.substrate.dirs(each).state}/iam/${nextFile}`).catch(() => {});
    }
    return `with the old key: ${said.slice(0, 160)}`;
  });
}
