import assert from "node:assert/strict";
import { Fault, fault, systemClock, systemRng, utf8 } from "@ultracloud/base";
import { Health, noopLogger, Registry } from "@ultracloud/observe";
import {
  type InstallSnapshotRequestSchema,
  MessageKind,
  RaftPeerService,
  type SendRequestSchema,
} from "@ultracloud/proto/raft/v1";
import { configurationOf, encodeConfiguration } from "@ultracloud/raft";
import { createRpcClient, startRpcServer } from "@ultracloud/rpc";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { systemDisk } from "@ultracloud/wal";
import { type GroupStateMachine, openReplicaNode } from "./mod.ts";

type Request = MessageInitShape<typeof InstallSnapshotRequestSchema>;
const peer = "Bearer peer";

/** A single voter with its peer service behind a token, and what must stay as it is. */
async function served(work: (at: { url: string; state: () => unknown }) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  let applied = 0;
  const machine: GroupStateMachine = {
    appliedIndex: () => applied,
    applyBatch: (entries) => entries.map(({ index }) => applied = index),
    skipTo: (index) => void (applied = index),
    checkpoint: () => 0,
    snapshot: () => utf8.encode("s"),
    restore: () => assert.fail("a snapshot was restored"),
  };
  try {
    await using node = openReplicaNode(
      { clusterId: "test", nodeId: 1, dir, tickMs: 10, electionTicks: 20, heartbeatTicks: 2, clientUrls: {} },
      {
        disk: systemDisk,
        clock: systemClock,
        rng: systemRng,
        log: noopLogger,
        registry: new Registry(),
        onFatal: (error) => assert.fail(error),
      },
    );
    const group = await node.openGroup({ group: 1, voters: [1] }, machine);
    const deadline = performance.now() + 5_000;
    while (group.status().role !== "leader" || applied < group.status().lastIndex) {
      assert.ok(performance.now() < deadline, "no leader");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await using server = await startRpcServer(
      { name: "store", version: "0", listen: "127.0.0.1:0", limits: { messageBytesMax: 100_000 } },
      {
        services: [node.peerService],
        authenticator: {
          authenticate: (header) => {
            const token = header.get("authorization");
            if (token === null) return { kind: "anonymous", id: "anonymous" };
            if (token === peer) return { kind: "workload", id: "spiffe://test/svc/store" };
            if (token === "Bearer other") return { kind: "workload", id: "spiffe://test/svc/other" };
            throw fault("unauthenticated", "token_invalid", "Cannot accept the token");
          },
        },
        authorizer: {
          authorize: (principal) =>
            principal.id.endsWith("/store") ? { allow: true } : { allow: false, visible: true, reason: "no grant" },
        },
        registry: new Registry(),
        health: new Health(),
        log: noopLogger,
        clock: systemClock,
        rng: systemRng,
      },
    );
    const state = () => {
      const { role, term, commitIndex, lastIndex, voters } = group.status();
      return { role, term, commitIndex, lastIndex, voters, applied };
    };
    await work({ url: server.url, state });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("bad input to Send is answered with its code and changes nothing", async () => {
  await served(async ({ url, state }) => {
    const before = state();
    const heartbeat = { kind: MessageKind.HEARTBEAT, from: 2n, to: 1n, term: 2n ** 64n - 1n };
    const cases: Readonly<
      Record<string, readonly [MessageInitShape<typeof SendRequestSchema>, string | undefined, string | undefined]>
    > = {
      "no credentials": [{}, undefined, "unauthenticated"],
      "a wrong token": [{}, "Bearer x", "unauthenticated"],
      "another component": [{}, "Bearer other", "permission_denied"],
      "too many bytes": [{ clusterId: "x".repeat(200_000) }, peer, "resource_exhausted"],
      "nothing": [{}, peer, "failed_precondition"],
      "another cluster": [{ clusterId: "other", group: 1n }, peer, "failed_precondition"],
      // Dropped, as the others of the same call go on.
      "an unknown group": [{ clusterId: "test", group: 99n }, peer, undefined],
      "a term beyond 2^53": [{ clusterId: "test", group: 1n, messages: [heartbeat] }, peer, "invalid_argument"],
    };
    for (const [name, [request, token, kind]] of Object.entries(cases)) {
      using client = createRpcClient(RaftPeerService, {
        endpoints: [url],
        ...(token === undefined ? {} : { authorization: () => token }),
        retries: 0,
      });
      const ended = await client.send((async function* () {
        yield request as never;
      })()).then(() => undefined, (error) => error);
      assert.equal(ended instanceof Fault ? ended.kind : ended, kind, name);
    }
    assert.deepEqual(state(), before);
  });
});

Deno.test("bad input to InstallSnapshot is answered with its code and changes nothing", async () => {
  await served(async ({ url, state }) => {
    const before = state();
    const header = {
      clusterId: "test",
      group: 1n,
      from: 2n,
      to: 1n,
      term: 9n,
      index: 50n,
      logTerm: 9n,
      bytesTotal: 1n,
      config: encodeConfiguration(configurationOf([1, 2])),
      sha256: new Uint8Array(32),
    };
    const cases: Readonly<Record<string, readonly [Request, string | undefined, string]>> = {
      "no credentials": [{ header }, undefined, "unauthenticated"],
      "another component": [{ header }, "Bearer other", "permission_denied"],
      "nothing": [{}, peer, "invalid_argument"],
      "another cluster": [{ header: { ...header, clusterId: "other" } }, peer, "failed_precondition"],
      "an unknown group": [{ header: { ...header, group: 99n } }, peer, "unavailable"],
      "another replica": [{ header: { ...header, to: 3n } }, peer, "failed_precondition"],
      "an old term": [{ header: { ...header, term: 0n } }, peer, "failed_precondition"],
      "too large": [{ header: { ...header, bytesTotal: 2n ** 41n } }, peer, "resource_exhausted"],
      "more than it says": [{ header, chunk: new Uint8Array(2) }, peer, "invalid_argument"],
      "a piece beyond its end": [{ header, offset: 1n, chunk: new Uint8Array(1) }, peer, "invalid_argument"],
      "a short digest": [{ header: { ...header, sha256: new Uint8Array(3) } }, peer, "invalid_argument"],
      "a wrong digest": [{ header, chunk: new Uint8Array(1) }, peer, "data_loss"],
      "a wrong configuration": [{ header: { ...header, config: new Uint8Array([9, 9]) } }, peer, "invalid_argument"],
    };
    for (const [name, [request, token, kind]] of Object.entries(cases)) {
      using client = createRpcClient(RaftPeerService, {
        endpoints: [url],
        ...(token === undefined ? {} : { authorization: () => token }),
        retries: 0,
      });
      await assert.rejects(
        client.installSnapshot(request),
        (error) => error instanceof Fault && error.kind === kind,
        name,
      );
    }
    assert.deepEqual(state(), before);
  });
});

Deno.test("bad input to Propose is answered with its code and changes nothing", async () => {
  await served(async ({ url, state }) => {
    const before = state();
    const proposal = { clusterId: "test", group: 1n, data: new Uint8Array(1) };
    const cases = {
      "no credentials": [proposal, undefined, "unauthenticated"],
      "another component": [proposal, "Bearer other", "permission_denied"],
      "another cluster": [{ ...proposal, clusterId: "other" }, peer, "failed_precondition"],
      "an unknown group": [{ ...proposal, group: 99n }, peer, "unavailable"],
      "no data": [{ ...proposal, data: new Uint8Array(0) }, peer, "invalid_argument"],
    } as const;
    for (const [name, [request, token, kind]] of Object.entries(cases)) {
      using client = createRpcClient(RaftPeerService, {
        endpoints: [url],
        ...(token === undefined ? {} : { authorization: () => token }),
        retries: 0,
      });
      await assert.rejects(client.propose(request), (error) => error instanceof Fault && error.kind === kind, name);
    }
    assert.deepEqual(state(), before);
  });
});
