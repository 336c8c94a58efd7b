import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { createWorkloadSigner, svcId } from "@ultracloud/authz";
import { systemClock } from "@ultracloud/base";
import type { TlsFiles } from "@ultracloud/config";
import { Keeper } from "@ultracloud/mtls-agent";
import { Health as HealthParts, noopLogger } from "@ultracloud/observe";
import { Health } from "@ultracloud/proto/grpc/health/v1";
import { CertificateService } from "@ultracloud/proto/iam/v1";
import { createRpcClient, type RpcClient } from "@ultracloud/rpc";
import { operatorDir, operatorName } from "../harness/keys.ts";
import { waitFor } from "../harness/wait.ts";
import { followPhases } from "./control_plane_ops_keys.ts";
import { everyProcess, operatorTls, type ServiceLoad } from "./control_plane_ops_load.ts";
import type { Ops } from "./control_plane_ops_place.ts";

const pollMs = 500;
const section = "Rotate the certificate authority";
const authoritiesFile = "tls-ca.crt";
/** Listeners look at their files every two seconds; a loaded machine is given more before it counts as broken. */
const closedMsMax = 20_000;
/** Certificates that are good for the rest of a day again. */
const longLifeMs = 3_600_000;

interface Place {
  readonly node: string;
  readonly component: string;
}

const name = ({ node, component }: Place) => `${component} ${node}`;

/** mtls-agent on every node. */
export async function startAgents(ops: Ops): Promise<void> {
  const { cluster, run } = ops;
  const book = ops.runbook(section);
  await run.check(
    "mtls-agent keeps the certificates of every node, of the authority the cluster was made with",
    async () => {
      const { clusterId } = cluster.file;
      for (const node of ops.agentNodes) {
        const { components, standby, address } = cluster.file.nodes[node]!;
        for (const component of [...components, ...standby]) {
          const values = { SPIFFE_ID: `${svcId(clusterId, component)}/${node}`, ADDRESS: address };
          await book.run("uc iam ca names SPIFFE_ID --name ADDRESS", values);
        }
        const standingCaFile = `${cluster.substrate.dirs(node).etc}/mtls-agent/standing-ca.crt`;
        await cluster.configure(node, "mtls-agent", { pollMs, standingCaFile });
        await cluster.stop(node, "mtls-agent");
        await cluster.start(node, "mtls-agent");
      }
      for (const node of ops.agentNodes) await cluster.waitReady(node, "mtls-agent", run.signal);
      await run.evidence("iam-mtls-names.log", book.log);
      return `${ops.agentNodes.length} agents`;
    },
  );
}

/** Keeps the operator's own certificate until disposed, as an agent beside the operator would. */
export async function keepOperator(ops: Ops): Promise<AsyncDisposable> {
  const { cluster } = ops;
  const { clusterId } = cluster.file;
  const dir = operatorDir(cluster.home.stateDir);
  const signer = await createWorkloadSigner({ clusterId, name: operatorName, keyFile: `${dir}/identity.key` }, {
    clock: systemClock,
  });
  const client = createRpcClient(CertificateService, {
    endpoints: ops.iamNodes.map((node) => cluster.endpoint(node, "iam")),
    tls: operatorTls(cluster),
    authorization: signer.authorization("iam"),
  });
  const keeper = new Keeper({ pollMs, standingCaFile: `${ops.dir}/standing-ca.crt` }, {
    // Asked anew each time, as the cluster's clients are made anew when certificates have changed.
    authorities: new Proxy({} as RpcClient<typeof CertificateService>, {
      get: (_, method) => Reflect.get(cluster.clients.of(CertificateService, "iam"), method),
    }),
    kept: [{ spiffeId: svcId(clusterId, operatorName), client, dir, authoritiesFile, names: [] }],
    clock: systemClock,
    log: noopLogger,
    health: new HealthParts(),
  });
  const stop = new AbortController();
  const running = keeper.run(stop.signal);
  return {
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
      client[Symbol.dispose]();
    },
  };
}

/** Certificate and authorities on disk of each component that runs. */
async function certificates(ops: Ops): Promise<Record<string, { issuer: string; endMs: number; authorities: number }>> {
  const found: Record<string, { issuer: string; endMs: number; authorities: number }> = {};
  const { cluster } = ops;
  const read = async (what: string, dir: string, node?: string) => {
    const text = (file: string) =>
      node === undefined ? Deno.readTextFile(`${dir}/${file}`) : cluster.substrate.readFile(node, `${dir}/${file}`);
    const certificate = new X509Certificate(await text("tls.crt"));
    const authorities = (await text(authoritiesFile)).split("BEGIN CERTIFICATE").length - 1;
    found[what] = { issuer: certificate.issuer, endMs: new Date(certificate.validTo).getTime(), authorities };
  };
  for (const place of everyProcess(cluster, ops.agentNodes)) {
    await read(name(place), `${cluster.substrate.dirs(place.node).etc}/${place.component}`, place.node);
  }
  await read(operatorName, operatorDir(cluster.home.stateDir));
  return found;
}

