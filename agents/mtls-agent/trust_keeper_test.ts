import assert from "node:assert/strict";
import {
  createWorkloadSigner,
  generateIdentity,
  loadTrust,
  nodeSvcId,
  signTrust,
  svcId,
  type TrustFile,
} from "@ultracloud/authz";
import { type Clock, seededRng, systemClock } from "@ultracloud/base";
import { Health, noopLogger } from "@ultracloud/observe";
import { TrustKeeper } from "./trust_keeper.ts";

/** The file in force is looked at again after half a second: a test puts that forward. */
let aheadMs = 0;
const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + aheadMs };

Deno.test("the trust file is renewed whole by the deployer's document, and by nobody else's", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const trustFile = `${dir}/trust.json`;
    const signerOf = async (name: string) => {
      const { publicKey, privateKey } = await generateIdentity();
      const keyFile = `${dir}/${crypto.randomUUID()}.key`;
      await Deno.writeTextFile(keyFile, JSON.stringify(privateKey));
      return { publicKey, signer: await createWorkloadSigner({ clusterId: "test", name, keyFile }, { clock }) };
    };
    const [deployer, other] = [await signerOf("deployer"), await signerOf("deployer")];
    const base: TrustFile = {
      clusterId: "test",
      principals: { [svcId("test", "deployer")]: { publicKey: deployer.publicKey, grants: [] } },
    };
    await Deno.writeTextFile(trustFile, JSON.stringify(base), { mode: 0o640 });
    const trust = await loadTrust(trustFile, { clock });
    const id = nodeSvcId("test", "node-agent", "node07");
    const withNode = (revision: number): TrustFile => ({
      ...base,
      revision,
      principals: { ...base.principals, [id]: { publicKey: other.publicKey, grants: [], node: "node07" } },
    });
    let answer = { version: "1", document: await signTrust(withNode(7), other.signer) };
    const asked: string[] = [];
    const client = {
      getTrust: ({ knownVersion }: { knownVersion: string }) => {
        asked.push(knownVersion);
        return Promise.resolve(answer);
      },
    };
    const deps = { client: client as never, trust, clock, rng: seededRng(1), log: noopLogger, health: new Health() };
    const keeper = new TrustKeeper({ trustFile }, deps);
    const { signal } = new AbortController();
    const held = async () => JSON.parse(await Deno.readTextFile(trustFile)) as TrustFile;

    await assert.rejects(keeper.round(0, signal), { code: "trust_untrusted" });
    assert.deepEqual(await held(), base);
    answer = { version: "2", document: await signTrust(withNode(7), deployer.signer) };
    await keeper.round(0, signal);
    assert.deepEqual(await held(), withNode(7));
    assert.equal((await Deno.stat(trustFile)).mode! & 0o777, 0o640);
    // The same again is not written again; an older one is refused.
    const { ino } = await Deno.stat(trustFile);
    aheadMs += 1_000;
    answer = { version: "3", document: await signTrust(withNode(7), deployer.signer) };
    await keeper.round(0, signal);
    assert.equal((await Deno.stat(trustFile)).ino, ino);
    answer = { version: "4", document: await signTrust(withNode(6), deployer.signer) };
    await assert.rejects(keeper.round(0, signal), { code: "trust_untrusted", message: /its revision is 6/ });
    assert.deepEqual(await held(), withNode(7));
    assert.deepEqual(asked, ["", "", "2", "3"]);
    assert.deepEqual([...Deno.readDirSync(dir)].filter(({ name }) => name.endsWith(".new")), []);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