/** Copies of the operator's files as they are now: what somebody has who stopped renewing. */
async function copyOfTls(ops: Ops, to: string): Promise<TlsFiles> {
  const dir = `${ops.dir}/${to}`;
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const files = operatorTls(ops.cluster);
  const copy = { certFile: `${dir}/tls.crt`, keyFile: `${dir}/tls.key`, caFile: `${dir}/ca.crt` };
  for (const part of ["certFile", "keyFile", "caFile"] as const) await Deno.copyFile(files[part], copy[part]);
  return copy;
}

/** A connection to each process that stays open, and when each ended. */
class OpenConnections implements AsyncDisposable {
  readonly ended = new Map<string, number>();
  readonly #stack = new DisposableStack();
  readonly #over = new AbortController();
  readonly #reading: Promise<void>[] = [];

  static async open(ops: Ops, tls: TlsFiles): Promise<OpenConnections> {
    const all = new OpenConnections();
    const places = everyProcess(ops.cluster, ops.agentNodes);
    await Promise.all(
      places.map((place) => all.#open(name(place), ops.cluster.endpoint(place.node, place.component), tls)),
    );
    return all;
  }

  async #open(what: string, endpoint: string, tls: TlsFiles): Promise<void> {
    const client = this.#stack.use(createRpcClient(Health, { endpoints: [endpoint], tls, retries: 0 }));
    const answered = Promise.withResolvers<void>();
    this.#reading.push((async () => {
      try {
        for await (const _ of client.watch({}, { signal: this.#over.signal })) answered.resolve();
      } catch (error) {
        answered.reject(error);
      }
      if (!this.#over.signal.aborted) this.ended.set(what, Date.now());
    })());
    await answered.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    await Promise.all(this.#reading);
    this.#stack.dispose();
  }
}

/** What each process answers to a new connection with these files: "ok" or why not. */
async function knock(ops: Ops, tls: TlsFiles): Promise<Record<string, string>> {
  const answers: Record<string, string> = {};
  for (const place of everyProcess(ops.cluster, ops.agentNodes)) {
    const endpoint = ops.cluster.endpoint(place.node, place.component);
    using client = createRpcClient(Health, { endpoints: [endpoint], tls, retries: 0, timeoutMs: 30_000 });
    answers[name(place)] = await client.check({}).then(() => "ok", (error) => `${error.kind}/${error.code}`);
  }
  return answers;
}

const shared = (answers: Readonly<Record<string, unknown>>) => [...new Set(Object.values(answers))];

/** Waits for the end of every connection; none may have ended before `fromMs`, when its authority did. */
async function waitClosed(ops: Ops, open: OpenConnections, fromMs: number): Promise<string> {
  const count = everyProcess(ops.cluster, ops.agentNodes).length;
  await waitFor(
    { timeoutMs: closedMsMax, what: "the end of every open connection", everyMs: 50, signal: ops.run.signal },
    () => Promise.resolve(open.ended.size === count || undefined),
  );
  const afterMs = [...open.ended.values()].map((endedMs) => endedMs - fromMs).sort((x, y) => x - y);
  assert.ok(afterMs[0]! >= 0, `a connection ended ${-afterMs[0]!} ms before its authority did`);
  return `${count} open connections were closed ${afterMs[0]} to ${afterMs.at(-1)} ms after its end`;
}

interface ListedAuthority {
  readonly id: string;
  readonly phase: string;
  readonly retireTime?: string;
}

export async function authority(ops: Ops, load: ServiceLoad): Promise<void> {
  const { run } = ops;
  const book = ops.runbook(section);
  await run.check("authority: published, signing, gone; every certificate is replaced under mutual TLS", async () => {
    const list = async () => await book.json<readonly ListedAuthority[]>("uc iam ca list");
    // The lane has set them before.
    await book.run("uc iam ca names SPIFFE_ID --name ADDRESS", {
      SPIFFE_ID: svcId(ops.cluster.file.clusterId, operatorName),
      ADDRESS: ops.cluster.file.network.operatorAddress,
    });
    const old = (await list()).find(({ phase }) => phase === "signing")!.id;
    const before = await certificates(ops);
    const oldTls = await copyOfTls(ops, "old-authority");
    assert.deepEqual(shared(await knock(ops, oldTls)), ["ok"]);
    await using open = await OpenConnections.open(ops, oldTls);
    await book.run("uc iam ca rotate");
    let retireMs = Infinity;
    const seen = await followPhases(ops, "the old authority to leave", old, async () => {
      const listed = await list();
      const retireTime = listed.find(({ id }) => id === old)?.retireTime;
      if (retireTime !== undefined) retireMs = Date.parse(retireTime);
      return listed;
    });
    await waitFor(
      { timeoutMs: 60_000, what: "every bundle without it", everyMs: 200, signal: run.signal },
      async () => Object.values(await certificates(ops)).every(({ authorities }) => authorities === 1) || undefined,
    );
    const closed = await waitClosed(ops, open, retireMs);
    const after = await certificates(ops);
    for (const [what, { issuer }] of Object.entries(after)) assert.notEqual(issuer, before[what]!.issuer, what);
    const refused = await waitFor({ timeoutMs: closedMsMax, what: "refusals", everyMs: 500 }, async () => {
      const answers = await knock(ops, { ...oldTls, caFile: operatorTls(ops.cluster).caFile });
      if (Object.values(answers).includes("ok")) throw new Error(JSON.stringify(answers));
      return answers;
    });
    assert.deepEqual(shared(await knock(ops, operatorTls(ops.cluster))), ["ok"]);
    book.note(closed);
    book.note(`a certificate of the old authority: ${JSON.stringify(refused)}`);
    book.done();
    await run.evidence("authority-phases.json", seen);
    await run.evidence("certificates.json", { before, after });
    await run.evidence("iam-mtls-rotation-tests.log", book.log);
    assert.deepEqual(load.failures, []);
    const phases = seen.map(({ atMs, phases }) => `${atMs} ms ${JSON.stringify(phases)}`).join(", ");
    return `${Object.keys(after).length} certificates; ${phases}; ${closed}; ${load.total} calls, 0 failed`;
  });
}

/** The way back in when no certificate is good any more: an authority by hand beside iam's, for a while. */
export async function byHand(ops: Ops, load: ServiceLoad): Promise<void> {
  const { cluster, run } = ops;
  const book = ops.runbook("Make the first authority");
  const [req, csr, sign] = commandsOf(book.commands);
  await run.check(
    "an authority made by hand is trusted by stores, iam and agents while its file is there",
    async () => {
      const { clusterId } = cluster.file;
      await book.run(req, { CLUSTER: clusterId });
      await book.run(csr, {
        NAME: operatorName,
        SPIFFE_ID: svcId(clusterId, operatorName),
        ADDRESS: cluster.file.network.operatorAddress,
      });
      await book.run(sign);
      const byHand = await Deno.readTextFile(`${ops.dir}/authority.crt`);
      const tls = {
        certFile: `${ops.dir}/tls.crt`,
        keyFile: `${ops.dir}/tls.key`,
        caFile: operatorTls(cluster).caFile,
      };
      const refused = shared(await knock(ops, tls));
      assert.ok(!refused.includes("ok"), refused.join());
      const each = async (work: (path: string) => Promise<void>) => {
        for (const node of ops.agentNodes) await work(`${cluster.substrate.etcDir(node)}/mtls-agent/standing-ca.crt`);
        await work(`${ops.dir}/standing-ca.crt`);
      };
      await each((path) => Deno.writeTextFile(path, byHand));
      const waitKnock = async (ok: boolean) =>
        await waitFor(
          { timeoutMs: 60_000, what: ok ? "trust" : "its end", everyMs: 500, signal: run.signal },
          async () => {
            const answers = await knock(ops, tls);
            const wrong = Object.entries(answers).filter(([, answer]) => (answer === "ok") !== ok);
            if (wrong.length > 0) throw new Error(JSON.stringify(Object.fromEntries(wrong)));
            return answers;
          },
        );
      await waitKnock(true);
      await using open = await OpenConnections.open(ops, tls);
      const removedMs = Date.now();
      await each((path) => Deno.remove(path));
      const answers = await waitKnock(false);
      const closed = await waitClosed(ops, open, removedMs);
      book.note(`trusted while the file was there; then: ${JSON.stringify(answers)}; ${closed}`);
      book.done();
      await run.evidence("iam-mtls-by-hand-tests.log", book.log);
      assert.deepEqual(load.failures, []);
      return `${Object.keys(answers).length} processes; ${closed}; ${load.total} calls, 0 failed`;
    },
  );
}

/** The three commands of the section, in its order. */
function commandsOf(commands: readonly string[]): [string, string, string] {
  assert.equal(commands.length, 3, "the section has changed");
  return commands as [string, string, string];
}

/** With iam's own settings again: certificates live for a day, and the agents look as often as they are meant to. */
export async function settle(ops: Ops): Promise<void> {
  const { cluster, run } = ops;
  await run.check("the cluster is left with long-lived certificates of the new authority", async () => {
    await waitFor(
      { timeoutMs: 180_000, what: "long-lived certificates", everyMs: 1_000, signal: run.signal },
      async () => {
        const short = Object.entries(await certificates(ops)).filter(([, { endMs }]) =>
          endMs < Date.now() + longLifeMs
        );
        if (short.length > 0) throw new Error(short.map(([what]) => what).join(", "));
        return true;
      },
    );
    ops.renewClients();
    for (const node of ops.agentNodes) {
      await cluster.stop(node, "mtls-agent");
      await cluster.configure(node, "mtls-agent");
      await cluster.start(node, "mtls-agent");
      await cluster.waitReady(node, "mtls-agent", run.signal);
    }
    return `${everyProcess(cluster, ops.agentNodes).length} processes and the operator`;
  });
}
